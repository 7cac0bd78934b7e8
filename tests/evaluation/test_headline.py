"""The sentences at the head of a report say who is best, by how much, and whether that is beyond chance."""

import numpy as np
import pytest

from sft_judge.evaluation.bootstrap import resample
from sft_judge.evaluation.headline import compare_with_baselines, headline
from sft_judge.evaluation.metrics import row_columns

pytestmark = pytest.mark.unit
SURE, UNSURE = {"value": -0.0123, "low": -0.02, "high": -0.005}, {"value": 0.004, "low": -0.01, "high": 0.02}
JUDGE = {"n": 100, "verdicts": {"a": 40, "b": 40, "tie": 20}, "tie_recall": {"value": 0.3}}


def metrics(standings, pairs=(), against=()):
    fields = {"main": "ours", "standings_by": "log_loss", "against_baselines": list(against)}
    return fields | ({"standings": standings, "pairs": list(pairs)} if standings else {})


def place(name, first):
    return {"name": name, "first": first, "last": first}


def test_the_best_of_two_is_named_with_its_lead():
    found = metrics([place("ours", 1), place("theirs", 2)], [{"a": "ours", "b": "theirs", "delta_log_loss": SURE}])
    (sentence,) = headline(found, {"ours": JUDGE})
    assert sentence == (
        "ours is the best of 2 judges: a log loss 0.0123 [0.0050, 0.0200] lower than theirs, beyond chance."
    )


def test_the_lead_is_told_from_either_side_of_a_pair():
    turned = {"a": "theirs", "b": "ours", "delta_log_loss": {"value": 0.0123, "low": 0.005, "high": 0.02}}
    found = metrics([place("ours", 1), place("theirs", 2)], [turned])
    assert "a log loss 0.0123 [0.0050, 0.0200] lower than theirs" in headline(found, {})[0]


def test_a_main_judge_that_is_worse_is_said_to_be():
    pair = {"a": "theirs", "b": "ours", "delta_log_loss": SURE}
    (sentence,) = headline(metrics([place("theirs", 1), place("ours", 2)], [pair]), {})
    assert sentence.endswith("ours is worse than theirs: a log loss 0.0123 [0.0050, 0.0200] higher.")


def test_judges_that_share_the_first_place_are_not_told_apart():
    found = metrics([place("ours", 1), place("theirs", 1), place("third", 3)])
    assert headline(found, {}) == [
        "These battles cannot tell ours and theirs apart. third is worse than at least one other judge, beyond chance."
    ]


@pytest.mark.parametrize("figure, said", [(SURE, "beyond chance"), (UNSURE, "which may be chance")])
def test_a_baseline_is_beaten_beyond_chance_only_if_the_interval_leaves_zero_out(figure, said):
    against = [{"baseline": "class frequencies", "measure": "log_loss", "difference": figure}]
    (sentence,) = headline(metrics(None, against=against), {})
    assert sentence.endswith(f"than the class frequencies, {said}.")


def test_a_judge_that_finds_no_tie_is_said_to_find_none():
    blind = JUDGE | {"tie_recall": {"value": 0.0}}
    few = blind | {"verdicts": {"a": 50, "b": 48, "tie": 2}}
    found = headline(metrics(None), {"ours": JUDGE, "blind": blind, "few": few})
    assert found == ["People call 20 % of the battles a tie; blind finds 0.0 % of these."]
    dim = JUDGE | {"tie_recall": {"value": 0.02}}
    (together,) = headline(metrics(None), {"blind": blind, "ours": JUDGE, "dim": dim})
    assert together == "People call 20 % of the battles a tie; blind and dim find at most 2.0 % of these."


def test_the_difference_from_a_baseline_is_that_of_the_mean_losses():
    draw = np.random.default_rng(0)
    verdicts, clusters = draw.integers(3, size=90), np.arange(90) // 3
    probs = {name: draw.dirichlet([1, 1, 1], 90) for name in ("ours", "base")}
    draws = {name: resample(row_columns(rows, verdicts, None), clusters) for name, rows in probs.items()}
    (found,) = compare_with_baselines(draws, "ours", ["base"], "log_loss")
    losses = {name: -np.log(rows[np.arange(90), verdicts]) for name, rows in probs.items()}
    assert found["difference"]["value"] == pytest.approx((losses["ours"] - losses["base"]).mean())
    assert found["difference"]["low"] < found["difference"]["value"] < found["difference"]["high"]
