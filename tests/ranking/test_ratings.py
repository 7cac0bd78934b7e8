"""Strengths of models and their intervals: against second computations, planted ones and simulation."""

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from helpers.contests import NU, STRENGTHS, contests_of, drawn_contests, turned
from sft_judge.data.style import standardised
from sft_judge.data.synthetic.preference_law import davidson
from sft_judge.evaluation.bootstrap import cluster_draws
from sft_judge.ranking.bradley_terry import PRIOR, derivatives, design_matrix, fit, weighted_squares, with_prior
from sft_judge.ranking.rating_draws import parameter_draws
from sft_judge.ranking.ratings import ELO, expected_scores, measure, rank_ranges, split_off

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
        for design in (design_matrix(pairs, 6), design_matrix(pairs, 6, standardised(rng.normal(size=(15, 2))))):
            for ties in (False, True):
                found = fit(design, counts, ties)
                slope, curvature = derivatives(*with_prior(design, counts, ties), found)
                gain = (slope * np.linalg.solve(curvature, slope[..., None])[..., 0]).sum(axis=1)
                assert (np.abs(gain) < 1e-9).all()  # nats that another step would bring


def test_weighted_squares_are_those_of_dense_algebra_for_one_and_for_many():
    rng = np.random.default_rng(0)
    design = design_matrix(np.array([(0, 1), (1, 2), (0, 2)]), 3, rng.normal(size=(3, 2)))
    weights = rng.random((4, 3))
    expected = [design.toarray().T @ np.diag(row) @ design.toarray() for row in weights]
    np.testing.assert_allclose(weighted_squares(design, weights), expected, atol=1e-12)
    np.testing.assert_allclose(weighted_squares(design, weights[:1]), expected[:1], atol=1e-12)


@pytest.mark.parametrize("ties", [True, False])
def test_a_draw_is_the_fit_of_the_rows_of_the_drawn_prompts(ties):
    contests = drawn_contests(rows=200)
    draws = parameter_draws(contests, ties, repeats=5, seed=3)
    weights = np.concatenate(list(cluster_draws(int(contests.clusters.max()) + 1, 5, 3)))
    for draw, weight in zip(draws[1:], weights, strict=True):
        rows = np.repeat(np.arange(200), weight[contests.clusters].astype(int))
        again = fit(design_matrix(contests.sides[rows], 5), contests.counts[None, rows], ties)[0]
        assert draw == pytest.approx(again, abs=1e-6)


@pytest.mark.parametrize("ties", [True, False])
def test_with_things_held_equal_a_draw_is_close_to_the_fit_of_its_rows_and_the_data_are_fitted_whole(ties):
    contests = drawn_contests(rows=2000, slope=np.array([0.5, -0.2]))
    draws = parameter_draws(contests, ties, repeats=40, seed=3)
    design = design_matrix(contests.sides, 5, contests.features)
    assert draws[0] == pytest.approx(fit(design, contests.counts[None], ties)[0])
    weights = np.concatenate(list(cluster_draws(int(contests.clusters.max()) + 1, 40, 3)))
    again = fit(design, contests.counts * weights[:, contests.clusters, None], ties)
    assert (np.sqrt(((draws[1:] - again) ** 2).mean(axis=0)) < 0.1 * again.std(axis=0)).all()


@pytest.mark.parametrize("slope", [None, np.array([0.5, -0.2])])
def test_of_one_prompt_every_draw_is_the_data(slope):
    contests = drawn_contests(rows=30, slope=slope)
    contests.clusters[:] = 0
    draws = parameter_draws(contests, True, repeats=3)
    np.testing.assert_allclose(draws[1:], np.tile(draws[0], (3, 1)), atol=1e-6)


def test_planted_strengths_and_slopes_are_within_their_intervals():
    contests = drawn_contests(rows=6000, slope=np.array([0.6, 0.0]))
    ranking = measure(contests, "davidson")
    assert [row["model"] for row in ranking["models"]] == contests.models
    for row, strength in zip(ranking["models"], STRENGTHS, strict=True):
        assert row["rating"]["low"] < 1000 + ELO * strength < row["rating"]["high"]
    for control, slope in zip(ranking["controls"], (0.6, 0.0), strict=True):
        assert control["coefficient"]["low"] < slope < control["coefficient"]["high"]
    assert ranking["tie_parameter"]["low"] < NU < ranking["tie_parameter"]["high"]


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    covered = []
    for seed in range(200):
        draws = ELO * parameter_draws(drawn_contests(rows=300, seed=seed), True, repeats=200, seed=seed)[:, :5]
        draws -= draws.mean(axis=1, keepdims=True)
        low, high = np.percentile(draws[1:], [2.5, 97.5], axis=0)
        covered.append((low <= ELO * STRENGTHS) & (ELO * STRENGTHS <= high))
    assert 0.92 <= np.mean(covered) <= 0.98


