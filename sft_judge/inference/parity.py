"""
Parity gate: check that two engines, or two forms of one judge, give the same probabilities.

The tolerances are defined only here, as the maximum absolute difference of a probability over the verdicts. If a check
fails, the worst battles are named.
"""

import logging
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import numpy as np

from sft_judge.core.errors import GateError

logger = logging.getLogger(__name__)

TOLERANCES = {
    ("engines", "float32"): 2e-3,
    ("engines", "bfloat16"): 2e-2,
    ("engines", "float16"): 2e-2,
    ("merged", "float32"): 1e-4,
    ("merged", "bfloat16"): 2e-2,
    ("merged", "float16"): 2e-2,
}
WORST_ROWS_NAMED = 3


@dataclass
class Parity:
    """Describe the difference between two scorings [N, K] of the same prompts."""

    name: str
    max_difference: float
    mean_difference: float
    kl: float  # mean KL(first ‖ second), nats
    flips: int  # rows whose most likely verdict differs
    rows: int
    worst: dict[str, float]  # the largest differences, by id and order

    def __str__(self) -> str:
        worst = ", ".join(f"{label} {difference:.1e}" for label, difference in self.worst.items())
        return (
            f"{self.name}: max |Δp| {self.max_difference:.2e}, mean |Δp| {self.mean_difference:.2e}, mean KL "
            f"{self.kl:.1e}, {self.flips} of {self.rows} verdicts flip; worst: {worst}"
        )


def compare_scores(name: str, logp: np.ndarray, other: np.ndarray, labels: list[str]) -> Parity:
    """
    Compare two scorings of the same rows.

    Args:
        name: name of the comparison.
        logp: log-probabilities of the first scoring [N, K].
        other: log-probabilities of the second scoring [N, K].
        labels: name of each row [N].
    """
    difference = np.abs(np.exp(logp) - np.exp(other)).max(axis=1)
    with np.errstate(invalid="ignore"):  # a verdict with probability 0 contributes 0 to the KL
        kl = np.where(logp == -np.inf, 0.0, np.exp(logp) * (logp - other)).sum(axis=1).mean()
    flips = int((logp.argmax(axis=1) != other.argmax(axis=1)).sum())
    order = np.argsort(-np.nan_to_num(difference, nan=np.inf), kind="stable")
    worst = {labels[row]: float(difference[row]) for row in order[:WORST_ROWS_NAMED]}
    return Parity(name, float(difference.max()), float(difference.mean()), float(kl), flips, len(labels), worst)


def check_tolerance(parity: Parity, tolerance: float) -> None:
    """
    Raise `GateError` if the largest difference is above `tolerance` or NaN.

    Args:
        parity: the comparison.
        tolerance: maximum difference of a probability.
    """
    if not parity.max_difference <= tolerance:
        raise GateError(f"Parity gate: {parity}; the tolerance is {tolerance:g}.")


def check_parity(
    kind: str,
    name: str,
    precision: str,
    logp: np.ndarray,
    other: np.ndarray,
    labels: list[str],
    tolerance: float | None = None,
) -> Parity:
    """
    Compare two scorings, log the result, and check it against the tolerance.

    Args:
        kind: `engines` or `merged`.
        name: name of the comparison.
        precision: dtype of the judge; with `kind` it selects the tolerance.
        logp: log-probabilities of the first scoring [N, K].
        other: log-probabilities of the second scoring [N, K].
        labels: name of each row [N].
        tolerance: maximum difference of a probability; by default that of TOLERANCES.

    Raises:
        GateError: the difference is above the tolerance.
    """
    parity = compare_scores(f"{name} ({precision})", logp, other, labels)
    logger.info(str(parity))
    check_tolerance(parity, tolerance or TOLERANCES[kind, precision])
    return parity


class Rise(NamedTuple):
    """Hold the mean rise of the log loss in nats, its paired 95 % interval, and the number of battles."""

    value: float
    low: float
    high: float
    rows: int

    def __str__(self) -> str:
        return f"{self.value:+.4f} [{self.low:+.4f}, {self.high:+.4f}] on {self.rows} battles"

    def visible(self) -> float:
        """Return the smallest rise that these battles can distinguish from 0: half the width of the interval."""
        return (self.high - self.low) / 2

    def rows_to_see(self, tolerance: float) -> int:
        """Return the number of such battles needed to distinguish a rise of `tolerance` from 0."""
        return ceil(self.rows * (self.visible() / tolerance) ** 2)


def log_loss_rise(logp: np.ndarray, other: np.ndarray, targets: np.ndarray) -> Rise:
    """
    Compute the rise of the log loss between two scorings.

    Args:
        logp: log-probabilities of the first scoring [N, K], N >= 2.
        other: log-probabilities of the second scoring [N, K].
        targets: labels as shares of verdicts [N, K].
    """
    with np.errstate(invalid="ignore"):  # a verdict with probability 0 counts only if it is in the label
        rise = np.where(targets > 0, targets * (logp - other), 0.0).sum(axis=1)
        margin = 1.96 * rise.std(ddof=1) / np.sqrt(len(rise))
    return Rise(float(rise.mean()), float(rise.mean() - margin), float(rise.mean() + margin), len(rise))


def check_log_loss_rise(name: str, rise: Rise, tolerance: float) -> None:
    """
    Raise `GateError` if the log loss rises significantly (its interval is above 0) and by more than `tolerance`.

    Log a warning if the battles are too few to detect a rise of `tolerance`.

    Args:
        name: the judge that was compared.
        rise: the rise of its log loss.
        tolerance: accepted rise in nats.
    """
    if not (rise.low <= 0 or rise.value <= tolerance):
        raise GateError(
            f"Parity gate: {name} raises the log loss by {rise}: significantly above 0, and more than the tolerance "
            f"of {tolerance:g}. Use more bits or more tuning, or raise --tolerance."
        )
    if rise.visible() > tolerance:
        logger.warning(
            f"{rise.rows} battles can detect a rise of at least {rise.visible():.2g} nats; "
            f"{rise.rows_to_see(tolerance)} are needed to detect a rise of {tolerance:g} (--tolerance)."
        )
