"""Two judges on the same rows: McNemar's test, and places that are shared where no difference is seen."""

import numpy as np
import pytest

from sft_judge.evaluation.bias import lead
from sft_judge.evaluation.bootstrap import resample
from sft_judge.evaluation.metrics import row_columns
from sft_judge.evaluation.pairs import compare, mcnemar, standings

pytestmark = pytest.mark.unit


def test_mcnemar_is_the_binomial_test_on_rows_that_one_alone_has_right():
    a, b = np.array([1, 1, 1, 0, 0, 1], dtype=bool), np.array([0, 0, 1, 0, 1, 0], dtype=bool)
    assert mcnemar(a, b, np.arange(6)) == {"only_a": 3, "only_b": 1, "p": pytest.approx(10 / 16)}
    assert mcnemar(a, a, np.arange(6))["p"] == 1


def test_mcnemar_counts_prompts_where_their_rows_say_the_same():
    a, b = np.repeat([1, 1, 1, 0], 25).astype(bool), np.repeat([0, 0, 1, 1], 25).astype(bool)
    alone, together = (mcnemar(a, b, clusters) for clusters in (np.arange(100), np.arange(100) // 25))
    assert alone["p"] < 0.01 and together == {"only_a": 50, "only_b": 25, "p": 1.0}


def test_judges_share_a_place_where_no_difference_is_seen_and_only_there():
    rng = np.random.default_rng(0)
    truth = rng.dirichlet([1, 1, 1], 2000)
    verdicts = np.array([rng.choice(3, p=row) for row in truth])
    flat = np.full_like(truth, 1 / 3)
    noisy = truth * np.exp(rng.normal(0, 0.02, truth.shape))
    judges = {"flat": flat, "true": truth, "nearly": noisy / noisy.sum(axis=1, keepdims=True)}
    draws = {name: resample(row_columns(probs, verdicts), np.arange(2000)) for name, probs in judges.items()}
    pairs = compare(draws, {name: probs.argmax(axis=1) == verdicts for name, probs in judges.items()}, np.arange(2000))
    found = {pair["a"] + " " + pair["b"]: pair for pair in pairs}
    assert found["flat true"]["adjusted_p"] < 0.001 < 0.05 < found["true nearly"]["adjusted_p"]
    needed = {name: pair["rows_needed"]["log_loss"] for name, pair in found.items()}
    assert needed["flat true"]["high"] < 250 < needed["true nearly"]["low"]
    losses = {name: {"log_loss": {"value": draws[name]["log_loss"][0] / 2000}} for name in judges}
    placed = {one["name"]: (one["first"], one["last"]) for one in standings(losses, pairs)}
    assert placed == {"true": (1, 2), "nearly": (1, 2), "flat": (3, 3)}
    assert lead(np.array([[0.6, 0.3, 0.1]]))[0] == pytest.approx(0.3)
