"""
The parity gate: two engines, or two forms of one judge, give the same probabilities, or the worst battle is named.

The tolerances are the project's promises, as max |difference of a probability| over verdicts, and stand here alone.
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
WORST_ROWS_NAMED = 3  # battles named


@dataclass
class Parity:
    """How a second scoring [N, K] of the same prompts differs from the first."""

    name: str
    max_difference: float
    mean_difference: float
    kl: float  # mean KL(first ‖ second), nats
    flips: int  # rows whose most likely verdict differs
    rows: int
    worst: dict[str, float]  # id and order of the rows that differ most, and by how much

    def __str__(self) -> str:
        worst = ", ".join(f"{label} {difference:.1e}" for label, difference in self.worst.items())
        return (
            f"{self.name}: max |Δp| {self.max_difference:.2e}, mean |Δp| {self.mean_difference:.2e}, mean KL "
            f"{self.kl:.1e}, {self.flips} of {self.rows} verdicts flip; worst: {worst}"
        )


def compare_scores(name: str, logp: np.ndarray, other: np.ndarray, labels: list[str]) -> Parity:
    """Compare log-probabilities [N, K] of the same rows; `labels` [N] name them."""
    difference = np.abs(np.exp(logp) - np.exp(other)).max(axis=1)
    with np.errstate(invalid="ignore"):  # a verdict without probability adds nothing
        kl = np.where(logp == -np.inf, 0.0, np.exp(logp) * (logp - other)).sum(axis=1).mean()
    flips = int((logp.argmax(axis=1) != other.argmax(axis=1)).sum())
    order = np.argsort(-np.nan_to_num(difference, nan=np.inf), kind="stable")
    worst = {labels[row]: float(difference[row]) for row in order[:WORST_ROWS_NAMED]}
    return Parity(name, float(difference.max()), float(difference.mean()), float(kl), flips, len(labels), worst)


def check_tolerance(parity: Parity, tolerance: float) -> None:
    """Raise `GateError` where the largest difference is above `tolerance`, or not a number."""
    if not parity.max_difference <= tolerance:
        raise GateError(f"Parity gate: {parity}; allowed is {tolerance:g}.")


def check_parity(
    kind: str, name: str, precision: str, logp: np.ndarray, other: np.ndarray, labels: list[str]
) -> Parity:
    """Compare, log, and hold to the promise of this kind and precision."""
    parity = compare_scores(f"{name} ({precision})", logp, other, labels)
    logger.info(str(parity))
    check_tolerance(parity, TOLERANCES[kind, precision])
    return parity


class Rise(NamedTuple):
    """The mean rise of the log loss in nats, with its paired 95 % interval, on so many battles."""

    value: float
    low: float
    high: float
    rows: int

    def __str__(self) -> str:
        return f"{self.value:+.4f} [{self.low:+.4f}, {self.high:+.4f}] on {self.rows} battles"

    def visible(self) -> float:
        """The smallest rise that these battles tell from none: half of the interval."""
        return (self.high - self.low) / 2

    def rows_to_see(self, tolerance: float) -> int:
        """Battles like these that tell a rise of `tolerance` from none."""
        return ceil(self.rows * (self.visible() / tolerance) ** 2)


def log_loss_rise(logp: np.ndarray, other: np.ndarray, targets: np.ndarray) -> Rise:
    """The rise of the log loss from `logp` to `other` [N, K], N >= 2, of labels that are shares of verdicts [N, K]."""
    with np.errstate(invalid="ignore"):  # a verdict without probability counts where it is a label
        rise = np.where(targets > 0, targets * (logp - other), 0.0).sum(axis=1)
        margin = 1.96 * rise.std(ddof=1) / np.sqrt(len(rise))
    return Rise(float(rise.mean()), float(rise.mean() - margin), float(rise.mean() + margin), len(rise))


def check_log_loss_rise(name: str, rise: Rise, tolerance: float) -> None:
    """
    Raise `GateError` where the log loss has certainly risen (its interval is above 0), by more than `tolerance` nats.

    Warns where a rise of `tolerance` could not have been seen on these battles.
    """
    if not (rise.low <= 0 or rise.value <= tolerance):
        raise GateError(
            f"Parity gate: {name} raises the log loss by {rise}: certainly above 0, and by more than the tolerance of "
            f"{tolerance:g}. Take more bits or more tuning, or give --tolerance what it may cost."
        )
    if rise.visible() > tolerance:
        logger.warning(
            f"{rise.rows} battles see a rise of {rise.visible():.2g} nats at best; "
            f"{rise.rows_to_see(tolerance)} would see one of {tolerance:g} (--tolerance)."
        )
