"""Strengths of models and their intervals: against second computations, synthetic ones and simulation."""

import numpy as np
import pytest

from helpers.contests import NU, STRENGTHS, contests_of, drawn_contests, turned
from sft_judge.data.synthetic.preference_model import davidson
from sft_judge.ranking.comparisons import split_controls
from sft_judge.ranking.rating_draws import parameter_draws
from sft_judge.ranking.ratings import ELO, expected_scores, rank_ranges, rate_models, significantly_better, split_off

pytestmark = pytest.mark.unit
UNKNOWN = {"value": None, "low": None, "high": None}


def test_planted_strengths_and_slopes_are_within_their_intervals():
    contests = drawn_contests(rows=6000, slope=np.array([0.6, 0.0]))
    ranking = rate_models(contests, "davidson")
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


def test_an_effect_that_few_prompts_show_or_that_always_won_has_no_figure_and_is_not_held_equal():
    rng, contests = np.random.default_rng(0), drawn_contests(rows=600)
    wins = contests.counts[:, 0] - contests.counts[:, 1]
    features = np.zeros((600, 4))
    features[:400, 0] = wins[:400]  # more of it never lost
    features[7, 1] = 1.0
    features[np.isin(contests.clusters, contests.clusters[:19]), 2] = 1.0  # 19 prompts
    features[:, 3] = rng.normal(size=600)
    contests = contests_of(contests.sides, contests.counts, contests.clusters, features)
    ranking = rate_models(contests, "davidson")
    found = {row["name"]: row["coefficient"] for row in ranking["controls"]}
    assert [found[f"control {place}"] for place in range(3)] == [UNKNOWN] * 3
    assert found["control 3"]["low"] < found["control 3"]["high"]
    alone = contests_of(contests.sides, contests.counts, contests.clusters, features[:, 3:])
    for ours, theirs in zip(ranking["models"], rate_models(alone, "davidson")["models"], strict=True):
        assert ours["rating"] == pytest.approx(theirs["rating"])


def test_the_interval_of_an_effect_that_few_prompts_show_covers_it_where_it_is_shown():
    held = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        sides = np.array([rng.choice(5, 2, replace=False) for _ in range(300)])
        features = np.zeros((300, 1))
        features[:25, 0] = rng.choice([-1, 1], 25) * np.sqrt(300 / 25)
        utilities = STRENGTHS[sides]
        utilities[:, 0] += 0.3 * features[:, 0]
        verdicts = (rng.random((300, 1)) > davidson(utilities, NU).cumsum(axis=1)).sum(axis=1)
        contests, untold = split_controls(contests_of(sides, np.eye(3)[verdicts], features=features))
        if not untold:
            low, high = np.percentile(parameter_draws(contests, True, 200, seed)[1:, 5], [2.5, 97.5])
            held.append(low <= 0.3 <= high)
    assert len(held) > 70 and np.mean(held) >= 0.9


def test_which_response_is_a_makes_no_difference():
    contests = drawn_contests(slope=np.array([0.5, 0.0]))
    rows = np.random.default_rng(1).random(len(contests.sides)) < 0.5
    for plain in (contests, contests_of(contests.sides, contests.counts, contests.clusters)):
        one, other = rate_models(plain, "davidson"), rate_models(turned(plain, rows), "davidson")
        for ours, theirs in zip(one["controls"], other["controls"], strict=True):
            assert ours["coefficient"] == pytest.approx(theirs["coefficient"])
        for ours, theirs in zip(one["models"], other["models"], strict=True):
            assert ours["rating"] == pytest.approx(theirs["rating"]) and ours["wins"] == theirs["wins"]


def test_the_mean_is_1000_and_an_anchor_moves_all_alike():
    contests = drawn_contests()
    plain = {row["model"]: row["rating"]["value"] for row in rate_models(contests, "bradley-terry")["models"]}
    anchored = {
        row["model"]: row["rating"] for row in rate_models(contests, "bradley-terry", ("model 2", 500))["models"]
    }
    assert np.mean(list(plain.values())) == pytest.approx(1000)
    assert anchored["model 2"] == {"value": 500, "low": None, "high": None}  # it is set, not estimated
    for name, rating in plain.items():
        assert anchored[name]["value"] - 500 == pytest.approx(rating - plain["model 2"])


def test_400_points_are_odds_of_ten_to_one_and_win_rates_are_the_mean_of_expected_scores():
    scores = expected_scores(np.array([400, 0, 0]) / ELO, None)
    assert scores[0, 1] == pytest.approx(10 / 11) and scores[1, 2] == pytest.approx(0.5)
    with_ties = expected_scores(np.array([0.7, 0.0]), np.log(NU))
    a, b, tie = davidson(np.array([[0.7, 0.0]]), NU)[0]
    assert with_ties[0, 1] == pytest.approx(a + tie / 2) and with_ties[1, 0] == pytest.approx(b + tie / 2)
    ranking = rate_models(drawn_contests(), "davidson")
    matrix = np.array(ranking["matrix"]["predicted"], dtype=float)
    rates = [row["win_rate"]["value"] for row in ranking["models"]]
    assert rates == pytest.approx(np.nanmean(matrix, axis=1), abs=1e-5)


def test_ranks_count_the_models_that_are_significantly_better_or_worse():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(400, 5)) + np.array([0, 0.5, 9, 20, 20.5])
    best, worst = rank_ranges(significantly_better(points))
    for one in range(5):
        leads = [np.percentile(points[1:, other] - points[1:, one], 2.5) > 0 for other in range(5)]
        trails = [np.percentile(points[1:, one] - points[1:, other], 2.5) > 0 for other in range(5)]
        assert best[one] == 1 + sum(leads) and worst[one] == 5 - sum(trails)
    assert list(zip(best, worst, strict=True)) == [(4, 5), (4, 5), (3, 3), (1, 2), (1, 2)]


