"""Fits of strengths: against logistic regression, a general optimiser and dense algebra."""

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from helpers.contests import NU, STRENGTHS, drawn_contests
from sft_judge.data.style import standardise
from sft_judge.data.synthetic.preference_model import davidson
from sft_judge.ranking.bradley_terry import PRIOR, derivatives, design_matrix, fit, weighted_squares, with_prior

pytestmark = pytest.mark.unit


def test_bradley_terry_is_a_logistic_regression_on_who_met_whom():
    contests = drawn_contests(slope=np.array([0.5, -0.2]))
    found = fit(design_matrix(contests.sides, 5, contests.features), contests.counts[None], ties=False)[0]
    design = np.vstack([design_matrix(contests.sides, 5, contests.features).toarray(), np.eye(7)])
    wins = np.vstack([contests.counts[:, :2] + contests.counts[:, 2:] / 2, np.full((7, 2), PRIOR / 2)])
    regression = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-8, max_iter=1000)
    regression.fit(np.vstack([design, design]), np.repeat([1, 0], len(design)), wins.T.ravel())
    assert found == pytest.approx(regression.coef_[0], abs=1e-4)


def test_davidson_is_the_maximum_that_a_general_optimiser_finds():
    contests = drawn_contests()

    def loss(parameters):
        strengths, nu = parameters[:-1], np.exp(parameters[-1])
        of_rows = np.log(davidson(strengths[contests.sides], nu))
        of_prior = np.log(davidson(np.stack([strengths, np.zeros(5)], axis=1), nu))
        return -(contests.counts * of_rows).sum() - PRIOR / 3 * of_prior.sum()

    found = fit(design_matrix(contests.sides, 5), contests.counts[None], ties=True)[0]
    assert found == pytest.approx(minimize(loss, np.zeros(6), tol=1e-9).x, abs=1e-4)


@pytest.mark.parametrize("ties", [True, False])
def test_strengths_that_made_the_probabilities_come_back_from_them(ties):
    pairs = np.array([(i, j) for i in range(5) for j in range(i)])
    probs = davidson(STRENGTHS[pairs], NU if ties else 0.0)
    found = fit(design_matrix(pairs, 5), 1e6 * probs[None], ties)[0]
    assert found[:5] - found[:5].mean() == pytest.approx(STRENGTHS, abs=1e-4)
    assert not ties or np.exp(found[5]) == pytest.approx(NU, abs=1e-4)


def test_a_maximum_is_found_also_where_counts_are_one_sided_or_of_very_unlike_size():
    rng, pairs = np.random.default_rng(0), np.array([(i, j) for i in range(6) for j in range(i)])
    for _ in range(60):
        some = rng.random((2, 15, 3)) < rng.random()
        counts = some * 10 ** rng.uniform(-6, 5, size=(2, 15, 3))
        for design in (design_matrix(pairs, 6), design_matrix(pairs, 6, standardise(rng.normal(size=(15, 2))))):
            for ties in (False, True):
                found = fit(design, counts, ties)
                slope, curvature = derivatives(*with_prior(design, counts, ties), found)
                gain = (slope * np.linalg.solve(curvature, slope[..., None])[..., 0]).sum(axis=1)
                assert (np.abs(gain) < 1e-9).all()  # nats that another step would bring


@pytest.mark.parametrize("ties", [True, False])
def test_a_maximum_is_found_also_where_counts_of_many_models_fall_apart_into_groups(ties):
    rng = np.random.default_rng(0)
    sides = np.array([rng.choice(100, 2, replace=False) for _ in range(150)])
    design, counts = design_matrix(sides, 100), np.eye(3)[rng.choice(3, 150, p=[0.45, 0.45, 0.1])]
    drawn = counts * rng.poisson(size=(40, 150, 1))  # a third of the battles is missing in each
    found = fit(design, drawn, ties, fit(design, counts[None], ties)[0])
    slope = derivatives(*with_prior(design, drawn, ties), found)[0]
    assert np.abs(slope).max() < 1e-6


def test_weighted_squares_are_those_of_dense_algebra_for_one_and_for_many():
    rng = np.random.default_rng(0)
    design = design_matrix(np.array([(0, 1), (1, 2), (0, 2)]), 3, rng.normal(size=(3, 2)))
    weights = rng.random((4, 3))
    expected = [design.toarray().T @ np.diag(row) @ design.toarray() for row in weights]
    np.testing.assert_allclose(weighted_squares(design, weights), expected, atol=1e-12)
    np.testing.assert_allclose(weighted_squares(design, weights[:1]), expected[:1], atol=1e-12)
