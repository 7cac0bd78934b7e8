"""
95 % intervals of shares and of their differences, over prompts, where counts are few or extreme too.

Resampled prompts cannot show what did not happen: a judge that is right on all of 50 battles would be right on all of
any resample of them. These add the successes and failures of Agresti & Coull (1998, "Approximate Is Better than Exact
for Interval Estimation of Binomial Proportions") to as many rows as the prompts are worth, the effective number of
survey statistics (Korn & Graubard 1998), with Student's t for the few prompts that tell it.
"""

import numpy as np
from scipy.stats import t

LEAST_PROMPTS = 5  # no interval is shown of fewer
FEW_PROMPTS = 10  # below this an interval is marked


def share_interval(over: np.ndarray, under: np.ndarray) -> tuple[float, float]:
    """
    The ends of a share's interval, between 0 and 1.

    Args:
        over: of each prompt [C], the rows that count.
        under: of each prompt [C], all rows; prompts of none are left out.
    """
    over, under = over[under > 0], under[under > 0]
    rows, share = under.sum(), over.sum() / under.sum()
    if 0 < share < 1:
        effective = min(rows, share * (1 - share) / max(_variance(over, under), 1e-300))
    else:  # nothing varies; were rows of a prompt as one, there would be so many
        effective = rows**2 / (under**2).sum()
    z = _quantile(len(under))
    total = effective + z**2
    centre = (effective * share + z**2 / 2) / total
    half = z * np.sqrt(centre * (1 - centre) / total)
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def difference_interval(over: np.ndarray, under: np.ndarray) -> tuple[float, float]:
    """
    The ends of the interval of two paired shares' difference, between -1 and 1.

    As Agresti & Min (2005, "Simple improved confidence intervals for comparing matched proportions") have it: half a
    pair is added to each cell of the two by two table.

    Args:
        over: of each prompt [C], the rows that count for the first less those that count for the second.
        under: of each prompt [C], all rows; prompts of none are left out.
    """
    over, under = over[under > 0], under[under > 0]
    pairs = under.sum() ** 2 / (under**2).sum()
    shrunk = pairs / (pairs + 2)
    error = np.sqrt(_variance(over, under) * shrunk**2 + 1 / (pairs + 2) ** 2)
    centre, half = shrunk * over.sum() / under.sum(), _quantile(len(under)) * error
    return float(max(-1.0, centre - half)), float(min(1.0, centre + half))


def _variance(over: np.ndarray, under: np.ndarray) -> float:
    """The variance of a ratio of sums over prompts (Cochran 1977, Sampling Techniques, 6.4)."""
    apart = over - under * over.sum() / under.sum()
    return len(under) / (len(under) - 1) * (apart**2).sum() / under.sum() ** 2


def _quantile(prompts: int) -> float:
    return float(t.ppf(0.975, prompts - 1))
