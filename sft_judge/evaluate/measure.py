"""
Aligned judges to figures: the whole of metrics.json but for stages and provenance.

Every judge is resampled with the same prompts, so pairs and shares of the gap are paired comparisons. Class
frequencies and the best possible are judges too: constant probabilities, and the true ones.
"""

from itertools import combinations

import numpy as np

from sft_judge.evaluate.align import Aligned
from sft_judge.evaluate.slices import slices, text_lengths
from sft_judge.metrics import CLIP, cross_entropy, figures, gap_share, interval, resample, row_columns

FREQUENCIES, BEST = "class frequencies", "best possible"


def class_frequencies(verdicts: np.ndarray, num: int) -> np.ndarray:
    """Frequencies [K] of verdict indices [N], each count one higher (Laplace), so that none is impossible."""
    counts = np.bincount(verdicts[(verdicts >= 0) & (verdicts < num)], minlength=num) + 1.0
    return counts / counts.sum()


def measure(aligned: Aligned, frequencies: np.ndarray, main: str, seed: int = 0) -> dict:
    """
    The figures of every judge, of pairs, and the worth table; those of `main` stand at the top level too.

    `frequencies` [K] is what somebody who reads no battle would say.
    """
    rows = len(aligned.verdicts)
    masks, longer = slices(aligned.battles), _longer_response(aligned)
    constant = {FREQUENCIES: np.tile(frequencies, (rows, 1))}
    best = {} if aligned.truth is None else {BEST: aligned.truth}
    everyone = {**constant, **{name: judge.probs for name, judge in aligned.judges.items()}, **best}
    draws = {}
    for name, probs in everyone.items():
        judge = aligned.judges.get(name)
        columns = _columns(aligned, probs, judge.orders if judge else None, masks if judge else {}, longer)
        draws[name] = resample(columns, aligned.clusters, seed=seed)
    judges = {name: _judge(draws[name], aligned, name, masks) for name in aligned.judges}
    result = {**judges[main], "main": main, "num_prompts": int(aligned.clusters.max()) + 1}
    result["class_frequencies"] = frequencies.tolist()
    result["worth"] = _worth(draws, aligned.truth is not None)
    if len(judges) > 1:
        result["judges"] = judges
        result["pairs"] = [_pair(draws, a, b) for a, b in combinations(judges, 2)]
    return result


def _columns(aligned, probs, orders, masks, longer) -> dict[str, np.ndarray]:
    columns = row_columns(probs, aligned.verdicts, orders)
    if aligned.truth is not None:
        columns["expected"] = cross_entropy(aligned.truth, probs)
    chosen = probs.argmax(axis=1)
    hits = chosen == aligned.verdicts
    # of choices of one of two responses of unequal length: how many there are, and how many name the longer
    for who, choice in (("judge", chosen), ("people", aligned.verdicts)):
        decided = (choice < 2) & (longer >= 0)
        columns[f"longer {who}"] = np.stack([decided & (choice == longer), decided], axis=1).astype(float)
    parts = np.stack([columns["n"], columns["log_loss"], hits], axis=1)
    for dimension, named in masks.items():
        columns |= {f"slice {dimension} {name}": parts * mask[:, None] for name, mask in named.items()}
    return columns


def _longer_response(aligned: Aligned) -> np.ndarray:
    """[N]: 0 where response_a is longer, 1 where response_b is, -1 where neither."""
    a, b = (text_lengths(aligned.battles, name) for name in ("response_a", "response_b"))
    return np.where(a == b, -1, (b > a).astype(int))


def _ratio(sums: np.ndarray, over: int = 1, under: int = 0) -> dict:
    with np.errstate(invalid="ignore", divide="ignore"):
        return interval(sums[..., over] / sums[..., under])


def _judge(draws: dict, aligned: Aligned, name: str, masks: dict) -> dict:
    probs = aligned.judges[name].probs
    bins = draws["bins"][0]
    result = {"n": len(probs), **{key: interval(values) for key, values in figures(draws).items()}}
    if "expected" in draws:
        result["expected_log_loss"] = interval(draws["expected"] / draws["n"])
    return result | {
        "clipped": int((probs[np.arange(len(probs)), aligned.verdicts] < CLIP).sum()),
        "longer_response_rate": {who: _ratio(draws[f"longer {who}"], 0, 1) for who in ("judge", "people")},
        "reliability": [
            {"n": int(count), "confidence": confidence / count, "accuracy": hits / count}
            for count, confidence, hits in bins.T.tolist()
            if count
        ],
        "slices": {
            dimension: {part: _slice(draws[f"slice {dimension} {part}"]) for part in named}
            for dimension, named in masks.items()
        },
    }


def _slice(sums: np.ndarray) -> dict:
    return {"n": int(sums[0, 0]), "log_loss": _ratio(sums, 1), "accuracy": _ratio(sums, 2)}


def _pair(draws: dict, a: str, b: str) -> dict:
    """a minus b on the same rows and draws: a log loss below zero says that a is better."""
    of_a, of_b = figures(draws[a]), figures(draws[b])
    pair = {"a": a, "b": b}
    pair |= {f"delta_{key}": interval(of_a[key] - of_b[key]) for key in ("log_loss", "accuracy")}
    if "expected" in draws[a]:
        difference = (draws[a]["expected"] - draws[b]["expected"]) / draws[a]["n"]
        pair["delta_expected_log_loss"] = interval(difference)
    return pair


def _worth(draws: dict, with_truth: bool) -> list[dict]:
    rows = []
    for name, sums in draws.items():
        row = {"name": name}
        if with_truth:
            expected = {who: draws[who]["expected"] / draws[who]["n"] for who in (name, FREQUENCIES, BEST)}
            row["expected_log_loss"] = interval(expected[name])
            row["gap_share"] = interval(gap_share(expected[name], expected[FREQUENCIES], expected[BEST]))
        found = figures(sums)
        rows.append(row | {key: interval(found[key]) for key in ("log_loss", "accuracy")})
    return rows
