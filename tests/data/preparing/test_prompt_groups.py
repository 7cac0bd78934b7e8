"""Groups of prompts: one for a conversation and its near-copies, the same for folds, leaks and intervals."""

import itertools

import numpy as np
import pyarrow as pa
import pytest

from helpers.near_texts import is_surely_near, jaccard
from sft_judge.cli import main
from sft_judge.data.battles import battle_table, read_battles
from sft_judge.data.preparing.folds import assign_folds
from sft_judge.data.preparing.minhash import connect
from sft_judge.data.preparing.prompt_groups import PromptIndex, group_prompts
from sft_judge.data.synthetic.generator import generate_split
from sft_judge.data.synthetic.preference_model import preset_settings

pytestmark = pytest.mark.unit
LONG = " ".join(f"word{place}" for place in range(40))


def table(prompts: list[list[str]]) -> pa.Table:
    fields = {"response_a": ["x"], "response_b": ["y"], "verdict": "a"}
    return battle_table([{"id": f"b{row}", "prompt": turns, **fields} for row, turns in enumerate(prompts)])


def find_leaks(prompts: list[list[str]], sides: list[int]):
    index = PromptIndex()
    index.add(prompts)
    return index.find_leaks(np.array(sides), pa.chunked_array([[f"b{row}" for row in range(len(prompts))]]))


def test_a_follow_up_and_a_near_copy_are_of_one_group_numbered_by_first_appearance():
    prompts = [["hello you"], [LONG], ["Hello  you", "and then?"], [LONG.replace("word9 ", "other ")], ["another"]]
    assert group_prompts(table(prompts)).tolist() == [0, 1, 0, 1, 2]
    assert group_prompts(table(prompts).slice(0, 0)).tolist() == []


def synthetic_prompts() -> list[list[str]]:
    knobs = preset_settings("full", rows=400, test_rows=1, shifted_rows=1, near_duplicates=0.3)
    return [row["prompt"] for row in generate_split(knobs, "train").rows]


def test_groups_are_those_of_a_comparison_of_all_pairs():
    prompts = synthetic_prompts()
    groups, edges = group_prompts(table(prompts)), []
    for i, j in itertools.combinations(range(400), 2):
        near = is_surely_near(jaccard("\n".join(prompts[i]), "\n".join(prompts[j])))
        if near or prompts[i][0].casefold() == prompts[j][0].casefold():
            assert groups[i] == groups[j]
        if near is not False:
            edges.append((i, j))
    possible = connect(400, np.array(edges))
    assert all(len(set(possible[groups == group])) == 1 for group in set(groups)) and 50 < len(set(groups)) < 350


def test_no_group_of_the_intervals_is_in_two_folds():
    battles = table(synthetic_prompts())
    groups, folds = group_prompts(battles), assign_folds(battles, 5, seed=0)
    assert all(len(set(folds[groups == group])) == 1 for group in set(groups))
    assert not find_leaks(battles["prompt"].to_pylist(), folds.tolist()).leaking.any()


def test_a_near_copy_on_another_side_is_found_and_named_and_one_on_the_same_is_not():
    prompts = [[LONG], [f"{LONG} MORE".upper()], ["quite another thing"], ["quite another thing"]]
    leaks = find_leaks(prompts, [0, 1, 2, 2])
    assert leaks.leaking.tolist() == [True, True, False, False] and leaks.pairs == [("b0", "b1")]
    assert leaks.first_turns == 0 and leaks.prompts == 3
    assert not find_leaks(prompts, [0, 0, 1, 1]).leaking.any()
    for side in (0, 1, 2):  # a copy of a prompt that leaks leaks too, wherever it is
        assert find_leaks([[LONG], [LONG], [f"{LONG} more"]], [0, 1, side]).leaking.all()


def test_first_turns_on_two_sides_are_counted_once_each():
    leaks = find_leaks(
        [["Same  one", "more"], ["same one"], ["hello"], ["Hello "], ["Hello"], ["?!"]], [0, 1, 0, 1, 2, 0]
    )
    assert leaks.first_turns == 2 and leaks.leaking.tolist() == [True] * 5 + [False]


def test_mt_bench_has_as_many_groups_as_questions(data_folder, tmp_path):
    battles = []
    for name, questions in (("train", 56), ("test", 24)):
        path = tmp_path / f"{name}.parquet"
        assert main(["import", str(data_folder / f"lmsys/{name}.csv"), "--output", str(path)]) == 0
        battles.append(read_battles(path))
        assert len(set(group_prompts(battles[-1]))) == questions
    both = pa.concat_tables(part.select(["prompt"]) for part in battles)
    assert len({tuple(turns) for turns in both["prompt"].to_pylist()}) == 160
    assert len(set(group_prompts(both))) == 80
