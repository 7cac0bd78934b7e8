"""Guesses that a judge is held against."""

import numpy as np
import pytest

from sft_judge.core.swap_orders import swap
from sft_judge.data.battles import battle_table
from sft_judge.evaluation.baselines import baseline_probs, longer_frequencies, longer_response

pytestmark = pytest.mark.unit


def table(responses_a, responses_b):
    texts = zip(responses_a, responses_b, strict=True)
    return battle_table(
        [
            {"id": str(i), "prompt": ["p"], "response_a": [a] if isinstance(a, str) else a, "response_b": [b]}
            for i, (a, b) in enumerate(texts)
        ]
    )


def test_the_longer_answers_frequencies_do_not_know_which_side_it_is_on():
    battles = table(["aaaa", "a", "aa", "aaaa"], ["b", "bbb", "bb", "b"])
    longer = longer_response(battles)
    assert longer.tolist() == [0, 1, -1, 0]
    of_longer = longer_frequencies(np.array([0, 1, 0, 2]), longer, 3)
    assert of_longer == pytest.approx(np.array([3, 1, 2]) / 6)  # longer twice, shorter never, neither once; each + 1
    probs = baseline_probs(np.array([0.4, 0.4, 0.2]), of_longer, longer)["the longer answer"]
    np.testing.assert_allclose(probs, [of_longer, swap(of_longer), [0.4, 0.4, 0.2], of_longer])
