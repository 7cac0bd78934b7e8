"""
What a judge's probabilities are worth, with intervals.

Every figure is a function of sums over rows, so one cluster bootstrap over prompts serves them all: each row has its
share of every sum (`row_columns`), whole prompts are drawn again with replacement (`resample`), and a figure of the
drawn sums is one draw of the figure (`figures`, `interval`). The same clusters and seed draw the same prompts, so a
difference of two judges' draws is a paired one. Nothing here knows files.
"""

from collections.abc import Iterator

import numpy as np
from scipy import sparse

CLIP = 1e-15  # probabilities below this count as this, so that one impossible verdict is not an infinite loss
BINS, ROWS_A_BIN = 15, 20
REPEATS = 1000
_WEIGHTS_AT_ONCE = 4_000_000


def log_clipped(probs: np.ndarray) -> np.ndarray:
    """Natural log of probabilities, clipped at CLIP."""
    return np.log(np.maximum(probs, CLIP))


def cross_entropy(target: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """-sum_k target_k log p_k for each row [N]: the log loss expected when `target` [N, K] is the truth, in nats."""
    return -(target * log_clipped(probs)).sum(axis=-1)


def one_hot(verdicts: np.ndarray, num: int) -> np.ndarray:
    """[N] integers below `num` to [N, num] zeros and ones."""
    return np.eye(num)[verdicts]


def confidence_bins(confidence: np.ndarray) -> np.ndarray:
    """
    The bin of each row [N], up to BINS of equal mass with at least ROWS_A_BIN rows.

    Equal confidences share a bin, so a constant judge has one and its calibration error is not noise.
    """
    count = max(1, min(BINS, len(confidence) // ROWS_A_BIN))
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, count + 1)[1:-1]))
    return np.unique(np.searchsorted(edges, confidence, side="left"), return_inverse=True)[1]


