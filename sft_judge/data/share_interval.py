"""
95 % intervals of shares and of differences of shares over prompts, valid for few prompts and extreme shares too.

Resampled prompts cannot show outcomes that did not happen: a judge that is right on all of 50 battles is right on all
of any resample. These intervals add the successes and failures of Agresti & Coull (1998, "Approximate Is Better than
Exact for Interval Estimation of Binomial Proportions") to the effective number of rows, as in survey statistics (Korn
& Graubard 1998), and use Student's t with the number of prompts.
"""

import numpy as np
from scipy.stats import t

LEAST_PROMPTS = 5  # with fewer prompts no interval is shown
FEW_PROMPTS = 10  # below this an interval is marked


def share_interval(over: np.ndarray, under: np.ndarray) -> tuple[float, float]:
    """
    Compute the interval of a share, within 0 and 1.

    Args:
        over: number of rows of each prompt that count `[C]`.
        under: number of rows of each prompt `[C]`; prompts without rows are left out.
    """
    over, under = over[under > 0], under[under > 0]
    rows, share = under.sum(), over.sum() / under.sum()
    if 0 < share < 1:
        effective = min(rows, share * (1 - share) / max(_variance(over, under), 1e-300))
    else:  # nothing varies: take the effective number of prompts, as if all rows of a prompt were the same
        effective = rows**2 / (under**2).sum()
    z = _quantile(len(under))
    total = effective + z**2
    centre = (effective * share + z**2 / 2) / total
    half = z * np.sqrt(centre * (1 - centre) / total)
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def difference_interval(over: np.ndarray, under: np.ndarray) -> tuple[float, float]:
    """
    Compute the interval of the difference of two paired shares, within -1 and 1.

    The method follows Agresti & Min (2005, "Simple improved confidence intervals for comparing matched proportions"),
    which adds half a pair to each cell of the two-by-two table.

    Args:
        over: rows of each prompt that count for the first share minus those that count for the second `[C]`.
        under: number of rows of each prompt `[C]`; prompts without rows are left out.
    """
    over, under = over[under > 0], under[under > 0]
    pairs = under.sum() ** 2 / (under**2).sum()
    shrunk = pairs / (pairs + 2)
    error = np.sqrt(_variance(over, under) * shrunk**2 + 1 / (pairs + 2) ** 2)
    centre, half = shrunk * over.sum() / under.sum(), _quantile(len(under)) * error
    return float(max(-1.0, centre - half)), float(min(1.0, centre + half))


def _variance(over: np.ndarray, under: np.ndarray) -> float:
    """Compute the variance of a ratio of sums over prompts (Cochran 1977, Sampling Techniques, 6.4)."""
    apart = over - under * over.sum() / under.sum()
    return len(under) / (len(under) - 1) * (apart**2).sum() / under.sum() ** 2


def _quantile(prompts: int) -> float:
    return float(t.ppf(0.975, prompts - 1))