def test_which_response_is_a_makes_no_difference():
    contests = drawn_contests(slope=np.array([0.5, 0.0]))
    rows = np.random.default_rng(1).random(len(contests.sides)) < 0.5
    for plain in (contests, contests_of(contests.sides, contests.counts, contests.clusters)):
        one, other = measure(plain, "davidson"), measure(turned(plain, rows), "davidson")
        for ours, theirs in zip(one["controls"], other["controls"], strict=True):
            assert ours["coefficient"] == pytest.approx(theirs["coefficient"])
        for ours, theirs in zip(one["models"], other["models"], strict=True):
            assert ours["rating"] == pytest.approx(theirs["rating"]) and ours["wins"] == theirs["wins"]


def test_the_mean_is_1000_and_an_anchor_moves_all_alike():
    contests = drawn_contests()
    plain = {row["model"]: row["rating"]["value"] for row in measure(contests, "bradley-terry")["models"]}
    anchored = {row["model"]: row["rating"] for row in measure(contests, "bradley-terry", ("model 2", 500))["models"]}
    assert np.mean(list(plain.values())) == pytest.approx(1000)
    assert anchored["model 2"] == {"value": 500, "low": 500, "high": 500}
    for name, rating in plain.items():
        assert anchored[name]["value"] - 500 == pytest.approx(rating - plain["model 2"])


def test_400_points_are_odds_of_ten_to_one_and_win_rates_are_the_mean_of_expected_scores():
    scores = expected_scores(np.array([400, 0, 0]) / ELO, None)
    assert scores[0, 1] == pytest.approx(10 / 11) and scores[1, 2] == pytest.approx(0.5)
    with_ties = expected_scores(np.array([0.7, 0.0]), np.log(NU))
    a, b, tie = davidson(np.array([[0.7, 0.0]]), NU)[0]
    assert with_ties[0, 1] == pytest.approx(a + tie / 2) and with_ties[1, 0] == pytest.approx(b + tie / 2)
    ranking = measure(drawn_contests(), "davidson")
    matrix = np.array(ranking["matrix"]["predicted"], dtype=float)
    rates = [row["win_rate"]["value"] for row in ranking["models"]]
    assert rates == pytest.approx(np.nanmean(matrix, axis=1), abs=1e-5)


def test_ranks_count_the_models_that_are_significantly_better_or_worse():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(400, 5)) + np.array([0, 0.5, 9, 20, 20.5])
    best, worst = rank_ranges(points)
    for one in range(5):
        leads = [np.percentile(points[1:, other] - points[1:, one], 2.5) > 0 for other in range(5)]
        trails = [np.percentile(points[1:, one] - points[1:, other], 2.5) > 0 for other in range(5)]
        assert best[one] == 1 + sum(leads) and worst[one] == 5 - sum(trails)
    assert list(zip(best, worst, strict=True)) == [(4, 5), (4, 5), (3, 3), (1, 2), (1, 2)]


def test_models_that_no_battle_connects_are_left_out_and_one_that_only_won_is_named():
    sides = np.array([(0, 1), (1, 2), (2, 0), (3, 0), (3, 1), (4, 5)])
    contests = contests_of(sides, np.eye(3)[[0, 0, 0, 0, 0, 2]], num=6)
    kept, left_out, unbounded = split_off(contests)
    assert kept.models == ["model 0", "model 1", "model 2", "model 3"]
    assert left_out == ["model 4", "model 5"] and unbounded == ["model 3"]
    assert split_off(turned(contests, np.arange(6) % 2 == 0))[1:] == (left_out, unbounded)
    rating = measure(kept, "bradley-terry")["models"][0]["rating"]
    assert np.isfinite([rating["value"], rating["low"], rating["high"]]).all()


def test_of_two_models_of_which_one_won_all_neither_has_a_bound():
    contests = contests_of(np.array([(0, 1), (1, 0), (0, 1)]), np.eye(3)[[0, 1, 0]], num=2)
    assert split_off(contests)[1:] == ([], ["model 0", "model 1"])


def test_a_model_of_few_battles_does_not_make_the_others_unsure():
    contests = drawn_contests(rows=2000)
    plain = {row["model"]: row["rating"] for row in measure(contests, "bradley-terry")["models"]}
    sides = np.vstack([contests.sides, [(5, 0)] * 3])
    counts = np.vstack([contests.counts, np.eye(3)[[0, 1, 0]]])
    more = contests_of(sides, counts, np.append(contests.clusters, [5000, 5001, 5002]), num=6)
    for row in measure(more, "bradley-terry")["models"]:
        if row["model"] in plain:
            width, before = (figure["high"] - figure["low"] for figure in (row["rating"], plain[row["model"]]))
            assert width < 1.3 * before
