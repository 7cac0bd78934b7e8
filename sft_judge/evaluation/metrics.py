"""
Metrics of a judge's probabilities: functions of sums over rows, and each row's share of the sums.

So that one cluster bootstrap serves them all (bootstrap.py). Nothing here knows files.
"""

import numpy as np
from scipy.stats import norm

from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.probs import clip_log
from sft_judge.evaluation.bootstrap import Draws, interval

BINS, ROWS_A_BIN = 15, 20
RAISED = ("ece",)  # figures that noise only adds to; `interval` is to be told
SHARES = ("accuracy", "accuracy_ties_half", "accuracy_without_ties", "tie_recall", "swap_agreement")
PREFERRED = ("better_mean", "worse_mean", "worse_above_better", "worse_below_better", "margin_mean", "margin_std")


def cross_entropy(target: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """-sum_k target_k log p_k for each row [N]: the log loss expected when `target` [N, K] is the truth, in nats."""
    return -(target * clip_log(probs)).sum(axis=-1)


def one_hot(verdicts: np.ndarray, num: int) -> np.ndarray:
    """[N] integers below `num` to [N, num] zeros and ones."""
    return np.eye(num)[verdicts]


def predicted_verdicts(probs: np.ndarray) -> np.ndarray:
    """
    The share of each verdict in what a judge chooses, [..., K] of probabilities [..., K].

    All of the most probable one, equal parts of several that are exactly as probable: were the first of them taken, a
    judge that cannot tell two responses apart would choose a, and exchanging them would change its accuracy.
    """
    best = probs == probs.max(axis=-1, keepdims=True)
    return best / np.maximum(best.sum(axis=-1, keepdims=True), 1)


def name_choice(probs: np.ndarray) -> str:
    """The most probable verdict of [K] by name, or all of several that are exactly as probable: `a or b`."""
    return " or ".join(VERDICTS[place] for place in np.flatnonzero(probs == probs.max()))


def confidence_bins(confidence: np.ndarray) -> np.ndarray:
    """
    The bin of each row [N], up to BINS of equal mass with at least ROWS_A_BIN rows.

    Equal confidences share a bin, so a constant judge has one and its calibration error is not noise.
    """
    count = max(1, min(BINS, len(confidence) // ROWS_A_BIN))
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, count + 1)[1:-1]))
    return np.unique(np.searchsorted(edges, confidence, side="left"), return_inverse=True)[1]