def test_models_that_no_battle_connects_are_left_out_by_group_and_one_that_only_won_has_no_rating():
    sides = np.array([(0, 1), (1, 2), (2, 0), (3, 0), (3, 1), (4, 5), (6, 7)])
    contests = contests_of(sides, np.eye(3)[[0, 0, 0, 0, 0, 2, 0]], num=8)
    kept, left_out = split_off(contests)
    assert kept.models == ["model 0", "model 1", "model 2", "model 3"]
    assert left_out == [["model 4", "model 5"], ["model 6", "model 7"]]
    ranking = rate_models(kept, "bradley-terry")
    assert ranking["unbounded"] == ["model 3"]
    assert split_off(turned(contests, np.arange(7) % 2 == 0))[1] == left_out
    first, *others = ranking["models"]
    assert first["model"] == "model 3" and first["rating"] == first["win_rate"] == UNKNOWN and first["wins"] == 2
    assert np.mean([row["rating"]["value"] for row in others]) == pytest.approx(1000)
    assert ranking["matrix"]["predicted"][0] == [None] * 4


@pytest.mark.parametrize("method", ["bradley-terry", "davidson"])
def test_of_two_models_of_which_one_won_all_neither_has_a_rating(method):
    contests = contests_of(np.array([(0, 1), (1, 0)] * 10), np.eye(3)[[0, 1] * 10], num=2)
    ranking = rate_models(contests, method)
    assert ranking["unbounded"] == ["model 0", "model 1"]
    assert all(row["rating"] == UNKNOWN for row in ranking["models"])
    assert ranking.get("tie_parameter", UNKNOWN) == UNKNOWN


@pytest.mark.parametrize("method", ["bradley-terry", "davidson"])
def test_where_all_is_tied_no_interval_is_made_of_nothing(method):
    sides = np.array([(i, j) for i in range(5) for j in range(i)] * 4)
    ranking = rate_models(contests_of(sides, np.eye(3)[np.full(40, 2)]), method)
    for row in ranking["models"]:
        assert row["rating"] == {"value": pytest.approx(1000), "low": None, "high": None}
        assert (row["rank"], row["rank_high"]) == (1, 5)
    assert ranking.get("tie_parameter", UNKNOWN) == UNKNOWN


@pytest.mark.parametrize("won, first, last", [(3, 1, 6), (30, 1, 1)])
def test_one_that_won_all_is_significantly_better_once_its_wins_are_too_many_for_chance(won, first, last):
    contests = drawn_contests(rows=600)
    sides = np.vstack([contests.sides, np.stack([np.full(won, 5), np.arange(won) % 5], axis=1)])
    counts = np.vstack([contests.counts, np.eye(3)[np.zeros(won, dtype=int)]])
    clusters = np.append(contests.clusters, 1000 + np.arange(won))
    for copies in (1, 20):  # of the same prompts, which say it once
        rows = np.r_[: len(contests.sides), np.repeat(np.arange(len(contests.sides), len(sides)), copies)]
        row = rate_models(contests_of(sides[rows], counts[rows], clusters[rows], num=6), "davidson")["models"][0]
        assert row["model"] == "model 5" and row["rating"] == UNKNOWN
        assert row["rank"] == first and (row["rank_high"] == last if won > 3 else row["rank_high"] >= 3)


@pytest.mark.parametrize("method", ["bradley-terry", "davidson"])
def test_many_models_with_few_battles_each_have_a_ranking_whose_intervals_cover_the_truth(method):
    held = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        strengths = rng.normal(scale=0.7, size=30)
        sides = np.array([rng.choice(30, 2, replace=False) for _ in range(60)])
        probs = davidson(strengths[sides], NU)
        verdicts = (rng.random((60, 1)) > probs.cumsum(axis=1)).sum(axis=1)
        kept, left_out = split_off(contests_of(sides, np.eye(3)[verdicts], num=30))
        rows = rate_models(kept, method)["models"]
        assert len(rows) + sum(map(len, left_out)) == 30
        rated = [row for row in rows if row["rating"]["low"] is not None]
        truth = np.array([strengths[int(row["model"].split()[1])] for row in rated]) * ELO
        truth += 1000 - truth.mean()
        held += [row["rating"]["low"] <= true <= row["rating"]["high"] for row, true in zip(rated, truth, strict=True)]
    assert len(held) > 60 and np.mean(held) > 0.88


def test_what_few_prompts_say_has_no_interval():
    contests = drawn_contests(rows=60)
    contests.clusters = np.arange(60) % 9
    ranking = rate_models(contests, "davidson")
    assert {row["rating"]["low"] for row in ranking["models"]} == {None}
    assert {(row["rank"], row["rank_high"]) for row in ranking["models"]} == {(1, 5)}


def test_a_model_of_few_battles_does_not_make_the_others_unsure():
    contests = drawn_contests(rows=2000)
    plain = {row["model"]: row["rating"] for row in rate_models(contests, "bradley-terry")["models"]}
    sides = np.vstack([contests.sides, [(5, 0)] * 3])
    counts = np.vstack([contests.counts, np.eye(3)[[0, 1, 0]]])
    more = contests_of(sides, counts, np.append(contests.clusters, [5000, 5001, 5002]), num=6)
    for row in rate_models(more, "bradley-terry")["models"]:
        if row["model"] in plain:
            width, before = (figure["high"] - figure["low"] for figure in (row["rating"], plain[row["model"]]))
            assert width < 1.3 * before
