"""Training order: held against computations that look at every prefix."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_judge.data.row_order import balanced_order, fair_schedule

pytestmark = pytest.mark.unit


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(sum))
def test_every_prefix_of_a_fair_schedule_is_less_than_one_from_its_share(counts):
    schedule = fair_schedule(counts)
    assert np.bincount(schedule, minlength=len(counts)).tolist() == counts
    lengths = np.arange(1, len(schedule) + 1)
    for place, count in enumerate(counts):
        drift = np.cumsum(schedule == place) - lengths * count / len(schedule)
        assert np.abs(drift).max() < 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=200), st.integers(0, 9))
def test_a_balanced_order_holds_verdicts_and_sources_in_every_prefix(rows, seed):
    verdicts, sources = np.array(rows).T
    order = balanced_order(verdicts, sources, seed)
    assert sorted(order) == list(range(len(rows)))
    shown, lengths = verdicts[order], np.arange(1, len(rows) + 1)
    for verdict in set(verdicts):
        of_verdict = np.cumsum(shown == verdict)
        assert np.abs(of_verdict - lengths * (verdicts == verdict).mean()).max() < 1
        for source in set(sources):
            share = (sources[verdicts == verdict] == source).mean()
            both = np.cumsum((shown == verdict) & (sources[order] == source))
            assert np.abs(both - of_verdict * share).max() < 1


def test_the_seed_decides_the_order():
    verdicts, sources = np.arange(300) % 3, np.arange(300) % 2
    assert (balanced_order(verdicts, sources, 0) == balanced_order(verdicts, sources, 0)).all()
    assert (balanced_order(verdicts, sources, 0) != balanced_order(verdicts, sources, 1)).any()
