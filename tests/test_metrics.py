"""Figures against sklearn, intervals against a simulation."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn import metrics as sk

from sft_judge.core.verdicts import swap
from sft_judge.data.probs import CLIP
from sft_judge.evaluation.bootstrap import interval, p_value, resample, rows_needed
from sft_judge.evaluation.metrics import (
    confidence_bins,
    cross_entropy,
    debiased_ece,
    figures,
    gap_share,
    row_columns,
)

pytestmark = pytest.mark.unit


def total(columns: dict) -> dict:
    return {name: column.sum(axis=0) for name, column in columns.items()}


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


def test_ece_is_the_mean_gap_over_bins_less_what_noise_adds_to_it():
    probs, verdicts = random_judge()
    confidence, hit = probs.max(axis=1) ** 1.3, probs.argmax(axis=1) == verdicts  # an unsure judge
    bins = confidence_bins(confidence)
    assert np.ptp(np.bincount(bins)) <= 1  # equal mass
    sums = np.stack([np.bincount(bins, part) for part in (np.ones(len(hit)), confidence, hit)])
    means = sums[1:] / sums[0]
    noise = np.sqrt(means[1] * (1 - means[1]) / sums[0])
    drawn = np.random.default_rng(0).normal(means[1], noise, (200_000, len(noise)))  # as Kumar et al. do
    shares, gaps = sums[0] / sums[0].sum(), np.abs(means[0] - means[1])
    bias = (np.abs(drawn - means[0]) @ shares).mean() - gaps @ shares
    assert debiased_ece(sums) == pytest.approx(gaps @ shares - bias, abs=2e-4)
    assert bias > 0.01


def test_ece_of_a_judge_that_knows_what_it_knows_goes_to_zero_and_faster_than_the_plain_gaps():
    for rows, most in ((300, 0.05), (30_000, 0.008)):
        sums = [total(row_columns(*random_judge(rows, seed=seed)))["bins"] for seed in range(10)]
        plain = np.mean([np.abs(bins[1] - bins[2]).sum() / rows for bins in sums])
        debiased = np.mean([debiased_ece(bins) for bins in sums])
        assert debiased < most and debiased < 0.7 * plain


def test_the_interval_of_ece_begins_at_zero_for_a_judge_that_knows_what_it_knows_and_above_for_a_bold_one():
    zero, bold = 0, 0
    for seed in range(40):
        probs, verdicts = random_judge(1200, seed=seed)
        sharp = probs**2 / (probs**2).sum(axis=1, keepdims=True)
        right, wrong = (
            interval(figures(resample(row_columns(p, verdicts), np.arange(1200), 200, seed))["ece"], raised=True)
            for p in (probs, sharp)
        )
        assert right["low"] <= right["value"] < right["high"]
        zero, bold = zero + (right["low"] == 0), bold + (wrong["low"] > 0.05)
    assert zero >= 32 and bold == 40


def test_ties_count_as_a_verdict_as_half_or_not_at_all():
    verdicts, chosen = np.array([0, 0, 1, 1, 2, 2, 0]), np.array([0, 1, 1, 2, 2, 0, 2])
    found = figures(total(row_columns(np.eye(3)[chosen] * 0.8 + 0.1 * (1 - np.eye(3)[chosen]), verdicts)))
    assert found["accuracy"] == pytest.approx(3 / 7)
    half = [1.0 if v == c else 0.5 * ((v == 2) != (c == 2)) for v, c in zip(verdicts, chosen, strict=True)]
    assert found["accuracy_ties_half"] == pytest.approx(np.mean(half))
    clear = (verdicts < 2) & (chosen < 2)
    assert found["accuracy_without_ties"] == pytest.approx((verdicts == chosen)[clear].mean())


def test_the_preferred_response_is_held_against_the_other_on_decided_rows():
    probs, verdicts = random_judge()
    found = figures(total(row_columns(probs, verdicts)))
    pairs = [(row[v], row[1 - v]) for row, v in zip(probs, verdicts, strict=True) if v < 2]
    better, worse = np.array(pairs).T
    margins = np.log(better / worse)
    wanted = {"better_mean": better.mean(), "worse_mean": worse.mean(), "worse_above_better": (worse > better).sum()}
    wanted |= {"worse_below_better": (worse < better).sum()}
    wanted |= {"margin_mean": margins.mean(), "margin_std": margins.std()}
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)


@pytest.mark.parametrize("num", [2, 3])
def test_exchange_of_the_responses_changes_no_figure_also_where_a_judge_cannot_tell_them_apart(num):
    orders, verdicts = random_judge(num=num)[0].reshape(200, 2, num), random_judge(200, num)[1]
    orders[::3, 1] = swap(orders[::3, 0])  # the same of both on average
    orders[:9] = 1 / num
    probs = orders.mean(axis=1)
    assert (probs[:, 0] == probs[:, 1]).sum() > 60
    exchanged = np.array([1, 0, 2])[verdicts]
    columns = [row_columns(probs, verdicts, orders), row_columns(swap(probs), exchanged, swap(orders[:, ::-1]))]
    one, other = ({name: float(v) for name, v in figures(total(each)).items()} for each in columns)
    assert other == pytest.approx(one, nan_ok=True)
    even = figures(total(row_columns(np.full((90, num), 1 / num), verdicts[:90])))
    assert even["accuracy"] == pytest.approx(1 / num)  # as often as by drawing lots


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
    assert found["position_effect"] == pytest.approx((0 + 0.7 + 0) / 3)  # of the rows with both orders


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
    means = (effect + rng.normal(size=(4000, needed))).mean(axis=1)
    assert np.mean(np.abs(means) * np.sqrt(needed) > norm.ppf(0.975)) == pytest.approx(0.8, abs=0.06)
