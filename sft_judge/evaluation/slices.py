"""
Slices of the battles on which a judge may be better or worse: language, turns, lengths, source, models, category.

Small parts of a dimension are merged into "other": no row is left out, and the other parts are large enough for an
interval. A part's log loss is compared to that of all other rows, with a correction for the number of parts.
"""

from collections import Counter

import numpy as np
import pyarrow as pa
from scipy.stats import false_discovery_control, norm

from sft_judge.data.battles import FIELDS
from sft_judge.data.injection import find_injected_rows
from sft_judge.data.style import text_lengths
from sft_judge.evaluation.align import column
from sft_judge.evaluation.bootstrap import Draws, interval, p_value, share

MIN_ROWS = 20
MAX_PARTS = 25  # per dimension; rarer values are merged into "other" too
DISCOVERY_RATE = 0.05
_COLUMN = "slice {} {}"


def slices(battles: pa.Table) -> dict[str, dict[str, np.ndarray]]:
    """Return the slices, `{dimension: {name: mask [N]}}`, without dimensions that have a single part."""
    a, b = (text_lengths(battles, name) for name in ("response_a", "response_b"))
    turns = [min(len(turns or ()), 3) for turns in battles["prompt"].to_pylist()]
    labels = {
        "language": [value or "unknown" for value in column(battles, "language")],
        "turns": [f"{count} or more" if count == 3 else str(count) for count in turns],
        "characters": bucket_labels(a + b + text_lengths(battles, "prompt")),
        "difference in length": bucket_labels(np.round(100 * np.abs(a - b) / np.maximum(a + b, 1)).astype(int), " %"),
        "source": [value or "unknown" for value in column(battles, "source")],
        "category": [value or "unknown" for value in column(battles, "category")],
        "kind of tie": _tie_kinds(battles),
        "text like control tokens": _injection_masks(battles),
    }
    labels = _own_labels(battles) | labels
    parts = {dimension: _masks(values) for dimension, values in labels.items()}
    parts["model"] = _model_masks(column(battles, "model_a"), column(battles, "model_b"))
    return {dimension: masks for dimension, masks in parts.items() if len(masks) > 1}


def _own_labels(battles: pa.Table) -> dict[str, list[str]]:
    """Return the slices that a column map named on import, `{name: value of each battle [N]}`."""
    labels: dict[str, list[str]] = {}
    for row, texts in enumerate(column(battles, "slices")):
        for name, _, value in (text.partition(": ") for text in texts or ()):
            labels.setdefault(name, ["unknown"] * battles.num_rows)[row] = value
    return labels


def _tie_kinds(battles: pa.Table) -> list[str]:
    """
    Label ties as both bad, both good or another tie if people distinguished them; all other battles are one part.
    """
    pairs = zip(column(battles, "tie_kind"), column(battles, "verdict"), strict=True)
    kinds = [kind or ("another tie" if verdict == "tie" else "no tie") for kind, verdict in pairs]
    return kinds if any(column(battles, "tie_kind")) else ["no tie"] * len(kinds)


def bucket_labels(values: np.ndarray, unit: str = "", num: int = 4) -> list[str]:
    """
    Return the bucket of each integer `[N]`, named by its range; buckets have about equal size.

    Args:
        values: integers `[N]`.
        unit: unit appended to the names.
        num: number of buckets.
    """
    edges = np.unique(np.quantile(values, np.linspace(0, 1, num + 1)[1:-1]).astype(int))
    bucket = np.searchsorted(edges, values, side="left")
    lows, highs = [0, *(edges + 1)], [*edges, None]
    names = [
        f"{low} to {high}{unit}" if high is not None else f"{low}{unit} and more"
        for low, high in zip(lows, highs, strict=True)
    ]
    return [names[index] for index in bucket]


def slice_columns(
    masks: dict[str, dict[str, np.ndarray]], losses: np.ndarray, hits: np.ndarray
) -> dict[str, np.ndarray]:
    """
    Compute the columns that `slice_figures` reads: rows, log loss and correctness in each part.

    Args:
        masks: the slices, `{dimension: {name: mask [N]}}`.
        losses: log losses `[N]`.
        hits: correctness of the verdicts `[N]`.
    """
    parts = np.stack([np.ones(len(losses)), losses, hits], axis=1)
    return {
        _COLUMN.format(dimension, name): parts * mask[:, None]
        for dimension, named in masks.items()
        for name, mask in named.items()
    }


