"""What several judges say of a battle, together."""

import numpy as np
import pytest

from sft_judge.inference.calibrated import Calibrated
from sft_judge.ranking.comparisons import average_predictions

pytestmark = pytest.mark.unit


def test_several_judges_are_averaged_and_what_a_deadline_left_unread_is_no_opinion():
    ids = np.array(["x", "y", "z"], dtype=object)
    probs = np.random.default_rng(0).dirichlet([1, 1, 1], size=(2, 3))
    orders = np.array([[1, 1, 0], [1, 0, 0]])
    judges = [Calibrated(ids, part, None, "", judged) for part, judged in zip(probs, orders, strict=True)]
    opinion = average_predictions(judges)
    assert list(opinion.row_of) == ["x", "y"]
    np.testing.assert_allclose(opinion.probs, [probs[:, 0].mean(axis=0), probs[0, 1]])
    judges[1].probs[:, 2] = 0
    of_two = average_predictions(judges).probs
    assert (of_two[:, 2] == 0).all() and of_two.sum(axis=1) == pytest.approx(1)
