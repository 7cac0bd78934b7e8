"""Intervals of shares hold the truth as often as they say, at every share and in few prompts."""

import numpy as np
import pytest
from scipy.stats import binom

from sft_judge.data.share_interval import difference_interval, share_interval

pytestmark = pytest.mark.unit
SHARES = np.arange(0.5, 0.995, 0.01)


@pytest.mark.parametrize("prompts", [50, 55, 64, 80, 100, 150, 400])
def test_the_exact_coverage_of_a_row_a_prompt_is_what_is_promised(prompts):
    counts = np.arange(prompts + 1)
    ends = np.array([share_interval((counts[:prompts] < k).astype(float), np.ones(prompts)) for k in counts])
    covered = [binom.pmf(counts, prompts, p) @ ((ends[:, 0] <= p) & (p <= ends[:, 1])) for p in SHARES]
    assert min(covered) >= 0.935 and np.mean(covered) <= 0.975


@pytest.mark.parametrize("accuracy", [0.6, 0.9, 0.97])
@pytest.mark.parametrize("together", [0.0, 1.0])
def test_rows_of_one_prompt_count_for_what_they_are_worth(accuracy, together):
    rng, covered, widths = np.random.default_rng(0), 0, []
    for _ in range(600):
        one = rng.random((100, 1)) < accuracy
        rows = np.where(rng.random((100, 1)) < together, one, rng.random((100, 4)) < accuracy)
        low, high = share_interval(rows.sum(axis=1).astype(float), np.full(100, 4.0))
        covered += low <= accuracy <= high
        widths.append(high - low)
    assert 0.925 <= covered / 600 <= 0.995
    expected = 2 * 1.96 * np.sqrt(accuracy * (1 - accuracy) / (100 if together else 400))
    assert np.mean(widths) == pytest.approx(expected, rel=0.2)


def test_all_right_has_an_interval_that_more_prompts_narrow_and_more_rows_of_a_prompt_do_not():
    some, more = (share_interval(np.ones(n), np.ones(n)) for n in (50, 200))
    assert some[1] == more[1] == 1 and 0.90 < some[0] < more[0] < 0.99
    assert share_interval(np.full(50, 7.0), np.full(50, 7.0)) == pytest.approx(some)
    none = share_interval(np.zeros(50), np.ones(50))
    assert none == pytest.approx((0, 1 - some[0]))


def test_prompts_of_no_rows_change_nothing():
    over, under = np.array([1.0, 0, 1, 1, 0, 1]), np.array([1.0, 1, 2, 1, 1, 3])
    padded = share_interval(np.append(over, np.zeros(40)), np.append(under, np.zeros(40)))
    assert padded == share_interval(over, under)


def test_a_difference_of_shares_is_covered_and_never_certain_where_nothing_differs():
    rng, covered, trials, widths = np.random.default_rng(1), 0, 800, []
    for _ in range(trials):
        first, second = rng.random((2, 60)) < np.array([[0.95], [0.9]])
        low, high = difference_interval(first.astype(float) - second, np.ones(60))
        covered += low <= 0.05 <= high
        widths.append(high - low)
    assert 0.935 <= covered / trials <= 0.98
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.sqrt((0.95 * 0.05 + 0.9 * 0.1) / 60), rel=0.1)
    low, high = difference_interval(np.zeros(60), np.ones(60))
    assert low == -high and 0.02 < high < 0.05
