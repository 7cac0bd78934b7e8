"""
Metrics of a judge's probabilities, each a function of sums over rows.

`row_columns` gives each row's contribution to the sums and `figures` computes the metrics from them, so that one
cluster bootstrap (bootstrap.py) serves every metric. This module reads and writes no files.
"""

import numpy as np
from scipy.stats import norm

from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.probs import clip_log
from sft_judge.evaluation.bootstrap import Draws, interval

BINS, ROWS_A_BIN = 15, 20
RAISED = ("ece",)  # figures that noise can only raise; passed to `interval` as `raised`
SHARES = ("accuracy", "accuracy_ties_half", "accuracy_without_ties", "tie_recall", "swap_agreement")
PREFERRED = ("better_mean", "worse_mean", "worse_above_better", "worse_below_better", "margin_mean", "margin_std")


def cross_entropy(target: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """
    Compute the cross-entropy -sum_k target_k log p_k of each row [N] in nats.

    This is the expected log loss if `target` is the true distribution.

    Args:
        target: true distribution over verdicts `[N, K]`, one-hot for observed verdicts.
        probs: predicted probabilities `[N, K]`.
    """
    return -(target * clip_log(probs)).sum(axis=-1)


def one_hot(verdicts: np.ndarray, num: int) -> np.ndarray:
    """
    Encode integers `[N]` below `num` as one-hot rows `[N, num]`.

    Args:
        verdicts: verdict indices `[N]`.
        num: number of verdicts K.
    """
    return np.eye(num)[verdicts]


def predicted_verdicts(probs: np.ndarray) -> np.ndarray:
    """
    Return the share of each verdict in a judge's choice, `[..., K]` for probabilities `[..., K]`.

    The most probable verdict gets the whole choice. Verdicts with exactly equal probability share the choice equally:
    if the first of them were taken, a judge that cannot tell two responses apart would choose a, and swapping the
    responses would change its accuracy.
    """
    best = probs == probs.max(axis=-1, keepdims=True)
    return best / np.maximum(best.sum(axis=-1, keepdims=True), 1)


def name_choice(probs: np.ndarray) -> str:
    """Return the name of the most probable verdict of `probs` `[K]`; exactly equal ones are joined as `a or b`."""
    return " or ".join(VERDICTS[place] for place in np.flatnonzero(probs == probs.max()))


def confidence_bins(confidence: np.ndarray) -> np.ndarray:
    """
    Return the bin of each row `[N]`: at most BINS bins of equal mass with at least ROWS_A_BIN rows each.

    Equal confidences share a bin. A constant judge therefore has one bin, and its calibration error is not noise.
    """
    count = max(1, min(BINS, len(confidence) // ROWS_A_BIN))
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, count + 1)[1:-1]))
    return np.unique(np.searchsorted(edges, confidence, side="left"), return_inverse=True)[1]


