"""
Intervals by resampling whole prompts, for every figure that is a function of sums over rows.

Each row contributes to every sum (`metrics.row_columns`). `resample` draws prompts with replacement, and a figure of
the drawn sums is one draw of the figure (`interval`). The same clusters and seed draw the same prompts, so the
difference of two judges' draws is a paired difference. Intervals of shares come from data/share_interval.py. A prompt
is a group of near-equal prompts and follow-ups, the same groups as for folds (data/preparing/prompt_groups.py).
"""

import numpy as np
from scipy.stats import norm, t

from sft_judge.data.share_interval import FEW_PROMPTS, LEAST_PROMPTS, difference_interval, share_interval

NUM_RESAMPLES = 1000
MIN_PROMPTS = 30  # below this an interval of resampled prompts is rough
MIN_ERRORS = 10  # rows; with fewer, the interval of a loss is too narrow, as it lacks errors that were not seen
POWER = 0.8  # probability with which `rows_needed` would detect a difference, at a level of 5 %
_WEIGHTS_AT_ONCE = 16_000_000  # 128 MB


class Draws(dict):
    """
    Sums `[1 + repeats, *column]` by column name: row 0 is the data, each further row a resample.

    Attributes:
        of_prompts: sums `[C, *column]` of each of the C prompts, by the same names.
    """

    of_prompts: dict[str, np.ndarray]


def resample(
    columns: dict[str, np.ndarray], clusters: np.ndarray, repeats: int = NUM_RESAMPLES, seed: int = 0
) -> Draws:
    """
    Resample clusters with replacement and sum the row columns (cluster bootstrap).

    Rows of one prompt share a cluster because their verdicts are not independent.

    Args:
        columns: row columns `[N, *column]` by name.
        clusters: cluster of each row `[N]`, integers from 0.
        repeats: number of resamples.
        seed: seed of the resampling.

    Returns:
        Sums `[1 + repeats, *column]`. Row 0 is the data; each other row sums as many drawn clusters as there are
        clusters. Resamples are NaN if there is only one cluster.
    """
    sums = cluster_sums(columns, clusters)  # [C, m]
    drawn = np.full((1 + repeats, sums.shape[1]), np.nan)
    drawn[0] = sums.sum(axis=0)
    if len(sums) > 1:
        start = 1
        for weights in cluster_draws(len(sums), repeats, seed):
            drawn[start : start + len(weights)] = weights @ sums
            start += len(weights)
    ends = np.cumsum([np.prod(column.shape[1:], dtype=int) for column in columns.values()])
    shapes = [(-1, *column.shape[1:]) for column in columns.values()]
    named = [
        {name: part.reshape(shape) for name, part, shape in zip(columns, parts, shapes, strict=True)}
        for parts in (np.split(table, ends[:-1], axis=1) for table in (drawn, sums))
    ]
    draws = Draws(named[0])
    draws.of_prompts = named[1]
    return draws


def cluster_sums(columns: dict[str, np.ndarray], clusters: np.ndarray) -> np.ndarray:
    """
    Sum row columns within clusters and concatenate them to `[C, m]`.

    Columns are summed one at a time to save memory.

    Args:
        columns: row columns `[N, *column]` by name.
        clusters: cluster of each row `[N]`, integers from 0.
    """
    count = int(clusters.max()) + 1
    flat = [column.reshape(len(clusters), -1) for column in columns.values()]
    sums = np.empty((count, sum(column.shape[1] for column in flat)))
    places = iter(range(sums.shape[1]))
    for column in flat:
        for part in column.T:
            sums[:, next(places)] = np.bincount(clusters, part, minlength=count)
    return sums