def slice_figures(
    draws: Draws, masks: dict[str, dict[str, np.ndarray]], losses: np.ndarray, clusters: np.ndarray
) -> dict:
    """
    Compute the figures of each part of each dimension.

    `differs` is tested at a false discovery rate of 5 % over all parts of all dimensions (Benjamini and Hochberg
    1995). It uses the larger of two p-values: from the part's own draws, and from the spread of all rows. In twenty
    skewed losses the mean and its standard error tend to be small together, so the first p-value alone reports
    a false difference in most reports.

    Args:
        draws: resampled columns, including `slice_columns`.
        masks: the slices, `{dimension: {name: mask [N]}}`.
        losses: log losses `[N]`.
        clusters: prompt of each row `[N]`.

    Returns:
        `{dimension: {part: {"n", "log_loss", "accuracy", "against_rest", "differs"}}}`. `against_rest` is the part's
        log loss minus that of all other rows; `differs` is True if the difference is significant.
    """
    metrics, tests, spread = {}, [], _spread(losses, clusters)
    for dimension, named in masks.items():
        metrics[dimension] = {}
        for name, mask in named.items():
            column_name = _COLUMN.format(dimension, name)
            part, rows = draws[column_name], draws.of_prompts[column_name][:, 0]
            rest = np.stack([draws["n"], draws["log_loss"]], axis=-1) - part[:, :2]
            with np.errstate(invalid="ignore", divide="ignore"):
                loss = part[:, 1] / part[:, 0]
                difference = loss - rest[:, 1] / rest[:, 0]
            figures = {
                "n": int(part[0, 0]),
                "log_loss": interval(loss, rows),
                "accuracy": share(draws, column_name, 2, 0),
            }
            figures |= {"against_rest": interval(difference, rows), "differs": False}
            metrics[dimension][name] = figures
            own = p_value(difference, rows)
            tests.append((figures, None if own is None else max(own, _p_if_alike(losses, mask, clusters, *spread))))
    tested = [(figures, p) for figures, p in tests if p is not None]
    adjusted = false_discovery_control([p for _, p in tested]) if tested else []
    for (figures, _), p in zip(tested, adjusted, strict=True):
        figures["differs"] = bool(p < DISCOVERY_RATE)
    return metrics


def _spread(losses: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """Compute the variance of the losses `[N]` and their correlation within a cluster, clipped to 0 to 1."""
    apart = losses - losses.mean()
    variance, sizes = (apart**2).mean(), np.bincount(clusters)
    pairs = (sizes**2).sum() - len(losses)  # pairs of different rows in one cluster
    together = (np.bincount(clusters, apart) ** 2).sum() - (apart**2).sum()
    return float(variance), float(np.clip(together / (pairs * variance), 0, 1)) if pairs and variance else 0.0


def _p_if_alike(losses, mask, clusters, variance: float, correlation: float) -> float:
    """
    Compute the two-sided p-value of the mean loss in `mask` `[N]` against the rest, from one variance and correlation.
    """
    weights = mask / mask.sum() - ~mask / (~mask).sum()  # weights @ losses is the difference of means
    within = (np.bincount(clusters, weights) ** 2).sum()
    error = np.sqrt(variance * ((1 - correlation) * (weights**2).sum() + correlation * within))
    difference = abs(weights @ losses)
    return float(2 * norm.sf(difference / error)) if error > 0 else float(difference == 0)


def _injection_masks(battles: pa.Table) -> list[str]:
    """Label battles with text that could be taken for a control token, a prompt tag or an instruction to the judge."""
    has_injection = np.zeros(battles.num_rows, dtype=bool)
    for name in FIELDS:
        for rows in find_injected_rows(battles, name).values():
            has_injection[rows] = True
    return ["present" if there else "none" for there in has_injection]


def _masks(values: list[str]) -> dict[str, np.ndarray]:
    counts = Counter(values)
    common = {name for name, count in counts.most_common(MAX_PARTS) if count >= MIN_ROWS or len(counts) == 1}
    other = f"other ({len(counts) - len(common)})"
    values = np.array([value if value in common else other for value in values], dtype=object)
    ordered = sorted(set(values), key=lambda name: (name == other, _natural(name)))
    return {name: values == name for name in ordered}


def _model_masks(of_a: list, of_b: list) -> dict[str, np.ndarray]:
    """Return a mask of each model's battles, two models per battle; rarer models are merged into "other"."""
    a, b = (np.array([name or "" for name in names], dtype=object) for names in (of_a, of_b))
    counts = Counter([*a, *b])
    counts.pop("", None)
    models = [name for name, count in counts.most_common(MAX_PARTS) if count >= MIN_ROWS]
    masks = {name: (a == name) | (b == name) for name in sorted(models)}
    others = ~np.isin(a, models) | ~np.isin(b, models)
    return masks | ({f"other ({len(counts) - len(models)})": others} if masks and others.any() else {})


def _natural(name: str) -> tuple:
    first = name.split()[0] if name.split() else ""
    return (0, int(first), name) if first.isdecimal() else (1, 0, name)
