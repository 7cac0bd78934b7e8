"""The parity gate: it sees the largest difference, names the row, and refuses what is not a number."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy, norm

from sft_judge.core.errors import GateError
from sft_judge.inference.parity import (
    TOLERANCES,
    Rise,
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
    with pytest.raises(GateError, match=r"1.00e-02.*worst: e 1.0e-02.*the tolerance is 0.0099"):
        check_tolerance(parity, 0.0099)


def test_what_is_not_a_number_never_passes():
    one = scores(0, 5)
    broken = one.copy()
    broken[3, 1] = np.nan
    with pytest.raises(GateError, match="worst: d nan"):
        check_tolerance(compare_scores("x", broken, one, list("abcde")), max(TOLERANCES.values()))
    with pytest.raises(GateError):
        check_log_loss_rise("x", Rise(*(float("nan"),) * 3, rows=9), 0.005)


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
    found = log_loss_rise(one, other, np.eye(3)[verdicts])
    assert found[:3] == pytest.approx((np.mean(differences), *interval), abs=tolerance)


def test_the_rise_of_soft_labels_is_the_mean_over_what_they_may_be():
    one, other = scores(0, 9), scores(1, 9)
    soft = np.exp(scores(2, 9))
    hard = [log_loss_rise(one, other, np.eye(3)[[verdict] * 9]).value for verdict in range(3)]
    same = log_loss_rise(one, other, np.tile([0.2, 0.3, 0.5], (9, 1)))
    assert same.value == pytest.approx(np.dot([0.2, 0.3, 0.5], hard))
    one[:, 2] = other[:, 2] = -np.inf  # a tie that neither has, and no label gives
    soft[:, 2] = 0
    assert np.isfinite(log_loss_rise(one, other, soft)).all()


@pytest.mark.parametrize(
    "value, low, high, refused",
    [
        (0.0148, 0.0097, 0.0199, True),  # noise of 1.5 sigma on every matrix, on 2,000 battles
        (0.0005, 0.0001, 0.0009, False),  # certain, and harmless
        (0.03, -0.001, 0.061, False),  # not certain
        (-0.01, -0.02, -0.001, False),
        (0.0051, 0.0001, 0.0101, True),
    ],
)
def test_the_gate_refuses_a_log_loss_that_has_certainly_risen_by_more_than_the_tolerance(value, low, high, refused):
    rise = Rise(value, low, high, 2000)
    if refused:
        with pytest.raises(
            GateError, match=rf"raises the log loss by \{value:+.4f} .* on 2000 battles.* tolerance of 0.005"
        ):
            check_log_loss_rise("x", rise, 0.005)
        check_log_loss_rise("x", rise, 0.02)
    else:
        check_log_loss_rise("x", rise, 0.005)


def test_battles_that_cannot_see_the_tolerance_are_said_with_how_many_would(caplog):
    check_log_loss_rise("x", Rise(0.01, -0.02, 0.04, 64), 0.005)
    assert (
        "64 battles can detect a rise of at least 0.03 nats; 2304 are needed to detect a rise of 0.005" in caplog.text
    )
    caplog.clear()
    check_log_loss_rise("x", Rise(0.001, -0.002, 0.004, 64), 0.005)
    assert not caplog.text
    rng = np.random.default_rng(0)
    one = scores(0, 4000)
    other = one + rng.normal(0, 0.1, one.shape)
    few = log_loss_rise(one[:64], other[:64], np.eye(3)[[0] * 64])
    enough = few.rows_to_see(0.005)
    assert log_loss_rise(one[:enough], other[:enough], np.eye(3)[[0] * enough]).visible() == pytest.approx(
        0.005, rel=0.15
    )