def cluster_draws(count: int, repeats: int = NUM_RESAMPLES, seed: int = 0, keep_all: bool = False):
    """
    Yield the weight of each cluster in each resample, in blocks `[some, count]` of `repeats` rows in all.

    Args:
        count: number of clusters.
        repeats: number of resamples.
        seed: seed of the resampling.
        keep_all: draw weights of the Bayesian bootstrap (Rubin 1981) instead of counts. They have the same mean and
            variance but are never 0, for figures that are undefined if some clusters are missing.
    """
    rng = np.random.default_rng(seed)
    step = max(1, _WEIGHTS_AT_ONCE // count)
    for start in range(0, repeats, step):
        weights = np.empty((min(step, repeats - start), count))
        for row in weights:
            if keep_all:
                rng.standard_exponential(out=row)
                row *= count / row.sum()
            else:
                row[:] = np.bincount(rng.integers(count, size=count, dtype=np.uint32), minlength=count)
        yield weights


def interval(
    draws: np.ndarray,
    under: np.ndarray | None = None,
    over: np.ndarray | None = None,
    *,
    difference: bool = False,
    raised: bool = False,
) -> dict[str, float | int | None]:
    """
    Compute the 95 % interval of a figure.

    Args:
        draws: the figure `[1 + repeats]` of the data and of each resample.
        under: denominator of the figure in each prompt `[C]`, such as its rows; 0 if the prompt says nothing. If None,
            every prompt counts as informative.
        over: numerator of a share in each prompt `[C]`. The interval is then that of `share_interval`, or of
            `difference_interval` if `difference`. If None, the interval is that of the draws' percentiles, which are
            set further apart for fewer prompts (Hesterberg 2015, "What Teachers Should Know About the Bootstrap",
            section 4.3), and is widened to contain the value.
        difference: the figure is a difference of two shares.
        raised: the figure is never negative and noise only raises it, once in the data and once more in each resample,
            so the resamples lie above the value. The lower end is therefore at most the upper end reflected at the
            value, and not below 0. If the true figure is 0, the lower end is 0 in nine of ten cases.

    Returns:
        `{"value", "low", "high"}`: all None if undefined; no ends for fewer than LEAST_PROMPTS prompts or if no draw
        differs from another. `prompts`, their number, is added if it is below FEW_PROMPTS.
    """
    value, rest = draws[0], draws[1:][np.isfinite(draws[1:])]
    if not np.isfinite(value):
        return {"value": None, "low": None, "high": None}
    prompts = None if under is None else int(np.count_nonzero(under))
    few = {} if prompts is None or prompts >= FEW_PROMPTS else {"prompts": prompts}
    if len(rest) == 0 or (prompts is not None and prompts < LEAST_PROMPTS) or (over is None and np.ptp(rest) < 1e-12):
        return {"value": float(value), "low": None, "high": None, **few}
    if over is not None:
        low, high = (difference_interval if difference else share_interval)(over, under)
    else:
        low, high = np.percentile(rest, _levels(prompts))
        low = max(0.0, min(low, 2 * value - high)) if raised else low
    return {"value": float(value), "low": float(min(low, value)), "high": float(max(high, value)), **few}


def _levels(prompts: int | None) -> tuple[float, float]:
    """Return the percentiles of the ends of a 95 % interval; 2.5 and 97.5 for very many prompts."""
    z = norm.ppf(0.975) if prompts is None else t.ppf(0.975, prompts - 1) * np.sqrt(prompts / (prompts - 1))
    return 100 * norm.cdf(-z), 100 * norm.cdf(z)


def share(draws: Draws, name: str, over: int, under: int) -> dict[str, float | int | None]:
    """
    Compute the interval of a share whose numerator and denominator are two entries of one column `[..., entries]`.

    Args:
        draws: resampled columns.
        name: the column.
        over: index of the numerator.
        under: index of the denominator.
    """
    sums, of_prompts = draws[name], draws.of_prompts[name]
    with np.errstate(invalid="ignore", divide="ignore"):
        return interval(sums[:, over] / sums[:, under], of_prompts[:, under], of_prompts[:, over])


def standard_error(draws: np.ndarray) -> float | None:
    """Return the standard deviation of a figure's draws `[1 + repeats]`, or None if the figure is undefined."""
    rest = draws[1:][np.isfinite(draws[1:])]
    return float(rest.std(ddof=1)) if np.isfinite(draws[0]) and len(rest) > 1 else None


def p_value(draws: np.ndarray, under: np.ndarray | None = None) -> float | None:
    """
    Compute the two-sided p-value of a difference against zero, from its standard error.

    Args:
        draws: the difference `[1 + repeats]`.
        under: as in `interval`. Student's t is used with the number of informative prompts.

    Returns:
        None if the difference is undefined or has fewer than LEAST_PROMPTS prompts.
    """
    error = standard_error(draws)
    prompts = None if under is None else int(np.count_nonzero(under))
    if error is None or (prompts is not None and prompts < LEAST_PROMPTS):
        return None
    if error == 0:
        return float(draws[0] == 0)
    z = abs(draws[0]) / error
    return float(2 * (norm.sf(z) if prompts is None else t.sf(z, prompts - 1)))


def rows_needed(draws: np.ndarray, rows: int) -> dict[str, int | None] | None:
    """
    Estimate the number of rows that would distinguish a difference of this size from zero, at 5 % and with POWER.

    Args:
        draws: the difference `[1 + repeats]` on these rows.
        rows: number of these rows. The standard error falls with the square root of the rows.

    Returns:
        `{"low", "high"}`, for the larger and the smaller end of the difference's own interval, rounded to two digits.
        `high` is None if the interval contains zero, as no number of rows is certain to suffice. None if the
        difference is zero or has no standard error.
    """
    error = standard_error(draws)
    if not error or draws[0] == 0:
        return None
    reach = norm.ppf(0.975) * error
    wanted = (norm.ppf(0.975) + norm.ppf(POWER)) * error
    low, high = (
        None if end <= 0 else _two_digits(rows * (wanted / end) ** 2)
        for end in (abs(draws[0]) + reach, abs(draws[0]) - reach)
    )
    return {"low": low, "high": high}


def _two_digits(number: float) -> int:
    """Round a number of rows to two digits, at least 1."""
    return max(1, int(float(f"{number:.1e}")))
