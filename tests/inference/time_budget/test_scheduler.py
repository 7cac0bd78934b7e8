"""The deadline's planner under a fake clock: it ends in time, uses the time, and takes the rows in the right order."""

import argparse

import numpy as np
import pytest

from sft_judge.commands.arguments import TimeBudget
from sft_judge.inference.time_budget.scheduler import (
    FIRST_ROWS,
    SLICE,
    Deadline,
    Pass,
    fit_length_rule,
    open_rows,
    score_in_time,
    uncertainty,
)

pytestmark = pytest.mark.unit


class World:
    """A machine with its own clock: it starts for `start` seconds and reads `rate(now)` tokens a second."""

    def __init__(self, lengths, budget, rate, start=0.0, a_row=0.0):
        self.now, self.rate, self.a_row = 1000.0, rate, a_row
        self.tokens = np.asarray(lengths, dtype=float)
        self.deadline = Deadline(budget, self.now, lambda: self.now)
        self.now += start
        self.scores = np.full((len(lengths), 2, 3), np.nan)
        self.blocks = []  # (orders, rows, seconds)

    def score(self, rows, orders):
        began = self.now
        for row in rows:
            for place in [("ab", "ba").index(order) for order in orders]:
                self.now += self.tokens[row] / self.rate(self.now - 1000) + self.a_row
                assert np.isnan(self.scores[row, place]).all(), "scored twice"
                self.scores[row, place] = np.log([0.5, 0.3, 0.2])
        self.blocks.append((orders, rows, self.now - began))

    def run(self, passes):
        for _ in score_in_time(passes, self.tokens, self.deadline, lambda: self.scores, self.score):
            pass
        return self

    @property
    def left(self):
        """Until the budget itself is used up."""
        return self.deadline.end + self.deadline.margin - self.now

    def judged(self, order="ab"):
        return ~open_rows(self.scores, (order,))


def two_passes(world):
    shortest = np.argsort(world.tokens, kind="stable")
    both = [("ab",), ("ba",)]
    return [
        Pass(orders, lambda scores, orders=orders: shortest[open_rows(scores, orders)[shortest]]) for orders in both
    ]


def long_tail(num=25_000, seed=0):
    return np.clip(np.random.default_rng(seed).lognormal(7, 0.8, num), 100, 6000).astype(int)


STEADY = (lambda now: 1200.0, 300.0)
HALVED = (lambda now: 1200.0 if now < 10_000 else 600.0, 0.0)
SLOW_START = (lambda now: 60.0 if now < 1500 else 1200.0, 1200.0)
WORSE_AND_WORSE = (lambda now: 1200.0 / (1 + now / 8000), 60.0)


@pytest.mark.parametrize("rate, start", [STEADY, HALVED, SLOW_START, WORSE_AND_WORSE])
@pytest.mark.parametrize("hours", [1, 9])
def test_a_run_ends_in_time_and_uses_the_time(rate, start, hours):
    world = World(long_tail(), hours * 3600, rate, start)
    world.run(two_passes(world))
    assert 0 <= world.left <= 1.5 * world.deadline.margin  # the margin itself may be left over, and a part of a block
    assert not world.judged("ba").all()  # else it was no test of the deadline
    assert max(seconds for *_, seconds in world.blocks) <= 3 * SLICE


def test_the_shortest_come_first_and_the_other_order_once_all_are_judged():
    world = World(long_tail(2000), 3600, lambda now: 1500.0)
    world.run(two_passes(world))
    assert world.judged().all() and 0 < world.judged("ba").sum() < 2000
    assert world.tokens[world.judged("ba")].max() <= world.tokens[~world.judged("ba")].min()
    seen = np.concatenate([rows for orders, rows, _ in world.blocks if orders == ("ab",)])
    assert (np.diff(world.tokens[seen]) >= 0).all() and [orders for orders, *_ in world.blocks].index(("ba",)) > 0


def test_a_rate_that_halves_is_known_after_the_block_in_which_it_did():
    deadline = Deadline(36_000, 0.0, lambda: 0.0)
    for _ in range(10):
        deadline.note(60_000, 60)
    deadline.note(60_000, 120)
    assert 500 < deadline.rate < 750  # 1,000 before, 500 now


def test_a_last_block_that_takes_twice_its_time_is_still_within_the_budget():
    slow_last = World([100] * 5000, 600, lambda now: 1000.0 if now < 590 else 500.0)
    assert slow_last.run(two_passes(slow_last)).left >= 0


def test_a_budget_that_the_start_uses_up_leaves_every_row_alone():
    world = World(long_tail(100), 60, lambda now: 1e9, start=53)
    assert not world.run(two_passes(world)).blocks
    assert not World(long_tail(100), 4, lambda now: 1e9).run(two_passes(world)).blocks  # less than the margin


def test_with_time_enough_every_row_is_judged_in_both_orders_and_no_time_is_waited_for():
    world = World(long_tail(300), 36_000, lambda now: 1e4, a_row=0.01)
    world.run(two_passes(world))
    assert world.judged().all() and world.judged("ba").all() and world.left > 30_000


def test_one_row_longer_than_a_block_is_taken_where_it_fits_and_no_more():
    deadline = Deadline(600, 0.0, lambda: 0.0)
    deadline.note(1000, 10)
    assert deadline.fits(np.array([10_000.0, 10.0])) == 1  # 100 s of 594
    assert deadline.fits(np.array([100_000.0, 10.0])) == 0
    assert deadline.fits(np.array([10_000.0]), reserve=500) == 0
    assert Deadline(600, 0.0, lambda: 0.0).fits(np.ones(100)) == FIRST_ROWS


def test_a_forecast_at_a_steady_rate_is_what_happens():
    world = World(long_tail(5000, seed=1), 9000, lambda now: 1000.0, start=30)
    forecasts = []
    passes = two_passes(world)
    for place, queue in score_in_time(passes, world.tokens, world.deadline, lambda: world.scores, world.score):
        if place == 0:
            forecasts.append(world.judged().sum() + world.deadline.forecast(world.tokens[queue], world.tokens)[0])
    assert len(forecasts) > 20
    np.testing.assert_allclose(forecasts, world.judged().sum(), rtol=0.01)


def test_the_length_rule_finds_where_the_other_order_gains():
    rng = np.random.default_rng(3)
    lengths = rng.integers(50, 3000, 4000)
    gains = np.where(lengths < 800, 0.05, 0.0) + rng.normal(0, 0.1, 4000)
    rule = fit_length_rule(lengths, gains)
    assert rule(np.array([100, 500])).min() > 0.03 > 0.02 > rule(np.array([1500, 2900])).max()
    assert np.isclose(rule(lengths).mean(), gains.mean())  # bins hold the mean of their rows


def test_even_odds_are_the_least_sure():
    probs = np.array([[1, 0, 0], [0.6, 0.3, 0.1], [1 / 3] * 3])
    np.testing.assert_allclose(uncertainty(probs), [0, 0.8979457, np.log(3)], atol=1e-6)


@pytest.mark.parametrize(
    "text, seconds", [("9h", 32400), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("1h1m1s", 3661)]
)
def test_times_are_read(text, seconds):
    assert TimeBudget(text) == seconds


@pytest.mark.parametrize("text", ["", "9", "h", "-9h", "9 h", "30m1h", "0s", "1.5h", "9d"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        TimeBudget(text)
