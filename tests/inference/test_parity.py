"""The parity gate: it sees the largest difference, names the row, and refuses what is not a number."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy, norm

from sft_judge.core.errors import GateError
from sft_judge.inference.parity import (
    MAX_LOG_LOSS_RISE,
    TOLERANCES,
    check_log_loss_rise,
    check_tolerance,
    compare_scores,
    log_loss_rise,
)

pytestmark = pytest.mark.unit


def scores(seed: int, rows: int, num_verdicts: int = 3) -> np.ndarray:
    return np.log(np.random.default_rng(seed).dirichlet(np.ones(num_verdicts), rows))


@given(st.integers(0, 1000), st.integers(1, 30), st.sampled_from([2, 3]))
@settings(deadline=None, max_examples=50)
def test_differences_and_flips_are_those_counted_row_by_row(seed, rows, num_verdicts):
    one, other = scores(seed, rows, num_verdicts), scores(seed + 1, rows, num_verdicts)
    parity = compare_scores("x", one, other, [f"row {row}" for row in range(rows)])
    gaps = [
        max(abs(np.exp(p) - np.exp(q)) for p, q in zip(a, b, strict=True)) for a, b in zip(one, other, strict=True)
    ]
    assert (
        parity.max_difference == pytest.approx(max(gaps)) and next(iter(parity.worst)) == f"row {int(np.argmax(gaps))}"
    )
    assert list(parity.worst.values()) == pytest.approx(sorted(gaps, reverse=True)[:3])
    assert parity.kl == pytest.approx(
        np.mean([entropy(np.exp(a), np.exp(b)) for a, b in zip(one, other, strict=True)])
    )
    assert parity.mean_difference == pytest.approx(sum(gaps) / rows) and parity.rows == rows
    assert parity.flips == sum(np.argmax(a) != np.argmax(b) for a, b in zip(one, other, strict=True))


def test_equal_scores_pass_and_the_gate_opens_at_its_tolerance():
    one = scores(0, 9)
    names = list("abcdefghi")
    check_tolerance(compare_scores("x", one, one, names), 0.0)
    moved = np.log(np.exp(one) + np.array([[0.01, -0.01, 0.0]] * 9) * (np.arange(9) == 4)[:, None])
    parity = compare_scores("x", moved, one, names)
    check_tolerance(parity, 0.0101)
    with pytest.raises(GateError, match=r"1.00e-02.*worst: e 1.0e-02.*allowed is 0.0099"):
        check_tolerance(parity, 0.0099)


def test_what_is_not_a_number_never_passes():
    one = scores(0, 5)
    broken = one.copy()
    broken[3, 1] = np.nan
    with pytest.raises(GateError, match="worst: d nan"):
        check_tolerance(compare_scores("x", broken, one, list("abcde")), max(TOLERANCES.values()))
    with pytest.raises(GateError):
        check_log_loss_rise("x", (float("nan"),) * 3)


def test_a_verdict_without_probability_is_compared():
    """Two verdicts padded to three: minus infinity in both is no difference."""
    one = np.concatenate([scores(0, 4, 2), np.full((4, 1), -np.inf)], axis=1)
    check_tolerance(compare_scores("x", one, one, list("abcd")), 0.0)


@given(st.integers(0, 1000), st.integers(2, 60))
@settings(deadline=None, max_examples=50)
def test_the_rise_of_the_log_loss_has_the_paired_normal_interval(seed, rows):
    one, other = scores(seed, rows), scores(seed + 1, rows)
    verdicts = np.random.default_rng(seed).integers(0, 3, rows)
    differences = [one[row, verdict] - other[row, verdict] for row, verdict in enumerate(verdicts)]
    interval = norm.interval(0.95, np.mean(differences), np.std(differences, ddof=1) / np.sqrt(rows))
    tolerance = 1e-4 * (interval[1] - interval[0])  # 1.96 stands for 1.95996
    assert log_loss_rise(one, other, verdicts) == pytest.approx((np.mean(differences), *interval), abs=tolerance)


def test_the_log_loss_gate_refuses_only_what_is_certain():
    check_log_loss_rise("x", (0.05, MAX_LOG_LOSS_RISE - 0.001, 0.1))
    with pytest.raises(GateError, match="raises the log loss by 0.0500"):
        check_log_loss_rise("x", (0.05, MAX_LOG_LOSS_RISE + 0.001, 0.1))
