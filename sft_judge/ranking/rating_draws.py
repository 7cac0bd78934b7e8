"""
Bootstrap draws of the parameters of a rating fit, over prompts.

Prompts are weighted by the Bayesian bootstrap, so that no model and no link between models is missing in a draw. Fits
on few battles are further from zero than the true values, and fits of draws further still. Draws are therefore shifted
so that their mean is the fit on the data.

Without covariates a draw is only counts of verdicts for each pair of models, and each draw is fitted anew. With
covariates every battle is a separate row. A draw is then one Newton step from the fit on the data, with the slopes
summed over the drawn prompts (the estimating function bootstrap, Hu and Kalbfleisch 2000), unless there are few
battles.
"""

import numpy as np
from scipy import sparse

from sft_judge.evaluation.bootstrap import NUM_RESAMPLES, cluster_draws
from sft_judge.ranking.bradley_terry import derivatives, design_matrix, fit, row_scores, with_prior
from sft_judge.ranking.comparisons import Contests, pair_counts

FEW_BATTLES = 20  # per parameter; with fewer, one step is not accurate enough: scripts/rank_coverage.py, "sparse"


def parameter_draws(contests: Contests, ties: bool, repeats: int = NUM_RESAMPLES, seed: int = 0) -> np.ndarray:
    """
    Draw the parameters of a fit.

    Args:
        contests: the contests.
        ties: fit Davidson's model instead of Bradley-Terry.
        repeats: number of draws.
        seed: seed of the draws.

    Returns:
        Parameters `[1 + repeats, M + F]`, with `ties` followed by a column log nu. Row 0 is the fit on the data.
    """
    if not contests.controls:
        draws = _fit_draws(contests, ties, repeats, seed)
    elif len(contests.sides) < FEW_BATTLES * (len(contests.models) + len(contests.controls)):
        draws = _row_fit_draws(contests, ties, repeats, seed)
    else:
        draws = _step_draws(contests, ties, repeats, seed)
    if repeats:
        draws[1:] += draws[0] - draws[1:].mean(axis=0)
    return draws


def _fit_draws(contests: Contests, ties: bool, repeats: int, seed: int) -> np.ndarray:
    pairs, place, counts = pair_counts(contests)
    battle, verdict = np.nonzero(counts)
    num_clusters = int(contests.clusters.max()) + 1
    cells = (contests.clusters[battle], 3 * place[battle] + verdict)
    sums = sparse.csr_array((counts[battle, verdict], cells), (num_clusters, 3 * len(pairs)))
    design = design_matrix(pairs, len(contests.models))
    parameters = [fit(design, sums.sum(axis=0).reshape(1, -1, 3), ties)]
    for weights in cluster_draws(num_clusters, repeats, seed, keep_all=True):
        parameters.append(fit(design, (weights @ sums).reshape(len(weights), -1, 3), ties, parameters[0][0]))
    return np.concatenate(parameters)


def _row_fit_draws(contests: Contests, ties: bool, repeats: int, seed: int) -> np.ndarray:
    design = design_matrix(contests.sides, len(contests.models), contests.features)
    parameters = [fit(design, contests.counts[None], ties)]
    for weights in cluster_draws(int(contests.clusters.max()) + 1, repeats, seed, keep_all=True):
        drawn = contests.counts * weights[:, contests.clusters, None]
        parameters.append(fit(design, drawn, ties, parameters[0][0]))
    return np.concatenate(parameters)


def _step_draws(contests: Contests, ties: bool, repeats: int, seed: int) -> np.ndarray:
    plain = design_matrix(contests.sides, len(contests.models), contests.features)
    start = fit(plain, contests.counts[None], ties)
    design, counts = with_prior(plain, contests.counts[None], ties)
    by_utility, by_nu, *_ = (row[0] for row in row_scores(design, counts, start))
    slopes = sparse.csr_array(design * by_utility[:, None])
    if ties:
        slopes = sparse.hstack([slopes, sparse.csr_array(by_nu[:, None])], "csr")
    num_rows, num_clusters = len(contests.clusters), int(contests.clusters.max()) + 1
    members = (contests.clusters, np.arange(num_rows))
    of_cluster = sparse.csr_array((np.ones(num_rows), members), (num_clusters, num_rows)) @ slopes[:num_rows]
    of_prior = slopes[num_rows:].sum(axis=0)
    curvature = derivatives(design, counts, start)[1][0]
    parameters = [start]
    for weights in cluster_draws(num_clusters, repeats, seed, keep_all=True):
        parameters.append(start + np.linalg.solve(curvature, (weights @ of_cluster + of_prior).T).T)
    return np.concatenate(parameters)
