"""
Ranking of models from contests: the contents of ranking.json except its provenance.

Ratings are on Elo's scale, 400 / ln 10 points per unit of log-odds: 400 points are odds of ten to one. A rank is one
more than the number of models that are significantly better, so models that the data cannot distinguish share ranks.
"""

import numpy as np
from scipy.stats import rankdata

from sft_judge.evaluation.bootstrap import NUM_RESAMPLES, interval
from sft_judge.ranking.bradley_terry import log_probabilities
from sft_judge.ranking.comparisons import Contests, components, largest_group, pair_counts, split_controls
from sft_judge.ranking.rating_draws import parameter_draws

ELO = 400 / np.log(10)  # points per unit of log-odds
MEAN = 1000.0
EQUAL = 1e-6  # smaller differences, in points or shares, are rounding
FEWEST_PROMPTS = 10  # for intervals; coverage is 94 % with 6 models and 30 prompts, 75 % with 2 models and 5 prompts
LEAST_COMMON = 3  # models shared with a reference, for a correlation


def rate_models(
    contests: Contests,
    method: str,
    anchor: tuple[str, float] | None = None,
    reference: dict[str, float] | None = None,
    seed: int = 0,
) -> dict:
    """
    Compute the ranking.

    Figures that the data do not bound are None: ratings of models that only won or only lost, effects of controls that
    too few prompts show, and intervals from fewer than FEWEST_PROMPTS prompts or of figures that no prompt varies.

    Args:
        contests: contests of models that all met, directly or through others, see `split_off`.
        method: bradley-terry or davidson.
        anchor: a model of `bounded_models` and its fixed rating.
        reference: ratings from elsewhere, by model.
        seed: seed of the bootstrap.
    """
    contests, untold = split_controls(contests)
    ties = method == "davidson"
    num_prompts = int(contests.clusters.max()) + 1
    draws = parameter_draws(contests, ties, NUM_RESAMPLES if num_prompts >= FEWEST_PROMPTS else 0, seed)
    size, bounded = len(contests.models), bounded_models(contests)
    strengths, log_nu = draws[:, :size], draws[:, -1] if ties else [None] * len(draws)
    points = ELO * strengths
    anchored = _anchor(points, contests, bounded, anchor)
    scores = np.array([expected_scores(*drawn) for drawn in zip(strengths[:, bounded], log_nu, strict=True)])
    win_rates = np.full(points.shape, np.nan)
    win_rates[:, bounded] = np.nanmean(scores, axis=2) if bounded.any() else np.nan
    outcomes = _outcomes(contests)
    rank, rank_high = rank_ranges(_better(contests, points, log_nu[0], bounded))
    rows = [
        {
            "model": name,
            "rank": int(rank[place]),
            "rank_high": int(rank_high[place]),
            "rating": _figure(anchored[:, place], bounded[place], fixed=anchor is not None and name == anchor[0]),
            "win_rate": _figure(win_rates[:, place], bounded[place]),
            **{key: float(values[place]) for key, values in outcomes.items()},
        }
        for place, name in enumerate(contests.models)
    ]
    order = np.lexsort((contests.models, -anchored[0]))
    predicted = np.full((size, size), np.nan)
    predicted[np.ix_(bounded, bounded)] = scores[0]
    ranking = {
        "method": method,
        "battles": len(contests.clusters),
        "prompts": num_prompts,
        "models": [rows[place] for place in order],
        "unbounded": [name for name, known in zip(contests.models, bounded, strict=True) if not known],
        "matrix": _matrix(contests, predicted, order),
        "controls": [
            {"name": name, "coefficient": _figure(draws[:, size + place])}
            for place, name in enumerate(contests.controls)
        ]
        + [{"name": name, "coefficient": _figure(draws[:, 0], known=False)} for name in untold],
    }
    if ties:  # if all verdicts or none are ties, only the prior determines the parameter
        tied, decided = contests.counts[:, 2].any(), contests.counts[:, :2].any()
        ranking["tie_parameter"] = _figure(np.exp(log_nu), bool(tied and decided))
    known = [name for name, there in zip(contests.models, bounded, strict=True) if there]
    return ranking | ({"reference": correlation(points[:, bounded], known, reference)} if reference else {})


