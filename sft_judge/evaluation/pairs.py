"""Comparison of judges on the same rows: paired differences, rows needed to tell them apart, and standings."""

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
    Compare each pair of judges: a minus b on the same rows and draws.

    A negative difference of the log loss means that a is better.

    Args:
        draws: resampled columns of each judge.
        right: correctness of each judge's verdict `[N]`, by name.
        clusters: prompt of each row `[N]`.
        measure: one of MEASURES, the metric that tells the judges apart.

    Returns:
        For each pair the differences with their intervals; `rows_needed`, see `bootstrap.rows_needed`; `mcnemar`; `p`
        of the difference of `measure`; and `adjusted_p`, corrected for the number of pairs (Benjamini and Hochberg
        1995).
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
    Test whether one judge is right more often than the other, with McNemar's exact test (1947) on prompts.

    Each prompt counts for the judge that has more of its rows right, because rows of one prompt are not independent.
    If each row has its own prompt, this is the usual test.

    Args:
        right_a: rows on which judge a is right `[N]`.
        right_b: rows on which judge b is right `[N]`.
        clusters: prompt of each row `[N]`.

    Returns:
        `{"only_a", "only_b", "p"}`: rows that only one judge has right, and the p-value.
    """
    only_a, only_b = right_a & ~right_b, right_b & ~right_a
    ahead = np.bincount(clusters, only_a.astype(float) - only_b)
    for_a, for_b = int((ahead > 0).sum()), int((ahead < 0).sum())
    p = float(binomtest(for_a, for_a + for_b).pvalue) if for_a + for_b else 1.0
    return {"only_a": int(only_a.sum()), "only_b": int(only_b.sum()), "p": p}


def standings(judges: dict[str, dict], pairs: list[dict], measure: str = "log_loss") -> list[dict]:
    """
    Rank the judges by a metric, as far as the rows can distinguish them.

    A judge's first place is one after all judges that are significantly better; its last place is before all judges
    that are significantly worse.

    Args:
        judges: figures of each judge, by name.
        pairs: result of `compare`.
        measure: one of MEASURES.

    Returns:
        `{"name", "first", "last"}` of each judge, the range of its possible places.
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
