"""Intervals over seeds and battles: they hold the truth as often as they say, and no winner is called without them."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from sft_judge.pipelines.seed_statistics import crossed_mean, describe_difference

pytestmark = pytest.mark.unit


def draw(rng, seeds: int, prompts: int, effect: float, spread: tuple[float, float, float]):
    """Values [S, 3 * prompts]: an effect, and what seeds, prompts and single values add to it."""
    of_seeds, of_prompts, of_values = spread
    clusters = np.repeat(np.arange(prompts), 3)
    values = effect + of_seeds * rng.normal(size=(seeds, 1)) + of_prompts * rng.normal(size=prompts)[clusters]
    return values + of_values * rng.normal(size=values.shape), clusters


@pytest.mark.parametrize("spread", [(0.01, 0.1, 0.1), (0.03, 0.05, 0.2), (0.0, 0.2, 0.1), (0.02, 0.0, 0.05)])
def test_intervals_hold_the_truth_at_least_as_often_as_they_say_and_not_always(spread):
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(600):
        mean = crossed_mean(*draw(rng, 5, 60, 0.3, spread))
        held += mean.low <= 0.3 <= mean.high
    assert 0.93 <= held / 600 <= 0.995


def test_with_one_row_a_prompt_and_equal_seeds_it_is_the_t_test_over_battles():
    values = np.random.default_rng(1).normal(0.2, 1, 50)
    mean = crossed_mean(np.stack([values, values]), np.arange(50))
    known = ttest_1samp(values, 0)
    interval = known.confidence_interval()
    assert (mean.value, mean.p) == pytest.approx((values.mean(), known.pvalue))
    assert (mean.low, mean.high) == pytest.approx(tuple(interval))


def test_with_equal_battles_it_is_the_t_test_over_seeds():
    by_seed = np.random.default_rng(2).normal(0.2, 1, 6)
    mean = crossed_mean(np.repeat(by_seed[:, None], 30, axis=1), np.arange(30))
    known = ttest_1samp(by_seed, 0)
    assert (mean.p, mean.spread) == pytest.approx((known.pvalue, by_seed.std(ddof=1)))


def test_rows_of_one_prompt_count_once():
    values = np.random.default_rng(3).normal(size=40)
    once = crossed_mean(values[None], np.arange(40))
    thrice = crossed_mean(np.repeat(values, 3)[None], np.repeat(np.arange(40), 3))
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))


def test_no_difference_is_said_unless_the_interval_is_off_zero():
    far = crossed_mean(np.full((2, 9), -0.5) + np.random.default_rng(4).normal(0, 0.01, (2, 9)), np.arange(9))
    near = crossed_mean(np.random.default_rng(5).normal(0, 1, (2, 9)), np.arange(9))
    assert describe_difference(near, higher_is_better=True) == "no difference seen"
    assert [describe_difference(far, higher) for higher in (False, True)] == ["better", "worse"]
    same = crossed_mean(np.zeros((3, 9)), np.arange(9))
    assert (same.p, describe_difference(same, False)) == (1.0, "no difference seen")
