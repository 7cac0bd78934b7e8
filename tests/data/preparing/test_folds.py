"""Folds: a prompt stands in one of them, verdicts are spread, and the order of rows does not matter."""

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_judge.cli import main
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.battles import battle_table, read_battles, set_column
from sft_judge.data.preparing.folds import assign_folds, settle_ties
from sft_judge.data.synthetic.generator import generate_split
from sft_judge.data.synthetic.preference_model import SyntheticSettings

pytestmark = pytest.mark.unit
verdicts_drawn = st.sampled_from([*VERDICTS, None])
battles_drawn = st.lists(st.tuples(st.integers(0, 12), verdicts_drawn), min_size=30, max_size=120)


def leaks(table: pa.Table, folds: np.ndarray) -> int:
    """First turns that are in two folds, by a method that shares no code with the folds."""
    seen = {}
    for turns, fold in zip(table["prompt"].to_pylist(), folds.tolist(), strict=True):
        seen.setdefault(re.sub(r"\s+", " ", turns[0].lower()).strip(), set()).add(fold)
    return sum(len(found) > 1 for found in seen.values())


def battles(pairs) -> pa.Table:
    """One battle for each (prompt number, verdict)."""
    fields = {"response_a": ["a"], "response_b": ["b"]}
    return battle_table(
        [{"id": str(row), "prompt": [f"prompt {p}"], "verdict": v, **fields} for row, (p, v) in enumerate(pairs)]
    )


def synthetic_table(rows: int, **knobs) -> pa.Table:
    return battle_table(generate_split(SyntheticSettings(rows=rows, **knobs), "train").rows)


@settings(max_examples=50, deadline=None)
@given(battles_drawn, st.integers(0, 5))
def test_a_prompt_stands_in_one_fold_whatever_the_rows(pairs, seed):
    table = battles([*pairs, (0, "a"), (1, "b"), (2, None)])
    folds = assign_folds(table, 3, seed)
    assert leaks(table, folds) == 0
    assert set(folds) == {0, 1, 2}


@settings(max_examples=50, deadline=None)
@given(battles_drawn, st.randoms(use_true_random=False))
def test_folds_do_not_depend_on_the_order_of_rows(pairs, random):
    table = battles([*pairs, (0, "a"), (1, "b"), (2, None)])
    order = list(range(table.num_rows))
    random.shuffle(order)
    assert (assign_folds(table.take(order), 3, seed=1) == assign_folds(table, 3, seed=1)[order]).all()


def test_the_same_prompt_in_other_case_and_space_is_the_same_group():
    rows = [["Tell me  more"], ["tell ME more"], ["tell me\nmore "], ["tell me less"]]
    fields = {"response_a": ["a"], "response_b": ["b"], "verdict": "a"}
    table = battle_table([{"id": str(i), "prompt": prompt, **fields} for i, prompt in enumerate(rows)])
    folds = assign_folds(table, 2, seed=0)
    assert folds[0] == folds[1] == folds[2] != folds[3]


def test_nearly_the_same_prompt_is_the_same_group_and_another_is_not():
    words = [f"word{i}" for i in range(40)]
    prompts = [words, [*words[:20], "other", *words[21:]], words[::-1]]
    fields = {"response_a": ["a"], "response_b": ["b"], "verdict": "a"}
    rows = [{"id": str(i), "prompt": [" ".join(prompt)], **fields} for i, prompt in enumerate(prompts)]
    folds = assign_folds(battle_table(rows), 2, seed=0)
    assert folds[0] == folds[1] != folds[2]


def test_sources_are_spread_over_the_folds():
    table = synthetic_table(2000)
    table = set_column(table, "source", pa.array(["big"] * 1500 + ["small"] * 500))
    folds = assign_folds(table, 5, seed=0)
    small = np.array(table["source"].to_pylist()) == "small"
    assert np.ptp(np.bincount(folds[small], minlength=5)) <= 10


def test_a_follow_up_stands_in_the_fold_of_its_question():
    fields = {"response_a": ["a"], "response_b": ["b"], "verdict": "a"}
    prompts = [[f"question {i}"] for i in range(20)] + [[f"Question {i}", "and then?"] for i in range(20)]
    folds = assign_folds(battle_table([{"id": str(i), "prompt": p, **fields} for i, p in enumerate(prompts)]), 5, 0)
    assert (folds[:20] == folds[20:]).all()


def test_folds_and_verdicts_are_balanced():
    table = synthetic_table(3000)
    folds = assign_folds(table, 5, seed=0)
    verdicts = np.array(table["verdict"].to_pylist())
    assert np.ptp(np.bincount(folds)) <= 5
    for verdict in VERDICTS:
        assert np.ptp(np.bincount(folds[verdicts == verdict])) <= 5


def test_the_seed_deals_other_folds_and_the_same_seed_the_same():
    table = synthetic_table(500)
    assert (assign_folds(table, 5, 0) == assign_folds(table, 5, 0)).all()
    assert (assign_folds(table, 5, 0) != assign_folds(table, 5, 1)).mean() > 0.5


def test_ties_are_kept_dropped_or_split():
    table = battles([(0, "a"), (1, "tie"), (2, None)])
    assert settle_ties(table, "keep") == table
    assert settle_ties(table, "drop")["id"].to_pylist() == ["0", "2"]
    split = settle_ties(table, "split").to_pylist()
    assert [row["verdict"] for row in split] == ["a", None, None]
    assert [row["soft_a"] for row in split] == [None, 0.5, None]
    assert [row["soft_tie"] for row in split] == [None, 0.0, None]


def test_real_votes_make_five_clean_folds(data_folder, tmp_path):
    source, imported = data_folder / "lmsys/train.csv", tmp_path / "battles.parquet"
    assert main(["import", str(source), "--output", str(imported)]) == 0
    table = read_battles(imported)
    folds = assign_folds(table, 5, seed=0)
    assert leaks(table, folds) == 0
    assert np.bincount(folds).min() > 0.8 * table.num_rows / 5