def row_columns(
    probs: np.ndarray, verdicts: np.ndarray, orders: np.ndarray | None = None, chosen: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """
    Compute each row's contribution to the sums that `figures` reads.

    The columns are laid out so that summing over rows keeps everything a metric needs: confusion counts, calibration
    bins and first and second moments.

    Args:
        probs: calibrated probabilities, one row per battle `[N, K]`.
        verdicts: people's verdicts `[N]`, indices into VERDICTS.
        orders: the judge's probabilities in each order `[N, 2, K]`, un-swapped (a is the battle's own response_a in
            every order), NaN if an order was not run.
        chosen: share of each verdict in the judge's choice `[N, K]`; defaults to the most probable verdict.

    Returns:
        Arrays `[N, *column]` by column name. `n` counts rows; `bins` `[N, 3, B]` holds rows, confidence and
        correctness of the row's calibration bin; `preferred` `[N, 7]` see `_preferred_columns`; with `orders` also
        `swap`, `first` and `place`.
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
    """Set the row columns that need probabilities to NaN, for a judge that gives only verdicts."""
    of_probs = ("log_loss", "brier", "bins", "preferred", "place")
    return {name: np.full_like(values, np.nan) if name in of_probs else values for name, values in columns.items()}


def _preferred_columns(probs: np.ndarray, verdicts: np.ndarray) -> np.ndarray:
    """
    Compute the columns `[N, 7]` that compare the better and the worse response, zero for ties.

    Columns, for rows on which people decided: 1; probability of the better response (the one people prefer);
    probability of the worse response; 1 if the worse has more; 1 if the worse has less; the log-odds of the better
    response; their square.
    """
    decided = verdicts < 2
    rows = np.arange(len(probs))
    better, worse = probs[rows, np.where(decided, verdicts, 0)], probs[rows, np.where(decided, 1 - verdicts, 1)]
    margin = clip_log(better) - clip_log(worse)
    parts = [np.ones(len(probs)), better, worse, worse > better, worse < better, margin, margin**2]
    return np.stack(parts, axis=1) * decided[:, None]


def _order_columns(orders: np.ndarray) -> dict[str, np.ndarray]:
    """
    Compute the columns that compare the two orders of a battle.

    `swap` `[N, 2]`: 1 if both orders choose the same verdict, and 1 if both orders were run. `first` `[N, 2]`: choices
    of the response shown first, and choices of either response. `place` `[N]`: the probability that a response gains
    by being shown first, averaged over both responses.
    """
    shown = ~np.isnan(orders).any(axis=2)  # [N, 2]
    chosen = predicted_verdicts(orders)  # [N, 2, K], zero if the order was not run
    both = shown.all(axis=1)
    decided = chosen[:, :, :2].sum(axis=2)
    first = chosen[:, 0, 0] + chosen[:, 1, 1]  # a is shown first in order ab, b in order ba
    gained = np.nan_to_num(orders[:, 0, 0] - orders[:, 1, 0] + orders[:, 1, 1] - orders[:, 0, 1]) / 2
    return {
        "swap": np.stack([both & (chosen[:, 0] == chosen[:, 1]).all(axis=1), both], axis=1).astype(float),
        "first": np.stack([first, decided.sum(axis=1)], axis=1),
        "place": np.where(both, gained, 0.0),
    }


def figures(sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """
    Compute the metrics `[...]` from summed row columns `[..., *column]`.

    - `log_loss`: in nats.
    - `brier`: summed over verdicts, from 0 to 2.
    - `accuracy`: a tie is a third verdict. In `accuracy_ties_half` a row on which exactly one of the judge and people
      says tie counts half. `accuracy_without_ties` leaves out rows on which the judge or people say tie.
    - `ece`: expected calibration error of the chosen verdict's probability over equal-mass bins, see `debiased_ece`.
    - `tie_recall`: share of people's ties that the judge calls ties.
    - `macro_f1`: mean F1 over the verdicts that occur.
    - `kappa`: Cohen's kappa; `kappa_without_ties` leaves out rows on which the judge or people say tie.

    A row on which nothing was chosen counts as wrong. `_order_figures` and `_preferred_figures` add more metrics.

    Args:
        sums: sums of the columns of `row_columns`, by name; leading dimensions are resamples.

    Returns:
        Each metric `[...]` by name; NaN if there is no row to measure it on.
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
    """Return the number of rows or choices `[...]` that each of the `figures` is measured on."""
    n, confusion, nothing = sums["n"], sums["confusion"], np.zeros_like(sums["n"])
    on = dict.fromkeys(("log_loss", "accuracy", "accuracy_ties_half", "brier", "ece", "macro_f1", "kappa"), n)
    on["accuracy_without_ties"] = on["kappa_without_ties"] = confusion[..., :2, :2].sum(axis=(-2, -1))
    on["tie_recall"] = sums["true"][..., 2] if confusion.shape[-1] == 3 else nothing
    on["swap_agreement"] = on["position_effect"] = sums["swap"][..., 1] if "swap" in sums else nothing
    on["first_position_rate"] = sums["first"][..., 1] if "first" in sums else nothing
    return on | dict.fromkeys(PREFERRED, np.nan_to_num(sums["preferred"][..., 0]))


def figure_intervals(draws: Draws, names: tuple[str, ...] = ()) -> dict[str, dict]:
    """
    Compute `figures` of resampled row columns, each with its 95 % interval.

    Args:
        draws: resampled row columns.
        names: figures to return; empty means all.
    """
    values, of_prompts, on = figures(draws), figures(draws.of_prompts), measured_on(draws.of_prompts)
    over = {name: np.nan_to_num(of_prompts[name]) * on[name] for name in SHARES}
    return {name: interval(values[name], on[name], over.get(name), raised=name in RAISED) for name in names or values}


def debiased_ece(bins: np.ndarray) -> np.ndarray:
    """
    Compute the expected calibration error, less part of its upward bias.

    The mean over rows of each bin's gap between confidence and accuracy is biased upward: a perfect judge's gaps are
    not zero because accuracies are noisy. If the true gap is g and the accuracy has standard error s, the measured gap
    is |Normal(g, s)|, a folded normal, whose mean exceeds |g|. This excess is subtracted (Kumar et al. 2019, "Verified
    Uncertainty Calibration", section 5 and its library, which simulates it). Since the measured g is noisy too, the
    correction removes about 40 % of the bias if the true gaps are zero, and nearly all of it if they are large.

    Args:
        bins: sums `[..., 3, B]` of rows, of their confidence and of correct choices in each bin.

    Returns:
        Calibration error `[...]`, at least zero.
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
    Compute the metrics that compare both orders of a battle; NaN if only one order is known.

    - `swap_agreement`: share of battles whose two orders choose the same verdict.
    - `first_position_rate`: among choices of a response, the share that choose the response shown first.
    - `position_effect`: the probability that a response gains by being shown first.
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
    Compute the metrics of the better (preferred by people) and the worse response, over rows on which people decided.

    They are the mean probability of each, the number of rows that give the worse response more and less, and the mean
    and standard deviation of the better response's log-odds.
    """
    n, better, worse, above, below, margin, square = np.moveaxis(sums, -1, 0)
    mean = margin / n
    counts = (np.where(n > 0, number, np.nan) for number in (above, below))
    parts = (better / n, worse / n, *counts, mean, np.sqrt(np.maximum(square / n - mean**2, 0.0)))
    return dict(zip(PREFERRED, parts, strict=True))


def agreement_and_kappa(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Return the share of equal verdicts and Cohen's kappa `[...]` of the contingency tables `counts` `[..., K, K]`.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = counts / counts.sum(axis=(-2, -1), keepdims=True)
        same = np.trace(shares, axis1=-2, axis2=-1)
        chance = (shares.sum(axis=-1) * shares.sum(axis=-2)).sum(axis=-1)
        return same, (same - chance) / (1 - chance)


def skill_score(loss: np.ndarray, frequencies: np.ndarray, best: np.ndarray) -> np.ndarray:
    """
    Compute the skill score of a loss: 0 for the class frequencies, 1 for the best possible loss.

    Args:
        loss: log loss of the judge.
        frequencies: log loss of the class frequencies.
        best: best possible log loss.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return (frequencies - loss) / (frequencies - best)
