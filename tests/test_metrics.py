"""Figures against sklearn, intervals against a simulation."""

import numpy as np
import pytest
from sklearn import metrics as sk

from sft_judge.metrics import (
    CLIP,
    confidence_bins,
    cross_entropy,
    figures,
    gap_share,
    interval,
    resample,
    row_columns,
    total,
)

pytestmark = pytest.mark.unit


def random_judge(rows=400, num=3, seed=0):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(num), rows)
    return probs, np.array([rng.choice(num, p=row) for row in probs])


@pytest.mark.parametrize("num", [2, 3])
def test_figures_agree_with_sklearn(num):
    probs, verdicts = random_judge(num=num)
    found = figures(total(row_columns(probs, verdicts)))
    chosen = probs.argmax(axis=1)
    assert found["log_loss"] == pytest.approx(sk.log_loss(verdicts, probs, labels=range(num)))
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(verdicts, chosen))
    target = verdicts if num == 3 else np.eye(2)[verdicts]
    brier = sk.brier_score_loss(target, probs, scale_by_half=False, labels=range(3) if num == 3 else None)
    assert found["brier"] == pytest.approx(brier)
    assert found["macro_f1"] == pytest.approx(sk.f1_score(verdicts, chosen, average="macro"))
    assert found["kappa"] == pytest.approx(sk.cohen_kappa_score(verdicts, chosen))
    if num == 3:
        assert found["tie_recall"] == pytest.approx(sk.recall_score(verdicts, chosen, labels=[2], average=None)[0])
    else:
        assert np.isnan(found["tie_recall"])


def test_ece_is_the_mean_gap_over_bins():
    probs, verdicts = random_judge()
    confidence, hit = probs.max(axis=1), probs.argmax(axis=1) == verdicts
    bins = confidence_bins(confidence)
    gaps = [abs((confidence - hit)[bins == k].mean()) * (bins == k).mean() for k in np.unique(bins)]
    assert figures(total(row_columns(probs, verdicts)))["ece"] == pytest.approx(sum(gaps))
    assert np.ptp(np.bincount(bins)) <= 1  # equal mass


def test_a_constant_judge_has_one_bin_and_no_calibration_error():
    verdicts = np.repeat([0, 1, 2], [50, 30, 20])
    probs = np.tile([0.5, 0.3, 0.2], (100, 1))
    assert set(confidence_bins(probs.max(axis=1))) == {0}
    assert figures(total(row_columns(probs, verdicts)))["ece"] == pytest.approx(0)


def test_position_figures_count_what_was_chosen():
    # row 0: a in both orders; row 1: the first shown in both; row 2: a tie twice; row 3: one order alone, a
    a, b, tie, none = [0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [np.nan] * 3
    orders = np.array([[a, a], [a, b], [tie, tie], [a, none]])
    probs, verdicts = np.tile([0.5, 0.3, 0.2], (4, 1)), np.zeros(4, dtype=int)
    found = figures(total(row_columns(probs, verdicts, orders)))
    assert found["swap_agreement"] == pytest.approx(2 / 3)
    assert found["first_position_rate"] == pytest.approx((1 + 2 + 1) / 5)


def test_an_impossible_verdict_costs_a_clipped_loss():
    found = figures(total(row_columns(np.array([[1.0, 0.0]]), np.array([1]))))
    assert found["log_loss"] == pytest.approx(-np.log(CLIP))


def test_cross_entropy_of_the_truth_is_its_entropy_and_no_judge_has_less():
    truth, _ = random_judge(seed=1)
    other, _ = random_judge(seed=2)
    assert cross_entropy(truth, truth) == pytest.approx(-(truth * np.log(truth)).sum(axis=1))
    assert (cross_entropy(truth, other) >= cross_entropy(truth, truth)).all()


def test_gap_share_is_zero_for_frequencies_and_one_for_the_best():
    assert gap_share(np.array([1.0, 0.9, 0.8]), 1.0, 0.8) == pytest.approx([0, 0.5, 1])


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
