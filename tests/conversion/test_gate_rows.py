"""The battles of the quantisation gate: others than those that tuned the copy and trained the judge, or it is said."""

import numpy as np
import pytest

from sft_judge.conversion.gate_rows import draw_gate_rows, labelled_pool, split_for_gate
from sft_judge.core.errors import InputError
from sft_judge.data.battles import battle_table

pytestmark = pytest.mark.unit


def battles(verdicts, folds=None, soft=()):
    """One battle a verdict; those of `soft` have soft labels."""
    rows = [
        {"id": str(i), "prompt": [f"p{i}"], "response_a": ["x"], "response_b": ["y"], "verdict": verdict}
        for i, verdict in enumerate(verdicts)
    ]
    for place, fold in enumerate(folds or ()):
        rows[place]["fold"] = fold
    for place in soft:
        rows[place] |= {"soft_a": 0.7, "soft_b": 0.2, "soft_tie": 0.1}
    return battle_table(rows)


def ids(table) -> set[str]:
    return set(table["id"].to_pylist())


@pytest.mark.parametrize(
    "holdout_fold, folds_seen, tuning, gate",
    [
        (None, [1, 2], "2345", "01"),  # a fold that the judge was not trained on
        (1, [1, 2], "0145", "23"),  # the one that is named
        (None, [], "012345", "012345"),  # not known
        (None, [0, 1, 2], "012345", "012345"),  # none left
    ],
)
def test_the_gate_has_the_fold_kept_from_tuning_or_else_those_kept_from_training(
    holdout_fold, folds_seen, tuning, gate
):
    parts = split_for_gate(battles("ababab", [0, 0, 1, 1, 2, 2]), holdout_fold, folds_seen, 3)
    assert [ids(part) for part in parts] == [set(tuning), set(gate)]


def test_battles_without_folds_or_labels_outside_of_training_are_not_split():
    plain = battles("abab")
    assert [ids(part) for part in split_for_gate(plain, None, [1], 3)] == [ids(plain)] * 2
    unlabelled = battles([None, None, "a", "b"], [0, 0, 1, 1])
    assert [ids(part) for part in split_for_gate(unlabelled, None, [1], 3)] == [ids(unlabelled)] * 2


def test_rows_that_tuned_the_copy_are_no_evidence_while_others_are_left(caplog):
    caplog.set_level("INFO")
    pool = battles("ab" * 10, [0] * 20)
    rows = draw_gate_rows(pool, 100, {str(i) for i in range(12)}, [1], seed=0)
    assert {row["id"] for row in rows} == {str(i) for i in range(12, 20)} and not caplog.text
    rows = draw_gate_rows(pool, 5, {str(i) for i in range(19)}, [1], seed=0)
    assert len(rows) == 5 and "battles that tuned the copy" in caplog.text


@pytest.mark.parametrize(
    "folds, folds_seen, said",
    [
        ([0] * 4, [0, 1], "4 of 4 battles are in folds that the judge was trained on"),
        ([0] * 4, [], "folds do not tell"),
        (None, [0], "folds do not tell"),
        ([2] * 4, [0, 1], ""),
    ],
)
def test_battles_that_the_judge_may_have_been_trained_on_are_said(folds, folds_seen, said, caplog):
    caplog.set_level("INFO")
    draw_gate_rows(battles("abab", folds), 9, set(), folds_seen, seed=0)
    assert said in caplog.text and bool(said) == bool(caplog.text)


def test_soft_labels_are_labels_and_battles_without_any_are_counted(caplog):
    caplog.set_level("INFO")
    pool = battles(["a", None, None, "b", None], [0] * 5, soft=[1])
    assert ids(labelled_pool(pool, 3)) == {"0", "1", "3"}
    assert "gate: skipped 2 of 5 battles, which have no label" in caplog.text


def test_too_few_labels_for_the_gate_are_refused_before_anything_is_tuned():
    assert labelled_pool(battles("ab"), 3).num_rows == 2
    with pytest.raises(InputError, match="2 of 3 battles for the gate have no label, but it needs 2 others"):
        labelled_pool(battles(["a", None, None]), 3)


def test_ties_are_no_labels_of_a_judge_of_two_verdicts(caplog):
    caplog.set_level("INFO")
    pool = battles(["a", "tie", "b", "tie"], soft=[1])  # of which one is a tie by a tenth
    assert ids(labelled_pool(pool, 2)) == {"0", "1", "2"} and ids(labelled_pool(pool, 3)) == set("0123")
    assert "gate: skipped 1 of 4 battles, which have no label or a tie" in caplog.text
    with pytest.raises(InputError, match="3 of 4 battles for the gate have no label or a tie"):
        labelled_pool(battles(["a", "tie", "tie", None]), 2)
    folds = [0, 0, 1, 1]
    assert [ids(part) for part in split_for_gate(battles(["a", "b", "tie", "tie"], folds), None, [0], 2)] == [
        set("0123")
    ] * 2


def test_the_gate_takes_battles_from_all_over_the_file():
    rows = draw_gate_rows(battles("ab" * 500), 100, set(), [], seed=0)
    assert np.mean([int(row["id"]) for row in rows]) == pytest.approx(500, abs=100)
