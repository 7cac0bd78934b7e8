"""
Means and differences over seeds and battles, with intervals that allow for both.

A difference that should hold for other seeds and other battles varies with both. The variance of its mean is the
variance of the seeds' means plus that of the battles' means, with Satterthwaite's degrees of freedom (Clark 1973, "The
language-as-fixed-effect fallacy", min F'). The interaction of seeds and battles is counted twice, so intervals are
conservative.
"""

from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import t


@dataclass
class Mean:
    """
    A mean with its interval.

    Attributes:
        value: the mean.
        low: lower end of the interval.
        high: upper end of the interval.
        p: two-sided p-value against zero.
        seeds: number of seeds.
        spread: standard deviation between seeds, None for a single seed.
    """

    value: float
    low: float
    high: float
    p: float
    seeds: int
    spread: float | None

    def as_dict(self) -> dict:
        """Return the fields as a dictionary, for JSON."""
        return asdict(self)


def crossed_mean(values: np.ndarray, clusters: np.ndarray, confidence: float = 0.95) -> Mean:
    """
    Compute the mean over S seeds and N battles. With one seed the interval is over battles only.

    Args:
        values: values `[S, N]`.
        clusters: prompt of each battle `[N]`; battles of one prompt are not independent.
        confidence: coverage of the interval.
    """
    num_seeds, value = len(values), values.mean()
    parts = [_over_battles(values.mean(axis=0), clusters)]
    by_seed = values.mean(axis=1)
    if num_seeds > 1:
        parts.append((by_seed.var(ddof=1) / num_seeds, num_seeds - 1))
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return Mean(float(value), float(value), float(value), 1.0 if value == 0 else 0.0, num_seeds, 0.0)
    freedom = variance**2 / sum(part**2 / free for part, free in parts)
    error = np.sqrt(variance)
    margin = t.ppf(0.5 + confidence / 2, freedom) * error
    spread = float(by_seed.std(ddof=1)) if num_seeds > 1 else None
    p = 2 * t.sf(abs(value) / error, freedom)
    return Mean(float(value), float(value - margin), float(value + margin), float(p), num_seeds, spread)


def _over_battles(values: np.ndarray, clusters: np.ndarray) -> tuple[float, int]:
    """Return the variance of the mean of `values` `[N]` over clusters, and its degrees of freedom."""
    count = int(clusters.max()) + 1
    sums = np.bincount(clusters, values - values.mean(), minlength=count)
    return float((sums**2).sum() * count / (count - 1) / len(values) ** 2), count - 1


def describe_difference(difference: Mean, higher_is_better: bool) -> str:
    """
    Describe a difference from a reference as `better`, `worse`, or `no difference seen`.

    Args:
        difference: the difference.
        higher_is_better: True for accuracy, False for a loss.
    """
    if difference.low <= 0 <= difference.high:
        return "no difference seen"
    return "better" if (difference.value > 0) == higher_is_better else "worse"
