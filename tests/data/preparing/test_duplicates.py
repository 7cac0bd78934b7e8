"""Near-duplicates of battles: those go whose prompt and responses are similar to those of one that stays."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.near_texts import duplicate_similarity, is_surely_near
from sft_judge.cli import main
from sft_judge.data.battles import battle_table, write_battles
from sft_judge.data.preparing.duplicates import DuplicateIndex, count_disagreeing
from sft_judge.data.preparing.prompt_groups import PromptIndex

sys.path.append(str(Path(__file__).parents[3] / "scripts"))  # as `python scripts/dedup_recall.py` has it
from dedup_recall import PARTS, draw_battles, measure_recall  # noqa: E402

pytestmark = pytest.mark.unit
FIELDS = ("prompt", "response_a", "response_b")


def random_text(draw, num_words: int) -> list[str]:
    return [f"w{word}" for word in draw.integers(0, 9999, num_words)]


def change(words: list[str], *places: int) -> list[str]:
    return [f"other{place}" if place in places else word for place, word in enumerate(words)]


def rows_of(*battles) -> list[dict]:
    """Battles of lists of words (or of turns, which are lists of lists)."""
    turns = [[text if isinstance(text[0], list) else [text] for text in texts] for texts in battles]
    return [dict(zip(FIELDS, [[" ".join(turn) for turn in text] for text in texts], strict=True)) for texts in turns]


def find_duplicates(rows: list[dict], labelled=None, ids=None):
    prompts, duplicates = PromptIndex(), DuplicateIndex(near=True)
    for part in (rows[:3], rows[3:]):
        prompts.add([row["prompt"] for row in part])
        duplicates.add(part)
    eligible = np.ones(len(rows), dtype=bool)
    labelled = eligible if labelled is None else np.array(labelled)
    ids = [f"{place:03}" for place in range(len(rows))] if ids is None else ids
    return duplicates.find_representatives(eligible, labelled, np.array(ids, dtype=object), prompts)


@pytest.fixture
def texts():
    draw = np.random.default_rng(0)
    return [random_text(draw, 300), *(random_text(draw, 20) for _ in range(4))]


def test_battles_of_one_long_prompt_with_other_responses_stay(texts):
    prompt, a, b, c, d = texts
    stays, _ = find_duplicates(rows_of((prompt, a, b), (prompt, c, d), (prompt, a, d), (prompt, d, b), (prompt, a, a)))
    assert stays.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("places", [(0,), (1,), (2,), (1, 2), (0, 1, 2)])
def test_a_battle_whose_texts_each_have_a_few_words_changed_goes_straight_or_exchanged(texts, places):
    battle = texts[:3]
    copy, other = ([change(t, word) if i in places else t for i, t in enumerate(battle)] for word in (3, 7))
    stays, exchanged = find_duplicates(rows_of(battle, copy, (other[0], other[2], other[1]), texts[2:]))
    assert stays.tolist() == [0, 0, 0, 3] and exchanged.tolist() == [False, False, True, False]


def test_a_battle_goes_only_for_one_that_stays_so_that_no_chain_of_small_changes_leads_away(texts):
    prompt, a, b = texts[:3]
    chain = [(prompt, change(a, *range(step)), b) for step in range(0, 10, 2)]
    rows = rows_of(*chain)
    stays, _ = find_duplicates(rows)
    assert stays[1] == 0 and stays[-1] != 0 and len(set(stays)) > 1
    assert all(stays[stay] == stay for stay in stays)


def test_a_question_and_its_follow_up_are_two_battles(texts):
    prompt, a, b, *_ = texts
    once, again = (prompt, a, b), ([prompt, ["and", "now"]], [a, ["yes"]], [b, ["no"]])
    assert find_duplicates(rows_of(once, again, again))[0].tolist() == [0, 1, 1]


def test_a_labelled_battle_stays_then_the_one_of_the_least_id_whatever_the_order(texts):
    prompt, a, b, *_ = texts
    rows = rows_of(*((prompt, a, change(b, place)) for place in range(4)))
    assert find_duplicates(rows, [False, True, True, True], ["a", "d", "c", "e"])[0].tolist() == [2, 2, 2, 2]


def test_what_stays_is_the_same_for_any_order_of_rows_and_of_responses():
    draw = np.random.default_rng(1)
    bases = [(random_text(draw, 30), random_text(draw, 15), random_text(draw, 15)) for _ in range(5)]
    battles = [[change(text, *draw.choice(14, 2)) for text in bases[place % 5]] for place in range(60)]
    rows, ids = rows_of(*battles), [f"{place:03}" for place in range(60)]
    stays, _ = find_duplicates(rows, ids=ids)
    order = draw.permutation(60)
    turned = rows_of(*([battles[row][place] for place in (0, 2, 1)] for row in order))
    again, _ = find_duplicates(turned, ids=[ids[row] for row in order])
    assert {ids[row]: ids[stay] for row, stay in enumerate(stays)} == {
        ids[order[row]]: ids[order[stay]] for row, stay in enumerate(again)
    }
    assert 5 <= len(set(stays)) < 60


def test_what_goes_and_what_stays_is_what_a_comparison_of_all_pairs_says():
    rows = rows_of(*(battle for part in PARTS for battle in draw_battles((12, 20), part, 12, seed=3)))
    stays, _ = find_duplicates(rows)
    for row, stay in enumerate(stays.tolist()):
        if stay != row:
            assert stays[stay] == stay and is_surely_near(duplicate_similarity(rows[row], rows[stay])) is not False
        else:
            before = (other for other in range(row) if stays[other] == other)
            assert not any(is_surely_near(duplicate_similarity(rows[row], rows[other])) for other in before)
    assert len(set(stays)) < len(rows)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("lengths", [(12, 12), (12, 60), (200, 12)])
def test_near_duplicates_are_found_whichever_part_is_changed_and_few_others_go(lengths, part):
    recall, precision = measure_recall(lengths, part, num=60, seed=0)
    assert recall >= 0.9 and precision >= 0.9


def test_verdicts_of_all_duplicates_are_compared_those_of_exchanged_ones_exchanged():
    verdicts = np.array(["a", "b", "a", "b", "tie", None, "b", "b", "a"], dtype=object)
    stays = np.array([0, 0, 0, 0, 0, 0, 0, 7, -1])
    exchanged = np.array([False, True, True, False, True, True, True, False, False])
    assert count_disagreeing(stays, exchanged, verdicts) == 3  # rows 2, 3 and 4


def test_prepare_counts_near_duplicates_of_another_verdict_and_keeps_others_of_one_prompt(texts, tmp_path, capsys):
    prompt, a, b, c, d = texts
    near = change(a, 3)
    pairs = [(a, b), (near, b), (b, near), (b, a), (b, change(a, 7)), (c, d)]
    verdicts = ["a", "b", "a", "b", "b", "b"]  # the second and the third, which is exchanged, contradict the first
    rows = rows_of(*((prompt, *pair) for pair in pairs))
    rows = [{**row, "id": str(place), "verdict": verdicts[place]} for place, row in enumerate(rows)]
    source, output = tmp_path / "in.jsonl", tmp_path / "out.parquet"
    write_battles(source, battle_table(rows))
    assert main(["prepare", str(source), "--output", str(output), "--folds", "0", "--dedup", "near"]) == 0
    said = capsys.readouterr().out
    assert "6 rows in = 2 out + 0 rejected + 4 merged" in said
    assert "2 of the duplicates had another verdict than the battle that was kept" in said
    rejects = [json.loads(line) for line in (tmp_path / "out.rejects.jsonl").read_text().splitlines()]
    assert [reject["reason"] for reject in rejects] == ["near-duplicate of another battle: 0"] * 4
