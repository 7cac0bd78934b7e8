"""
Intervals by resampling whole prompts, for every figure that is a function of sums over rows.

Each row has its share of every sum (`metrics.row_columns`); prompts are drawn again with replacement (`resample`), and
a figure of the drawn sums is one draw of it (`interval`). The same clusters and seed draw the same prompts, so a
difference of two judges' draws is a paired one. Shares have the intervals of data/share_interval.py. Nothing here
knows what the figures mean. A prompt is a group of near-equal prompts and follow-ups, as folds have them
(data/preparing/prompt_groups.py).
"""

import numpy as np
from scipy.stats import norm, t

from sft_judge.data.share_interval import FEW_PROMPTS, LEAST_PROMPTS, difference_interval, share_interval

NUM_RESAMPLES = 1000
MIN_PROMPTS = 30  # below this an interval of resampled prompts is rough
MIN_ERRORS = 10  # rows; of a loss with fewer an interval is too narrow, as no error is drawn that is not there
POWER = 0.8  # with which `rows_needed` would see a difference, at 5 %
_WEIGHTS_AT_ONCE = 16_000_000  # 128 MB of them


class Draws(dict):
    """
    Sums [1 + repeats, *column] by name, of the data themselves and then of each draw of prompts.

    `of_prompts` are the sums [C, *column] of each of the C prompts, by the same names.
    """

    of_prompts: dict[str, np.ndarray]


def resample(
    columns: dict[str, np.ndarray], clusters: np.ndarray, repeats: int = NUM_RESAMPLES, seed: int = 0
) -> Draws:
    """
    Cluster bootstrap: sums [1 + repeats, *column] of row columns [N, *column].

    Row 0 is the data themselves; each other row sums as many clusters as there are, drawn with replacement, NaN where
    there is but one. `clusters` [N] are integers from 0; rows of one prompt share one, as their verdicts are not
    independent.
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
    """Row columns [N, *column] summed within clusters and laid side by side: [C, m]. One at a time, for the memory."""
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
    How often each of `count` clusters is drawn, as arrays [some, count] that are `repeats` rows in all.

    With `keep_all` weights of the Bayesian bootstrap (Rubin 1981), of the same mean and variance but never 0: for
    figures that are not defined where some clusters are missing.
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
    The 95 % interval of a figure.

    Args:
        draws: the figure [1 + repeats] of the data and of each draw of prompts.
        under: what each prompt [C] has of that which the figure is measured on, such as its rows; 0 where it says
            nothing. Left out, every prompt is taken to say something.
        over: of a share, what of `under` counts, by prompt [C]: its interval is then that of `share_interval`, or of
            `difference_interval` if it is the `difference` of two shares. Left out, it is that of the draws'
            percentiles, those of fewer prompts further apart (Hesterberg 2015, "What Teachers Should Know About the
            Bootstrap", section 4.3), widened to hold the value.
        raised: of a figure of zero or more that noise can only add to, as it does in each draw once more. All draws
            then lie above what the data's own noise has added already, so the low end is that of the interval
            reflected at the value: of judges whose figure is truly zero it is zero nine times in ten.

    Returns:
        `{"value", "low", "high"}`: all None where undefined, no ends of fewer than LEAST_PROMPTS prompts, or where no
        draw differs from another. `prompts`, their number, stands there too where it is below FEW_PROMPTS.
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
    """The percentiles that are the ends of a 95 % interval; 2.5 and 97.5 of very many prompts."""
    z = norm.ppf(0.975) if prompts is None else t.ppf(0.975, prompts - 1) * np.sqrt(prompts / (prompts - 1))
    return 100 * norm.cdf(-z), 100 * norm.cdf(z)


def share(draws: Draws, name: str, over: int, under: int) -> dict[str, float | int | None]:
    """The interval of a share whose parts are two places of one column [..., places]."""
    sums, of_prompts = draws[name], draws.of_prompts[name]
    with np.errstate(invalid="ignore", divide="ignore"):
        return interval(sums[:, over] / sums[:, under], of_prompts[:, under], of_prompts[:, over])


def standard_error(draws: np.ndarray) -> float | None:
    """The standard deviation of a figure's draws [1 + repeats], None where the figure is undefined."""
    rest = draws[1:][np.isfinite(draws[1:])]
    return float(rest.std(ddof=1)) if np.isfinite(draws[0]) and len(rest) > 1 else None


def p_value(draws: np.ndarray, under: np.ndarray | None = None) -> float | None:
    """
    Two-sided p of a difference against zero, by its standard error.

    Args:
        draws: the difference [1 + repeats].
        under: as in `interval`; Student's t is for so many prompts.

    Returns:
        None where the difference is undefined, or of fewer than LEAST_PROMPTS prompts.
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
    Rows like these that would tell a difference of this size from none, at 5 % and with POWER.

    Args:
        draws: the difference [1 + repeats] on these rows.
        rows: how many they are. The standard error falls with the root of the rows.

    Returns:
        `{"low", "high"}`, of the larger and the smaller end of the difference's own interval, in two digits; `high` is
        None where that interval holds zero: no number of rows is sure to do. None where nothing is known.
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
    """A number of rows, of which two digits are known, and at least 1."""
    return max(1, int(float(f"{number:.1e}")))