def split_off(contests: Contests) -> tuple[Contests, list[list[str]]]:
    """Select the largest group of models that met, directly or through others, and return the groups left out."""
    groups = components(contests)[0]
    met = largest_group(groups, contests)
    left_out = [
        [contests.models[place] for place in np.flatnonzero(groups == group)] for group in np.unique(groups[~met])
    ]
    return contests.keep(met), left_out


def bounded_models(contests: Contests) -> np.ndarray:
    """
    Return a mask `[M]` of the models whose ratings the data bound.

    They are the largest group in which each model beat or tied each other, directly or through others. All other
    models only won or only lost against this group, or against each other.
    """
    return largest_group(components(contests)[1], contests)


def _figure(draws: np.ndarray, known: bool = True, fixed: bool = False) -> dict[str, float | None]:
    """
    Compute the figure of draws `[1 + R]`, without a value unless `known`, without an interval if no draw varies.

    A `fixed` figure, the anchor's rating, keeps its interval of zero width.
    """
    if not known:
        return {"value": None, "low": None, "high": None}
    figure = interval(draws)
    varies = fixed or (figure["low"] is not None and figure["high"] - figure["low"] > EQUAL)
    return figure if varies else figure | {"low": None, "high": None}


def _anchor(
    points: np.ndarray, contests: Contests, bounded: np.ndarray, anchor: tuple[str, float] | None
) -> np.ndarray:
    """
    Shift points `[D, M]`, whose zero is arbitrary, to ratings `[D, M]`.

    Without an anchor the ratings of the `bounded` models `[M]` have the mean MEAN in the data. Draws are shifted to
    the same mean weighted by battles, so that a model with few battles does not widen the intervals of all others.
    """
    if anchor is not None:
        place = contests.models.index(anchor[0])
        return points - points[:, [place]] + anchor[1]
    if not bounded.any():
        return points
    battles = np.bincount(contests.sides.ravel(), minlength=len(contests.models)) * bounded
    moved = (points - points[0]) @ (battles / battles.sum())
    return points - moved[:, None] - points[0, bounded].mean() + MEAN


def expected_scores(strengths: np.ndarray, log_nu: float | None) -> np.ndarray:
    """
    Compute the expected score of the row's model against the column's `[M, M]`; a tie counts half, the diagonal NaN.

    Args:
        strengths: strengths `[M]`.
        log_nu: log of the tie parameter, None without ties.
    """
    probs = np.exp(log_probabilities(strengths[:, None] - strengths, log_nu))
    scores = probs[..., 0] + (probs[..., 2] / 2 if log_nu is not None else 0)
    np.fill_diagonal(scores, np.nan)
    return scores


