"""
Intervals by resampling whole prompts, for every figure that is a function of sums over rows.

Each row has its share of every sum (`metrics.row_columns`); prompts are drawn again with replacement (`resample`), and
a figure of the drawn sums is one draw of it (`interval`). The same clusters and seed draw the same prompts, so a
difference of two judges' draws is a paired one. Nothing here knows what the figures mean. A prompt is a group of
near-equal prompts and follow-ups, as folds have them (data/preparing/prompt_groups.py).
"""

import numpy as np
from scipy.stats import norm

NUM_RESAMPLES = 1000
MIN_PROMPTS = 30  # below this an interval of resampled prompts is too narrow
POWER = 0.8  # with which `rows_needed` would see a difference, at 5 %
_WEIGHTS_AT_ONCE = 16_000_000  # 128 MB of them


def resample(
    columns: dict[str, np.ndarray], clusters: np.ndarray, repeats: int = NUM_RESAMPLES, seed: int = 0
) -> dict[str, np.ndarray]:
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
    parts = np.split(drawn, ends[:-1], axis=1)
    shapes = {name: (-1, *column.shape[1:]) for name, column in columns.items()}
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


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


def interval(draws: np.ndarray, raised: bool = False) -> dict[str, float | None]:
    """
    `{"value", "low", "high"}` of draws [1 + repeats] whose first is the data: the percentile interval of 95 %, widened
    to hold the value. None where undefined.

    `raised`: of a figure of zero or more that noise can only add to, as it does in each draw once more. All draws then
    lie above what the data's own noise has added already, so the low end is that of the interval reflected at the
    value: of judges whose figure is truly zero it is zero nine times in ten, where it never was without.
    """
    value, rest = draws[0], draws[1:][np.isfinite(draws[1:])]
    if not np.isfinite(value) or len(rest) == 0:
        return {"value": float(value) if np.isfinite(value) else None, "low": None, "high": None}
    low, high = np.percentile(rest, [2.5, 97.5])
    low = max(0.0, min(low, 2 * value - high)) if raised else low
    return {"value": float(value), "low": float(min(low, value)), "high": float(max(high, value))}


def standard_error(draws: np.ndarray) -> float | None:
    """The standard deviation of a figure's draws [1 + repeats], None where the figure is undefined."""
    rest = draws[1:][np.isfinite(draws[1:])]
    return float(rest.std(ddof=1)) if np.isfinite(draws[0]) and len(rest) > 1 else None


def p_value(draws: np.ndarray) -> float | None:
    """Two-sided p of a difference [1 + repeats draws] against zero, by its standard error; None where undefined."""
    error = standard_error(draws)
    if error is None:
        return None
    return float(2 * norm.sf(abs(draws[0]) / error)) if error > 0 else float(draws[0] == 0)


def rows_needed(draws: np.ndarray, rows: int) -> int | None:
    """
    Rows like these that would tell a difference of this size from none, at 5 % and with POWER; None where it is zero.

    `draws` [1 + repeats] are the difference's, on `rows` rows. The standard error falls with the root of the rows.
    """
    error = standard_error(draws)
    if error is None or draws[0] == 0:
        return None
    return int(np.ceil(rows * ((norm.ppf(0.975) + norm.ppf(POWER)) * error / draws[0]) ** 2))
