"""
Contests to a ranking: everything that ranking.json says but for where it is from.

Ratings are on Elo's scale, 400 / ln 10 to a unit of log-odds: 400 points are odds of ten to one. A rank is one more
than the number of models that are significantly better, so models that the data cannot tell apart share ranks.
"""

import numpy as np
from scipy.stats import rankdata

from sft_judge.evaluation.bootstrap import NUM_RESAMPLES, interval
from sft_judge.ranking.bradley_terry import log_probabilities
from sft_judge.ranking.comparisons import Contests, components, largest_group, pair_counts
from sft_judge.ranking.rating_draws import parameter_draws

ELO = 400 / np.log(10)  # points to a unit of log-odds
MEAN = 1000.0
LEAST_COMMON = 3  # models in a reference, for a correlation with it


def rate_models(
    contests: Contests,
    method: str,
    anchor: tuple[str, float] | None = None,
    reference: dict[str, float] | None = None,
    seed: int = 0,
) -> dict:
    """
    The ranking. `contests` hold models that all met, directly or through others: see `split_off`.

    `anchor` is a model and its rating, `reference` ratings from elsewhere. One prompt alone gives no intervals.
    """
    ties = method == "davidson"
    repeats = NUM_RESAMPLES if contests.clusters.any() else 0
    draws = parameter_draws(contests, ties, repeats, seed)
    size = len(contests.models)
    strengths, log_nu = draws[:, :size], draws[:, -1] if ties else [None] * len(draws)
    points = ELO * strengths
    anchored = _anchor(points, contests, anchor)
    scores = (expected_scores(*drawn) for drawn in zip(strengths, log_nu, strict=True))
    win_rates = np.array([np.nanmean(score, axis=1) for score in scores])
    outcomes = _outcomes(contests)
    rank, rank_high = rank_ranges(points)
    rows = [
        {
            "model": name,
            "rank": int(rank[place]),
            "rank_high": int(rank_high[place]),
            "rating": interval(anchored[:, place]),
            "win_rate": interval(win_rates[:, place]),
            **{key: float(values[place]) for key, values in outcomes.items()},
        }
        for place, name in enumerate(contests.models)
    ]
    order = np.lexsort((contests.models, -anchored[0]))
    ranking = {
        "method": method,
        "battles": len(contests.clusters),
        "prompts": int(contests.clusters.max()) + 1,
        "models": [rows[place] for place in order],
        "matrix": _matrix(contests, expected_scores(strengths[0], log_nu[0]), order),
        "controls": [
            {"name": name, "coefficient": interval(draws[:, size + place])}
            for place, name in enumerate(contests.controls)
        ],
    }
    ranking |= {"tie_parameter": interval(np.exp(log_nu))} if ties else {}
    return ranking | ({"reference": correlation(points, contests.models, reference)} if reference else {})


def split_off(contests: Contests) -> tuple[Contests, list[str], list[str]]:
    """
    The largest group of models that met, directly or through others; the models left out; and those of the group whose
    ratings no data bound, as they only won or only lost against the largest group that has both.
    """
    met = largest_group(components(contests)[0], contests.sides)
    left_out = [name for name, there in zip(contests.models, met, strict=True) if not there]
    ranked = contests.keep(met)
    bounded = largest_group(components(ranked)[1], ranked.sides)
    return ranked, left_out, [name for name, there in zip(ranked.models, bounded, strict=True) if not there]


def _anchor(points: np.ndarray, contests: Contests, anchor: tuple[str, float] | None) -> np.ndarray:
    """
    Ratings [D, M] from points [D, M] whose zero means nothing.

    With no anchor the data's ratings have a mean of MEAN, and those of a draw the same mean weighted by battles, so
    that a model of few battles does not make the ratings of all others unsure.
    """
    if anchor is not None:
        place = contests.models.index(anchor[0])
        return points - points[:, [place]] + anchor[1]
    battles = np.bincount(contests.sides.ravel(), minlength=len(contests.models))
    return points - ((points - points[0]) @ (battles / battles.sum()))[:, None] - points[0].mean() + MEAN


def expected_scores(strengths: np.ndarray, log_nu: float | None) -> np.ndarray:
    """[M, M] what the row's model gets of a battle with the column's on average, a tie being half; NaN of itself."""
    probs = np.exp(log_probabilities(strengths[:, None] - strengths, log_nu))
    scores = probs[..., 0] + (probs[..., 2] / 2 if log_nu is not None else 0)
    np.fill_diagonal(scores, np.nan)
    return scores


def rank_ranges(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Best and worst rank [M] of drawn strengths [1 + R, M].

    One model is significantly better than another where the 95 % interval of their difference, drawn together, is
    above zero. Each pair is tested by itself; without draws none is.
    """
    size = points.shape[1]
    better, worse = np.zeros(size, dtype=int), np.zeros(size, dtype=int)
    for place in range(size if len(points) > 1 else 0):
        low, high = np.percentile(points[1:] - points[1:, [place]], [2.5, 97.5], axis=0)
        better[place], worse[place] = (low > 0).sum(), (high < 0).sum()
    return 1 + better, size - worse


def _outcomes(contests: Contests) -> dict[str, np.ndarray]:
    """For each model [M] the battles, and how much was won, lost and tied; of a judge, in probabilities."""
    size, (a, b) = len(contests.models), contests.sides.T
    won_by_a, won_by_b, tied = contests.counts.T
    added = [
        np.bincount(a, of_a, size) + np.bincount(b, of_b, size)
        for of_a, of_b in ((np.ones(len(a)),) * 2, (won_by_a, won_by_b), (won_by_b, won_by_a), (tied, tied))
    ]
    return dict(zip(("battles", "wins", "losses", "ties"), added, strict=True))


def _matrix(contests: Contests, predicted: np.ndarray, order: np.ndarray) -> dict:
    """Scores of the row's model against the column's, in the order of rating: observed, predicted, and battles."""
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
    """Spearman's correlation of drawn strengths [D, M] with a reference's ratings, over the models of both."""
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
