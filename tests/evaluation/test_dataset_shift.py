"""Shift: no judge saw what is held out, figures are those of plain loops, and the rule is the one that is printed."""

import numpy as np
import pyarrow as pa
import pytest

from sft_judge.core.errors import InputError
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.battles import battle_table, set_column
from sft_judge.evaluation.dataset_shift import RULES, check_comparable, deal_folds, decide, split_held_out


def battles(prompts: list[str], **more) -> pa.Table:
    rows = [
        {"id": str(i), "prompt": [p], "response_a": ["x"], "response_b": ["y"], "verdict": VERDICTS[i % 3]}
        for i, p in enumerate(prompts)
    ]
    table = battle_table(rows)
    for name, values in more.items():
        table = set_column(table, name, pa.array(values))
    return table


def gain(value: float, low: float) -> dict:
    return {"value": value, "low": low, "high": value + 1}


@pytest.mark.unit
@pytest.mark.parametrize(
    ("ref", "other", "verdict"),
    [  # (native value, low, foreign value, low) on each set
        ((0.2, 0.1, 0.1, 0.05), (0.2, 0.1, 0.1, 0.05), "mix"),
        ((0.2, 0.1, 0.1, 0.05), (0.2, 0.1, 0.09, 0.05), "stage"),  # less than half on the other set
        ((0.2, 0.1, 0.1, 0.05), (0.2, 0.1, 0.1, -0.01), "stage"),
        ((0.2, 0.1, 0.09, 0.05), (0.2, 0.1, 0.2, 0.1), "stage"),
        ((0.2, 0.1, 0.1, 0.0), (0.2, 0.1, 0.1, 0.05), "leave out"),
        ((0.2, 0.1, -0.5, -0.6), (0.2, 0.1, -0.5, -0.6), "leave out"),
        ((0.2, 0.0, 0.1, 0.05), (0.2, 0.1, 0.1, 0.05), "cannot tell"),
        ((0.2, 0.1, 0.1, 0.05), (-0.1, -0.2, 0.1, 0.05), "cannot tell"),
    ],
)
def test_the_rule_gives_the_verdict_it_states(ref, other, verdict):
    gains = [{"native": gain(*one[:2]), "foreign": gain(*one[2:])} for one in (ref, other)]
    assert decide(gains) == verdict and verdict in RULES


@pytest.mark.unit
def test_a_prompt_of_both_sets_is_dealt_to_one_fold_of_both_and_stored_folds_are_kept():
    shared = [f"question number {i} about {i * 7} things" for i in range(40)]
    ref, other = battles([*shared, "only here"]), battles(shared[::-1])
    (one, two), said = deal_folds(ref, other, 4, seed=0)
    folds = dict(zip(shared, one["fold"].to_pylist()[:40], strict=True))
    assert [folds[p] for p in shared[::-1]] == two["fold"].to_pylist() and len(set(folds.values())) == 4
    assert "together" in said
    stored = [set_column(t, "fold", pa.array(np.arange(t.num_rows) % 2)) for t in (ref, other)]
    assert deal_folds(*stored, 4, seed=0)[0] == stored


@pytest.mark.unit
def test_held_out_rows_whose_prompt_a_judge_was_trained_on_are_left_out_and_counted():
    long = " ".join(f"word{i}" for i in range(40))
    ref = battles([long, "mine alone", "also mine"], fold=[1, 1, 2])
    other = battles([f"{long} more", "quite new", "mine alone", "for training", "no verdict"], fold=[0, 0, 0, 3, 0])
    other = set_column(other, "verdict", pa.array(["a", "b", "tie", "a", None]))
    folds, held, left_out = split_held_out([ref, other])
    assert folds == [1, 0]
    # both are held out of both sets: no judge sees them
    assert held[0]["id"].to_pylist() == ["0", "1"] and held[1]["id"].to_pylist() == ["0", "1", "2"]
    assert left_out == [0, 0]
    folds, held, left_out = split_held_out([set_column(ref, "fold", pa.array([2, 2, 1])), other])
    assert held[1]["id"].to_pylist() == ["1"] and left_out == [0, 2]


@pytest.mark.unit
def test_sets_of_two_and_of_three_verdicts_are_refused_with_what_to_do():
    three, two = battles(["p"] * 3), set_column(battles(["p"] * 3), "verdict", pa.array(["a", "b", "a"]))
    check_comparable(["x", "y"], [three, three])
    check_comparable(["x", "y"], [two, two])
    labels = {"verdict": pa.nulls(3, pa.string()), "soft_a": [0.3] * 3, "soft_b": [0.3] * 3, "soft_tie": [0.4] * 3}
    check_comparable(["x", "y"], [three, battles(["p"] * 3, **labels)])
    for names, tables in ((["three", "two"], [three, two]), (["two", "three"], [two, three])):
        with pytest.raises(InputError, match="three has 1 ties and two has none.*prepare three --ties drop"):
            check_comparable(names, tables)
