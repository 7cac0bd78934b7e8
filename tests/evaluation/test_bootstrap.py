"""Intervals, p-values and the rows that a difference takes: against a simulation."""

import numpy as np
import pytest
from scipy.stats import norm

from helpers.drawn_probs import random_judge
from sft_judge.evaluation.bootstrap import interval, p_value, resample, rows_needed, standard_error
from sft_judge.evaluation.metrics import (
    cross_entropy,
    figures,
    row_columns,
)

pytestmark = pytest.mark.unit


def test_resampled_sums_begin_with_the_data_and_repeat_by_seed():
    columns = {"x": np.arange(6.0), "y": np.ones((6, 2, 2))}
    clusters = np.array([0, 0, 1, 1, 2, 2])
    draws = resample(columns, clusters, repeats=50, seed=3)
    assert draws["x"].shape == (51,) and draws["y"].shape == (51, 2, 2)
    assert draws["x"][0] == 15
    assert (draws["y"] == 6).all()  # three clusters of two rows, whichever are drawn
    assert set(draws["x"]) <= {i + j + k for i in (1, 5, 9) for j in (1, 5, 9) for k in (1, 5, 9)}
    np.testing.assert_array_equal(draws["x"], resample(columns, clusters, repeats=50, seed=3)["x"])
    assert (draws["x"] != resample(columns, clusters, repeats=50, seed=4)["x"]).any()


def test_paired_differences_equal_the_bootstrap_of_the_rows_differences():
    (p, verdicts), (q, _) = random_judge(seed=1), random_judge(seed=2)
    clusters = np.arange(len(verdicts)) // 2
    a, b = (resample(row_columns(probs, verdicts), clusters, seed=5) for probs in (p, q))
    paired = interval(figures(a)["log_loss"] - figures(b)["log_loss"])
    rows = cross_entropy(np.eye(3)[verdicts], p) - cross_entropy(np.eye(3)[verdicts], q)
    direct = resample({"d": rows, "n": np.ones(len(rows))}, clusters, seed=5)
    assert paired == pytest.approx(interval(direct["d"] / direct["n"]))


def test_intervals_cover_the_truth_about_as_often_as_they_say_also_when_rows_of_a_prompt_agree():
    rng = np.random.default_rng(0)
    covered, clusters = 0, np.repeat(np.arange(60), 4)
    for trial in range(200):
        rows = np.repeat(rng.normal(size=60), 4) + 0.1 * rng.normal(size=240)
        draws = resample({"x": rows, "n": np.ones(240)}, clusters, repeats=200, seed=trial)
        found = interval(draws["x"] / draws["n"])
        covered += found["low"] <= 0 <= found["high"]
    assert 0.89 <= covered / 200 <= 0.99


def test_an_undefined_figure_has_no_value():
    assert interval(np.full(11, np.nan)) == {"value": None, "low": None, "high": None}


def test_one_prompt_gives_a_value_and_no_interval():
    probs, verdicts = random_judge(20)
    draws = figures(resample(row_columns(probs, verdicts), np.zeros(20, dtype=int), repeats=10))
    found = interval(draws["log_loss"])
    assert found["value"] > 0 and found["low"] is None is found["high"]
    assert p_value(draws["log_loss"]) is None and rows_needed(draws["log_loss"], 20) is None


def test_a_p_value_is_that_of_the_normal_test_on_a_mean():
    rng = np.random.default_rng(0)
    values = rng.normal(0.1, 1, 500)
    draws = resample({"x": values, "n": np.ones(500)}, np.arange(500), repeats=4000)
    found = p_value(draws["x"] / draws["n"])
    assert found == pytest.approx(2 * norm.sf(abs(values.mean()) / (values.std() / np.sqrt(500))), rel=0.25)


def test_rows_needed_would_tell_a_difference_four_times_in_five():
    rng, effect = np.random.default_rng(0), 0.2
    values = rng.normal(size=2000)
    values += effect - values.mean()
    draws = resample({"x": values, "n": np.ones(2000)}, np.arange(2000))
    needed = rows_needed(draws["x"] / draws["n"], 2000)
    reach = norm.ppf(0.975) * standard_error(draws["x"] / draws["n"])
    for size, rows in ((effect + reach, needed["low"]), (effect - reach, needed["high"])):
        means = (size + rng.normal(size=(4000, rows))).mean(axis=1)
        assert np.mean(np.abs(means) * np.sqrt(rows) > norm.ppf(0.975)) == pytest.approx(0.8, abs=0.06)


def test_rows_needed_have_two_digits_and_no_upper_end_where_the_difference_may_be_none():
    draws = np.concatenate([[0.1], np.random.default_rng(0).normal(0.1, 0.1, 2000)])
    needed = rows_needed(draws, 300)
    assert needed["high"] is None and needed["low"] == round(needed["low"], -1) > 100
    assert rows_needed(np.zeros(9), 300) is None