def rank_ranges(better: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Compute the best and the worst rank `[M]`.

    Args:
        better: True if the row's model is significantly better than the column's `[M, M]`.
    """
    return 1 + better.sum(axis=0), len(better) - better.sum(axis=1)


def significantly_better(points: np.ndarray) -> np.ndarray:
    """
    Test whether the row's model is significantly better than the column's `[M, M]`.

    It is if the 95 % interval of the difference of their strengths, drawn together, is above zero. Pairs are tested
    without a correction for their number. Without draws no model is significantly better.

    Args:
        points: drawn strengths `[1 + R, M]`.
    """
    better = np.zeros((points.shape[1],) * 2, dtype=bool)
    for place in range(len(better) if len(points) > 1 else 0):
        better[:, place] = np.percentile(points[1:] - points[1:, [place]], 2.5, axis=0) > EQUAL
    return better


def _better(contests: Contests, points: np.ndarray, log_nu: float | None, bounded: np.ndarray) -> np.ndarray:
    """
    Extend `significantly_better` to unbounded models.

    A model that won all its battles against bounded models is significantly better than those bounded models with
    whose strength it would have won all these battles with a probability below 2.5 %; a model that lost all, the
    reverse.
    """
    better = significantly_better(points) & bounded & bounded[:, None]
    for place in np.flatnonzero(~bounded) if len(points) > 1 else []:
        a, b = contests.sides.T
        met = np.flatnonzero(((a == place) & bounded[b]) | ((b == place) & bounded[a]))
        if not len(met):
            continue
        other, prompts = contests.sides[met].sum(axis=1) - place, contests.clusters[met]
        # an unbounded model won all of these battles or lost all of them, so the first one decides
        won = contests.counts[met[0], int(b[met[0]] == place)] > 0
        lead = (points[0, bounded] - points[0, other][:, None]) / ELO  # [battles, bounded], if it had their strength
        surprise = log_probabilities(lead, None if log_nu is None else np.array(log_nu))[..., 0 if won else 1]
        of_prompts = [surprise[prompts == prompt].mean(axis=0) for prompt in np.unique(prompts)]
        clear = np.flatnonzero(bounded)[np.sum(of_prompts, axis=0) < np.log(0.025)]
        better[(place, clear) if won else (clear, place)] = True
    return better


def _outcomes(contests: Contests) -> dict[str, np.ndarray]:
    """Count battles, wins, losses and ties of each model `[M]`; a judge's are sums of probabilities."""
    size, (a, b) = len(contests.models), contests.sides.T
    won_by_a, won_by_b, tied = contests.counts.T
    added = [
        np.bincount(a, of_a, size) + np.bincount(b, of_b, size)
        for of_a, of_b in ((np.ones(len(a)),) * 2, (won_by_a, won_by_b), (won_by_b, won_by_a), (tied, tied))
    ]
    return dict(zip(("battles", "wins", "losses", "ties"), added, strict=True))


def _matrix(contests: Contests, predicted: np.ndarray, order: np.ndarray) -> dict:
    """
    Return scores of the row's model against the column's, in the order of rating: observed, predicted, and battles.
    """
    size = len(contests.models)
    pairs, place, counts = pair_counts(contests)
    sums = np.stack([np.bincount(place, column, len(pairs)) for column in counts.T], axis=1)
    first, second = pairs.T
    observed, battles = np.full((size, size), np.nan), np.zeros((size, size), dtype=int)
    observed[first, second] = (sums[:, 0] + sums[:, 2] / 2) / sums.sum(axis=1)
    observed[second, first] = 1 - observed[first, second]
    battles[first, second] = battles[second, first] = np.bincount(place, minlength=len(pairs))
    parts = {"observed": observed, "predicted": predicted, "battles": battles}
    return {name: _plain(values[np.ix_(order, order)]) for name, values in parts.items()}


def _plain(values: np.ndarray) -> list[list]:
    return [[None if value != value else round(value, 6) for value in row] for row in values.tolist()]


def correlation(points: np.ndarray, models: list[str], reference: dict[str, float]) -> dict:
    """
    Compute Spearman's correlation of strengths with a reference's ratings, over the models of both.

    Args:
        points: drawn strengths `[D, M]`.
        models: names of the models.
        reference: ratings from elsewhere, by model.
    """
    common = [name for name in models if name in reference]
    result = {"models": len(common), "missing": [name for name in models if name not in reference]}
    if len(common) < LEAST_COMMON:
        return result | {"spearman": {"value": None, "low": None, "high": None}}
    ours = rankdata(points[:, [models.index(name) for name in common]], axis=1)
    theirs = rankdata([reference[name] for name in common])
    ours, theirs = ours - ours.mean(axis=1, keepdims=True), theirs - theirs.mean()
    with np.errstate(invalid="ignore", divide="ignore"):
        spearman = (ours @ theirs) / np.sqrt((ours**2).sum(axis=1) * (theirs**2).sum())
    return result | {"spearman": interval(spearman)}