def row_columns(
    probs: np.ndarray, verdicts: np.ndarray, orders: np.ndarray | None = None, chosen: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """
    Each row's share of the sums that `figures` reads.

    Args:
        probs: calibrated, one row a battle [N, K].
        verdicts: people's [N], indices into VERDICTS.
        orders: the judge's answer in each order [N, 2, K], un-swapped, NaN where an order was not run.
        chosen: shares of each verdict in what it chooses [N, K]; left out, those of the most probable one.
    """
    num = probs.shape[1]
    target, chosen = one_hot(verdicts, num), predicted_verdicts(probs) if chosen is None else chosen
    confidence, right = probs.max(axis=1), (target * chosen).sum(axis=1)
    in_bin = one_hot(confidence_bins(confidence), BINS)
    columns = {
        "n": np.ones(len(probs)),
        "log_loss": cross_entropy(target, probs),
        "brier": ((probs - target) ** 2).sum(axis=1),
        "true": target,
        "confusion": target[:, :, None] * chosen[:, None, :],  # [N, true, chosen]
        "bins": in_bin[:, None, :] * np.stack([np.ones(len(probs)), confidence, right], axis=1)[:, :, None],
        "preferred": _preferred_columns(probs, verdicts),
    }
    return columns | (_order_columns(orders) if orders is not None else {})


def without_probabilities(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Row columns of a judge of verdicts alone: NaN for whatever is made of probabilities."""
    made_of_them = ("log_loss", "brier", "bins", "preferred", "place")
    return {name: np.full_like(values, np.nan) if name in made_of_them else values for name, values in columns.items()}


def _preferred_columns(probs: np.ndarray, verdicts: np.ndarray) -> np.ndarray:
    """
    [N, 7] of the rows on which people decided, with the better and the worse response's probability: how many; the sum
    of each; whether the worse has more, or less; the log-odds and their square.
    """
    decided = verdicts < 2
    rows = np.arange(len(probs))
    better, worse = probs[rows, np.where(decided, verdicts, 0)], probs[rows, np.where(decided, 1 - verdicts, 1)]
    margin = clip_log(better) - clip_log(worse)
    parts = [np.ones(len(probs)), better, worse, worse > better, worse < better, margin, margin**2]
    return np.stack(parts, axis=1) * decided[:, None]


def _order_columns(orders: np.ndarray) -> dict[str, np.ndarray]:
    shown = ~np.isnan(orders).any(axis=2)  # [N, 2]
    chosen = predicted_verdicts(orders)  # [N, 2, K], nothing where not shown
    both = shown.all(axis=1)
    decided = chosen[:, :, :2].sum(axis=2)
    first = chosen[:, 0, 0] + chosen[:, 1, 1]  # a stands first in order ab, b in order ba
    gained = np.nan_to_num(orders[:, 0, 0] - orders[:, 1, 0] + orders[:, 1, 1] - orders[:, 0, 1]) / 2
    return {
        "swap": np.stack([both & (chosen[:, 0] == chosen[:, 1]).all(axis=1), both], axis=1).astype(float),
        "first": np.stack([first, decided.sum(axis=1)], axis=1),
        "place": np.where(both, gained, 0.0),
    }


def figures(sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """
    The figures [...] of summed columns [..., *column]; NaN where a figure has nothing to be measured on.

    log_loss in nats; brier summed over verdicts (0 to 2); accuracy with a tie as a third verdict, with a tie of either
    side as half right (`_ties_half`), and where neither side says tie (`_without_ties`, kappa too); ece over
    equal-mass bins of the chosen verdict's probability, less part of what noise alone would add; macro_f1 over the
    verdicts that occur; kappa: Cohen's. A row on which nothing was chosen is wrong. Then those of `_order_figures` and
    `_preferred_figures`.
    """
    n, confusion = sums["n"], sums["confusion"]
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    true, chosen = sums["true"], confusion.sum(axis=-2)
    half = (confusion[..., 2:, :2].sum(axis=(-2, -1)) + confusion[..., :2, 2:].sum(axis=(-2, -1))) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        f1, accuracy = 2 * hits / (true + chosen), hits.sum(axis=-1) / n
        metrics = {
            "log_loss": sums["log_loss"] / n,
            "accuracy": accuracy,
            "accuracy_ties_half": accuracy + half / n,
            "accuracy_without_ties": hits[..., :2].sum(axis=-1) / confusion[..., :2, :2].sum(axis=(-2, -1)),
            "brier": sums["brier"] / n,
            "ece": debiased_ece(sums["bins"]),
            "tie_recall": hits[..., 2] / true[..., 2] if true.shape[-1] == 3 else np.full_like(n, np.nan),
            "macro_f1": np.nansum(f1, axis=-1) / (~np.isnan(f1)).sum(axis=-1),
            "kappa": agreement_and_kappa(confusion)[1],
            "kappa_without_ties": agreement_and_kappa(confusion[..., :2, :2])[1],
        }
        return metrics | _order_figures(sums) | _preferred_figures(sums["preferred"])


def measured_on(sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What each of the `figures` is measured on [...], in rows or choices, of the same sums."""
    n, confusion, nothing = sums["n"], sums["confusion"], np.zeros_like(sums["n"])
    on = dict.fromkeys(("log_loss", "accuracy", "accuracy_ties_half", "brier", "ece", "macro_f1", "kappa"), n)
    on["accuracy_without_ties"] = on["kappa_without_ties"] = confusion[..., :2, :2].sum(axis=(-2, -1))
    on["tie_recall"] = sums["true"][..., 2] if confusion.shape[-1] == 3 else nothing
    on["swap_agreement"] = on["position_effect"] = sums["swap"][..., 1] if "swap" in sums else nothing
    on["first_position_rate"] = sums["first"][..., 1] if "first" in sums else nothing
    return on | dict.fromkeys(PREFERRED, np.nan_to_num(sums["preferred"][..., 0]))


def figure_intervals(draws: Draws, names: tuple[str, ...] = ()) -> dict[str, dict]:
    """The `figures` of resampled row columns, or those of `names` alone, each with its 95 % interval."""
    values, of_prompts, on = figures(draws), figures(draws.of_prompts), measured_on(draws.of_prompts)
    over = {name: np.nan_to_num(of_prompts[name]) * on[name] for name in SHARES}
    return {name: interval(values[name], on[name], over.get(name), raised=name in RAISED) for name in names or values}


def debiased_ece(bins: np.ndarray) -> np.ndarray:
    """
    Expected calibration error [...] of bins [..., 3, B]: rows, their summed confidence, and how many were right.

    The mean over rows of each bin's gap between confidence and accuracy, less its bias: even a perfect judge's gaps
    are not zero, as accuracies are noisy. A gap g whose accuracy has standard error s is |Normal(g, s)| on average (a
    folded normal), and that much above |g| is taken off (Kumar et al. 2019, "Verified Uncertainty Calibration",
    section 5 and its library, there by simulation). As g has noise of its own, that is about 40 % of what noise adds
    where the true gaps are zero, and nearly all of it where they are large. Never below zero.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        rows, confidence, right = (bins[..., place, :] for place in range(3))
        accuracy = right / rows
        gap = np.abs(confidence / rows - accuracy)
        error = np.sqrt(accuracy * (1 - accuracy) / rows)
        z = np.where(error > 0, gap / np.where(error > 0, error, 1), np.inf)
        folded = np.where(error > 0, error * 2 * norm.pdf(z) + gap * (2 * norm.cdf(z) - 1), gap)
        return np.maximum(np.nansum(rows * (2 * gap - folded), axis=-1) / rows.sum(axis=-1), 0.0)


def _order_figures(sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """
    swap_agreement: both orders choose the same verdict; first_position_rate: of the choices of a response, those of
    the one shown first; position_effect: how much probability a response gains by being shown first.
    """
    if "swap" not in sums:
        nothing = np.full_like(sums["n"], np.nan)
        return dict.fromkeys(("swap_agreement", "first_position_rate", "position_effect"), nothing)
    both = sums["swap"][..., 1]
    return {
        "swap_agreement": sums["swap"][..., 0] / both,
        "first_position_rate": sums["first"][..., 0] / sums["first"][..., 1],
        "position_effect": sums["place"] / both,
    }


def _preferred_figures(sums: np.ndarray) -> dict[str, np.ndarray]:
    """
    Of the rows on which people decided: mean probability of the better and of the worse response, how many rows give
    the worse one more and less, mean and standard deviation of the log-odds of the better one.
    """
    n, better, worse, above, below, margin, square = np.moveaxis(sums, -1, 0)
    mean = margin / n
    counts = (np.where(n > 0, number, np.nan) for number in (above, below))
    parts = (better / n, worse / n, *counts, mean, np.sqrt(np.maximum(square / n - mean**2, 0.0)))
    return dict(zip(PREFERRED, parts, strict=True))


def agreement_and_kappa(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of the same verdict, and Cohen's kappa [...], of counts [..., K, K] of one's verdicts by another's."""
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = counts / counts.sum(axis=(-2, -1), keepdims=True)
        same = np.trace(shares, axis1=-2, axis2=-1)
        chance = (shares.sum(axis=-1) * shares.sum(axis=-2)).sum(axis=-1)
        return same, (same - chance) / (1 - chance)


def skill_score(loss: np.ndarray, frequencies: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Skill score of a loss: 0 for the class frequencies, 1 for the best possible loss."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return (frequencies - loss) / (frequencies - best)
