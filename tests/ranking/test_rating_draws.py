"""Draws of strengths: each is the fit of the rows that were drawn."""

import numpy as np
import pytest

from helpers.contests import drawn_contests
from sft_judge.evaluation.bootstrap import cluster_draws
from sft_judge.ranking.bradley_terry import design_matrix, fit
from sft_judge.ranking.rating_draws import parameter_draws

pytestmark = pytest.mark.unit


def drawn_weights(contests, repeats):
    """[repeats, N] of the battles."""
    drawn = cluster_draws(int(contests.clusters.max()) + 1, repeats, 3, keep_all=True)
    return np.concatenate(list(drawn))[:, contests.clusters]


@pytest.mark.parametrize("ties", [True, False])
def test_a_draw_is_the_fit_of_the_weighted_prompts_but_for_a_shift_that_makes_the_data_their_mean(ties):
    contests = drawn_contests(rows=200)
    draws = parameter_draws(contests, ties, repeats=5, seed=3)
    counts = contests.counts * drawn_weights(contests, 5)[..., None]
    again = fit(design_matrix(contests.sides, 5), counts, ties)
    assert draws[1:] - draws[1] == pytest.approx(again - again[0], abs=1e-6)
    assert draws[1:].mean(axis=0) == pytest.approx(draws[0])


@pytest.mark.parametrize("ties", [True, False])
def test_with_things_held_equal_a_draw_is_close_to_the_fit_of_its_rows_and_the_data_are_fitted_whole(ties):
    contests = drawn_contests(rows=2000, slope=np.array([0.5, -0.2]))
    draws = parameter_draws(contests, ties, repeats=40, seed=3)
    design = design_matrix(contests.sides, 5, contests.features)
    assert draws[0] == pytest.approx(fit(design, contests.counts[None], ties)[0])
    again = fit(design, contests.counts * drawn_weights(contests, 40)[..., None], ties)
    again += draws[0] - again.mean(axis=0)
    assert (np.sqrt(((draws[1:] - again) ** 2).mean(axis=0)) < 0.1 * again.std(axis=0)).all()


def test_with_things_held_equal_in_few_battles_a_draw_is_the_fit_of_its_rows():
    contests = drawn_contests(rows=60, slope=np.array([0.5, -0.2]))
    draws = parameter_draws(contests, True, repeats=4, seed=3)
    counts = contests.counts * drawn_weights(contests, 4)[..., None]
    again = fit(design_matrix(contests.sides, 5, contests.features), counts, True)
    assert draws[1:] - draws[1] == pytest.approx(again - again[0], abs=1e-5)


@pytest.mark.parametrize("slope", [None, np.array([0.5, -0.2])])
def test_of_one_prompt_every_draw_is_the_data(slope):
    contests = drawn_contests(rows=30, slope=slope)
    contests.clusters[:] = 0
    draws = parameter_draws(contests, True, repeats=3)
    np.testing.assert_allclose(draws[1:], np.tile(draws[0], (3, 1)), atol=1e-6)
