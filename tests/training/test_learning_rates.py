"""Learning rates: those far from the known ones are questioned."""

import pytest

from sft_judge.training.learning_rates import question_learning_rate

unit = pytest.mark.unit


@unit
def test_learning_rates_far_from_the_known_ones_are_questioned():
    qwen = 14_000_000_000
    assert question_learning_rate(1e-4, qwen, True) is None and question_learning_rate(1e-5, qwen, False) is None
    assert "3e-05 to 0.00012 (Qwen2.5-14B" in question_learning_rate(1.4e-4, qwen, True)
    assert question_learning_rate(1.4e-4, 3_000_000_000, True) is None
    assert "all parameters" in question_learning_rate(1e-4, qwen, False)
    assert question_learning_rate(1e-6, qwen, True) and "70B" in question_learning_rate(1e-2, 72_000_000_000, True)
    assert question_learning_rate(1e-1, 1_000_000, True) is None  # tiny ones are tried in seconds
