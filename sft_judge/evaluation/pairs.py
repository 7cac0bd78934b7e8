"""Judges against each other on the same rows: differences, what would be needed to tell them, and who is ahead."""

from itertools import combinations

import numpy as np
from scipy.stats import binomtest, false_discovery_control

from sft_judge.evaluation.bootstrap import interval, p_value, rows_needed
from sft_judge.evaluation.metrics import figures
from sft_judge.evaluation.slices import DISCOVERY_RATE

MEASURES = ("log_loss", "accuracy")


def compare(draws: dict[str, dict[str, np.ndarray]], right: dict[str, np.ndarray]) -> list[dict]:
    """
    Each pair of judges: a minus b on the same rows and draws. A log loss below zero says that a is better.

    `draws` {judge: resampled columns}, `right` {judge: [N] whether its verdict is people's}. `rows_needed`: rows like
    these that would tell a difference of this size, at 5 % and with a power of 80 %. `mcnemar`: the exact test of
    McNemar (1947) on the rows that one of them alone has right; it takes rows as independent, intervals do not.
    `adjusted_p`: of the log losses, for the number of pairs (Benjamini and Hochberg 1995).
    """
    pairs = []
    for a, b in combinations(right, 2):
        of = [figures(draws[name]) for name in (a, b)]
        differences = {key: of[0][key] - of[1][key] for key in MEASURES}
        pair = {"a": a, "b": b} | {f"delta_{key}": interval(values) for key, values in differences.items()}
        pair["p"] = p_value(differences["log_loss"])
        pair["rows_needed"] = {key: rows_needed(values, len(right[a])) for key, values in differences.items()}
        if "expected" in draws[a]:
            pair["delta_expected_log_loss"] = interval((draws[a]["expected"] - draws[b]["expected"]) / draws[a]["n"])
        pairs.append(pair | {"mcnemar": mcnemar(right[a], right[b])})
    tested = [pair for pair in pairs if pair["p"] is not None]
    adjusted = false_discovery_control([pair["p"] for pair in tested]) if tested else []
    for pair, p in zip(tested, adjusted, strict=True):
        pair["adjusted_p"] = float(p)
    return pairs


def mcnemar(right_a: np.ndarray, right_b: np.ndarray) -> dict:
    """`{"only_a", "only_b", "p"}`: the rows [N] that one judge alone has right, and whether that is chance."""
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return {"only_a": only_a, "only_b": only_b, "p": p}


def standings(judges: dict[str, dict], pairs: list[dict]) -> list[dict]:
    """
    The judges by log loss, `{"name", "first", "last"}`: the places that each may have, as far as these rows can say.

    A judge's first place is one after those that are better beyond chance, its last before those that are worse.
    """
    better = {name: 0 for name in judges}
    worse = {name: 0 for name in judges}
    for pair in pairs:
        if pair.get("adjusted_p", 1.0) < DISCOVERY_RATE:
            ahead, behind = ("a", "b") if pair["delta_log_loss"]["value"] < 0 else ("b", "a")
            better[pair[behind]] += 1
            worse[pair[ahead]] += 1
    ordered = sorted(judges, key=lambda name: judges[name]["log_loss"]["value"])
    return [{"name": name, "first": 1 + better[name], "last": len(judges) - worse[name]} for name in ordered]
