"""
Parts of the battles on which a judge may be better or worse: language, turns, length, source.

Small parts are put together as "other", so that no row is left out and no interval is a joke.
"""

from collections import Counter

import numpy as np
import pyarrow as pa

from sft_judge.evaluate.align import column

MIN_ROWS = 20


def text_lengths(battles: pa.Table, name: str) -> np.ndarray:
    """Characters [N] over all turns of one text field."""
    return np.array([sum(len(turn or "") for turn in turns or ()) for turns in battles[name].to_pylist()])


def slices(battles: pa.Table) -> dict[str, dict[str, np.ndarray]]:
    """`{dimension: {name: mask [N]}}`; a dimension of one part says nothing and is left out."""
    lengths = sum(text_lengths(battles, name) for name in ("prompt", "response_a", "response_b"))
    turns = [min(len(turns or ()), 3) for turns in battles["prompt"].to_pylist()]
    labels = {
        "language": [value or "unknown" for value in column(battles, "language")],
        "turns": [f"{count} or more" if count == 3 else str(count) for count in turns],
        "characters": length_labels(lengths),
        "source": [value or "unknown" for value in column(battles, "source")],
    }
    parts = {dimension: _masks(values) for dimension, values in labels.items()}
    return {dimension: masks for dimension, masks in parts.items() if len(masks) > 1}


def length_labels(lengths: np.ndarray, num: int = 4) -> list[str]:
    """The bucket of each length [N], `num` of about equal size, named by what they hold."""
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, num + 1)[1:-1]).astype(int))
    bucket = np.searchsorted(edges, lengths, side="left")
    lows, highs = [0, *(edges + 1)], [*edges, None]
    names = [
        f"{low} to {high}" if high is not None else f"{low} and more" for low, high in zip(lows, highs, strict=True)
    ]
    return [names[index] for index in bucket]


def _masks(values: list[str]) -> dict[str, np.ndarray]:
    counts = Counter(values)
    small = {name for name, count in counts.items() if count < MIN_ROWS} if len(counts) > 1 else set()
    other = f"other ({len(small)})"
    values = np.array([other if value in small else value for value in values], dtype=object)
    counts = Counter(values)
    ordered = sorted(counts, key=lambda name: (name == other, _natural(name)))
    return {name: values == name for name in ordered}


def _natural(name: str) -> tuple:
    first = name.split()[0] if name.split() else ""
    return (0, int(first), name) if first.isdecimal() else (1, 0, name)
