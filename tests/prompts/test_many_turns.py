"""A battle with more turns than the budget has room for is shown without its earliest turns, which are counted."""

import logging

import pytest

from helpers.prompt_cases import TEMPLATES, WIDE, WORDS, swapped
from sft_judge.core.errors import InputError
from sft_judge.modeling.judge_spec import Budget
from sft_judge.prompts.prompt import JudgePrompt
from sft_judge.prompts.templates import read_template

pytestmark = pytest.mark.unit
NAMES = ("prompt", "response_a", "response_b")
FEW = {"id": "few", **{name: ["one"] for name in NAMES}, "language": None}


def talk(turns: int, words: int = 1) -> dict:
    """A battle whose turns are numbered."""
    texts = {name: [f"{name}{place} " * words for place in range(turns)] for name in NAMES}
    return {"id": f"talk-{turns}", **texts, "language": "English"}


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("turns, words", [(150, 1), (150, 30), (300, 2), (3000, 1)])
def test_the_latest_turns_are_shown_the_others_counted_and_other_battles_stay_as_they_are(
    template, turns, words, tokenizer
):
    prompt = JudgePrompt(tokenizer, read_template(template), WORDS, Budget(128, 128, 384), language=True)
    wide = JudgePrompt(tokenizer, read_template(template), WORDS, WIDE, language=True)
    row = talk(turns, words)
    (alone,), (first, fields, last) = prompt.fit([FEW]), prompt.fit([FEW, row, FEW])
    assert first == alone == last
    shown = len(fields.prompt)
    assert fields.turns_left_out == turns - shown > 0 and shown > 0
    assert len(fields.response_a) == len(fields.response_b) == shown
    for order in ("ab", "ba"):
        assert len(prompt.ids(fields, order)) < 384
    assert tokenizer.decode(fields.response_a[-1]).strip().startswith(f"response_a{turns - 1}"[:6])
    for name in NAMES:
        whole = sum(len(wide.plain.encode(text, add_special_tokens=False).ids) for text in row[name])
        assert fields.cut[name] == whole - sum(map(len, getattr(fields, name)))
    back = prompt.fit([swapped(row)])[0]
    assert prompt.ids(back, "ba") == prompt.ids(fields, "ab") and back.turns_left_out == fields.turns_left_out


def test_each_shown_turn_has_room_for_several_tokens_if_any_is_left_out(tokenizer):
    prompt = JudgePrompt(tokenizer, read_template("pair"), WORDS, Budget(400, 400, 600))
    fields = prompt.fit([talk(60, 40)])[0]
    assert sum(map(len, fields.prompt + fields.response_a + fields.response_b)) >= 8 * 3 * len(fields.prompt)


def test_a_conversation_that_fits_turn_by_turn_is_cut_as_before_and_shown_in_all_turns(tokenizer):
    prompt = JudgePrompt(tokenizer, read_template("pair"), WORDS, Budget(60, 60, 320))
    fields = prompt.fit([talk(3, 50)])[0]
    assert fields.turns_left_out == 0 and len(fields.prompt) == 3 and fields.cut["prompt"] > 0


def test_the_first_such_battle_is_named_and_all_are_counted(tokenizer, caplog):
    prompt = JudgePrompt(tokenizer, read_template("pair"), WORDS, Budget(128, 128, 384))
    with caplog.at_level(logging.WARNING):
        prompt.fit([talk(70), FEW, talk(80)])
    assert prompt.shortened == 2
    (message,) = caplog.messages
    assert "talk-70" in message and "70 turns" in message and "384" in message


def test_a_budget_without_room_for_one_turn_is_an_error(tokenizer):
    prompt = JudgePrompt(tokenizer, read_template("pair"), WORDS, Budget(64, 64, 40))
    with pytest.raises(InputError, match="total_budget is too small.*Raise total_budget to at least"):
        prompt.fit([FEW])
