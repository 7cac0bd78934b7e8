"""Judges against each other on the same rows: differences, what would be needed to tell them, and who is ahead."""

from itertools import combinations

import numpy as np
from scipy.stats import binomtest, false_discovery_control

from sft_judge.evaluation.bootstrap import Draws, interval, p_value, rows_needed
from sft_judge.evaluation.metrics import figures
from sft_judge.evaluation.slices import DISCOVERY_RATE

MEASURES = ("log_loss", "accuracy")


def compare(
    draws: dict[str, Draws], right: dict[str, np.ndarray], clusters: np.ndarray, measure: str = "log_loss"
) -> list[dict]:
    """
    Each pair of judges: a minus b on the same rows and draws. A log loss below zero says that a is better.

    Args:
        draws: resampled columns of each judge.
        right: of each judge, whether its verdict is people's [N].
        clusters: the prompt of each row [N].
        measure: of MEASURES, what the judges are told apart by.

    Returns:
        Of each pair the differences with their intervals; `rows_needed`, as `bootstrap.rows_needed` has them;
        `mcnemar`; `p` of the difference of `measure`, and `adjusted_p`, for the number of pairs (Benjamini and
        Hochberg 1995).
    """
    parts = {name: figures(draws[name].of_prompts)["accuracy"] for name in right}
    of = {name: figures(draws[name]) for name in right}
    pairs = []
    for a, b in combinations(right, 2):
        differences = {key: of[a][key] - of[b][key] for key in MEASURES}
        rows = draws[a].of_prompts["n"]
        pair = {"a": a, "b": b, "delta_log_loss": interval(differences["log_loss"], rows)}
        only = (parts[a] - parts[b]) * rows
        pair["delta_accuracy"] = interval(differences["accuracy"], rows, only, difference=True)
        pair["p"] = p_value(differences[measure], rows)
        pair["rows_needed"] = {key: rows_needed(values, len(right[a])) for key, values in differences.items()}
        if "expected" in draws[a]:
            expected = (draws[a]["expected"] - draws[b]["expected"]) / draws[a]["n"]
            pair["delta_expected_log_loss"] = interval(expected, rows)
        pairs.append(pair | {"mcnemar": mcnemar(right[a], right[b], clusters)})
    tested = [pair for pair in pairs if pair["p"] is not None]
    adjusted = false_discovery_control([pair["p"] for pair in tested]) if tested else []
    for pair, p in zip(tested, adjusted, strict=True):
        pair["adjusted_p"] = float(p)
    return pairs


def mcnemar(right_a: np.ndarray, right_b: np.ndarray, clusters: np.ndarray) -> dict:
    """
    `{"only_a", "only_b", "p"}`: the rows [N] that one judge alone has right, and whether that is chance.

    The exact test of McNemar (1947), on prompts: each counts for the judge that has more of its rows right. Rows of
    one prompt are not independent; where each row has its own, it is the usual test.
    """
    only_a, only_b = right_a & ~right_b, right_b & ~right_a
    ahead = np.bincount(clusters, only_a.astype(float) - only_b)
    for_a, for_b = int((ahead > 0).sum()), int((ahead < 0).sum())
    p = float(binomtest(for_a, for_a + for_b).pvalue) if for_a + for_b else 1.0
    return {"only_a": int(only_a.sum()), "only_b": int(only_b.sum()), "p": p}


def standings(judges: dict[str, dict], pairs: list[dict], measure: str = "log_loss") -> list[dict]:
    """
    The judges by a measure, `{"name", "first", "last"}`: the places that each may have, as far as these rows can say.

    A judge's first place is one after those that are better beyond chance, its last before those that are worse.
    """
    better = {name: 0 for name in judges}
    worse = {name: 0 for name in judges}
    for pair in pairs:
        if pair.get("adjusted_p", 1.0) < DISCOVERY_RATE:
            lower_is_better = measure == "log_loss"
            a_is_ahead = (pair[f"delta_{measure}"]["value"] < 0) == lower_is_better
            ahead, behind = ("a", "b") if a_is_ahead else ("b", "a")
            better[pair[behind]] += 1
            worse[pair[ahead]] += 1
    sign = 1 if measure == "log_loss" else -1
    ordered = sorted(judges, key=lambda name: sign * judges[name][measure]["value"])
    return [{"name": name, "first": 1 + better[name], "last": len(judges) - worse[name]} for name in ordered]