def row_columns(probs: np.ndarray, verdicts: np.ndarray, orders: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """
    Each row's share of the sums that `figures` reads.

    `probs` [N, K] calibrated, one row a battle; `verdicts` [N] index into VERDICTS; `orders` [N, 2, K] the judge's
    answer in each order, un-swapped, NaN where an order was not run.
    """
    num = probs.shape[1]
    target, chosen = one_hot(verdicts, num), probs.argmax(axis=1)
    confidence = probs.max(axis=1)
    in_bin = one_hot(confidence_bins(confidence), BINS)
    columns = {
        "n": np.ones(len(probs)),
        "log_loss": cross_entropy(target, probs),
        "brier": ((probs - target) ** 2).sum(axis=1),
        "confusion": target[:, :, None] * one_hot(chosen, num)[:, None, :],  # [N, true, chosen]
        "bins": np.stack([in_bin, in_bin * confidence[:, None], in_bin * (chosen == verdicts)[:, None]], axis=1),
    }
    return columns | (_order_columns(orders) if orders is not None else {})


def _order_columns(orders: np.ndarray) -> dict[str, np.ndarray]:
    shown = ~np.isnan(orders).any(axis=2)  # [N, 2]
    chosen = np.where(shown, np.nan_to_num(orders, nan=-1).argmax(axis=2), -1)
    both = shown.all(axis=1)
    decided = shown & (chosen < 2)
    first = decided & (chosen == np.array([0, 1]))  # a stands first in order ab, b in order ba
    return {
        "swap": np.stack([both & (chosen[:, 0] == chosen[:, 1]), both], axis=1).astype(float),
        "first": np.stack([first.sum(axis=1), decided.sum(axis=1)], axis=1).astype(float),
    }


def figures(sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """
    The figures [...] of summed columns [..., *column]; NaN where a figure has nothing to be measured on.

    log_loss in nats; brier summed over verdicts (0 to 2); ece over equal-mass bins of the chosen verdict's
    probability; swap_agreement: both orders choose the same verdict; first_position_rate: of the choices of a
    response, those of the one shown first; macro_f1 over the verdicts that occur; kappa: Cohen's.
    """
    n, confusion, bins = sums["n"], sums["confusion"], sums["bins"]
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    true, chosen = confusion.sum(axis=-1), confusion.sum(axis=-2)
    accuracy, kappa = agreement_and_kappa(confusion)
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = 2 * hits / (true + chosen)
        found = {
            "log_loss": sums["log_loss"] / n,
            "accuracy": accuracy,
            "brier": sums["brier"] / n,
            "ece": np.abs(bins[..., 1, :] - bins[..., 2, :]).sum(axis=-1) / n,
            "tie_recall": hits[..., 2] / true[..., 2] if true.shape[-1] == 3 else np.full_like(n, np.nan),
            "macro_f1": np.nansum(f1, axis=-1) / (~np.isnan(f1)).sum(axis=-1),
            "kappa": kappa,
        }
        for name, column in (("swap_agreement", "swap"), ("first_position_rate", "first")):
            found[name] = sums[column][..., 0] / sums[column][..., 1] if column in sums else np.full_like(n, np.nan)
    return found


def agreement_and_kappa(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of the same verdict, and Cohen's kappa [...], of counts [..., K, K] of one's verdicts by another's."""
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = counts / counts.sum(axis=(-2, -1), keepdims=True)
        same = np.trace(shares, axis1=-2, axis2=-1)
        chance = (shares.sum(axis=-1) * shares.sum(axis=-2)).sum(axis=-1)
        return same, (same - chance) / (1 - chance)


def total(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sum columns over rows, for figures without intervals."""
    return {name: column.sum(axis=0) for name, column in columns.items()}


def resample(
    columns: dict[str, np.ndarray], clusters: np.ndarray, repeats: int = REPEATS, seed: int = 0
) -> dict[str, np.ndarray]:
    """
    Cluster bootstrap: sums [1 + repeats, *column] of row columns [N, *column].

    Row 0 is the data themselves; each other row sums as many clusters as there are, drawn with replacement.
    `clusters` [N] are integers from 0; rows of one prompt share one, as their verdicts are not independent.
    """
    num_rows, num_clusters = len(clusters), int(clusters.max()) + 1
    matrix = np.concatenate([column.reshape(num_rows, -1) for column in columns.values()], axis=1)
    member = sparse.csr_array((np.ones(num_rows), (clusters, np.arange(num_rows))), (num_clusters, num_rows))
    sums = member @ matrix  # [C, m]
    drawn = [sums.sum(axis=0, keepdims=True)]
    drawn += [weights @ sums for weights in cluster_draws(num_clusters, repeats, seed)]
    drawn = np.concatenate(drawn)
    ends = np.cumsum([np.prod(column.shape[1:], dtype=int) for column in columns.values()])
    parts = np.split(drawn, ends[:-1], axis=1)
    return {
        name: part.reshape(-1, *column.shape[1:]) for (name, column), part in zip(columns.items(), parts, strict=True)
    }


def cluster_draws(num_clusters: int, repeats: int = REPEATS, seed: int = 0) -> Iterator[np.ndarray]:
    """How often each of C clusters is drawn, in blocks [count, C] of `repeats` rows in all; a row sums to C."""
    rng = np.random.default_rng(seed)
    step = max(1, _WEIGHTS_AT_ONCE // num_clusters)
    for start in range(0, repeats, step):
        count = min(step, repeats - start)
        picks = rng.integers(num_clusters, size=(count, num_clusters)) + num_clusters * np.arange(count)[:, None]
        weights = np.bincount(picks.ravel(), minlength=count * num_clusters).reshape(count, num_clusters)
        yield weights.astype(float)


def interval(draws: np.ndarray) -> dict[str, float | None]:
    """
    `{"value", "low", "high"}` of draws [1 + repeats] whose first is the data: the percentile interval of 95 %.

    Widened to hold the value where resampling is biased (ece: noise in the bins only adds). None where undefined.
    """
    value, rest = draws[0], draws[1:][np.isfinite(draws[1:])]
    if not np.isfinite(value) or len(rest) == 0:
        return {"value": float(value) if np.isfinite(value) else None, "low": None, "high": None}
    low, high = np.percentile(rest, [2.5, 97.5])
    return {"value": float(value), "low": float(min(low, value)), "high": float(max(high, value))}


def gap_share(loss: np.ndarray, frequencies: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Share of the gap between class frequencies and the best possible that a loss closes: 0 none, 1 all of it."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return (frequencies - loss) / (frequencies - best)
