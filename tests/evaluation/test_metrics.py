"""Figures against sklearn, and the calibration error against a simulation."""

import numpy as np
import pytest
from sklearn import metrics as sk

from helpers.drawn_probs import random_judge
from sft_judge.core.swap_orders import swap
from sft_judge.data.probs import MIN_PROBABILITY
from sft_judge.evaluation.bootstrap import interval, resample
from sft_judge.evaluation.metrics import (
    confidence_bins,
    cross_entropy,
    debiased_ece,
    figures,
    row_columns,
    skill_score,
)
from sft_judge.evaluation.report import preferred_scores
from sft_judge.evaluation.reporting.plots import plot_preferred

pytestmark = pytest.mark.unit


def total(columns: dict) -> dict:
    return {name: column.sum(axis=0) for name, column in columns.items()}


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


def test_the_scatter_has_a_point_for_each_decided_battle_at_the_scores_of_both_responses():
    rng = np.random.default_rng(0)
    probs, verdicts = rng.dirichlet(np.ones(3), 50), rng.integers(0, 3, 50)
    seen = preferred_scores(probs, verdicts)
    wanted = [(np.log(p[v]), np.log(p[1 - v])) for p, v in zip(probs, verdicts, strict=True) if v < 2]
    np.testing.assert_allclose(list(zip(seen["better"], seen["worse"], strict=True)), wanted, atol=1e-4)
    assert seen["of"] == len(wanted)
    few = preferred_scores(probs, verdicts, most=10)
    assert len(few["better"]) == 10 and few["of"] == len(wanted) and few == preferred_scores(probs, verdicts, most=10)
    points = set(zip(seen["better"], seen["worse"], strict=True))
    assert set(zip(few["better"], few["worse"], strict=True)) <= points
    picture = plot_preferred(**seen)
    assert picture.count("<use ") - plot_preferred(**few).count("<use ") == len(wanted) - 10  # a mark each
    assert f"({len(wanted)} battles)" in picture and f"(10 of {len(wanted)} battles)" in plot_preferred(**few)


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
    assert found["log_loss"] == pytest.approx(-np.log(MIN_PROBABILITY))


def test_cross_entropy_of_the_truth_is_its_entropy_and_no_judge_has_less():
    truth, _ = random_judge(seed=1)
    other, _ = random_judge(seed=2)
    assert cross_entropy(truth, truth) == pytest.approx(-(truth * np.log(truth)).sum(axis=1))
    assert (cross_entropy(truth, other) >= cross_entropy(truth, truth)).all()


def test_gap_share_is_zero_for_frequencies_and_one_for_the_best():
    assert skill_score(np.array([1.0, 0.9, 0.8]), 1.0, 0.8) == pytest.approx([0, 0.5, 1])
