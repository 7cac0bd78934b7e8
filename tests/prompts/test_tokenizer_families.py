"""Every family and template: ids are exact, whole and the same in training and prediction; swap exchanges."""

import re
import unicodedata
from copy import deepcopy

import pytest
from hypothesis import HealthCheck, given, settings
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from helpers.prompt_cases import EVERY, LONG, TURN, battles, prompt_of, swapped
from helpers.spelling import Spelling, control_ids, text_of
from sft_judge.core.errors import InputError
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.battles import FIELDS, battle_table
from sft_judge.modeling.judge_spec import Budget
from sft_judge.modeling.tiny_tokenizers import FAMILIES, tokenizer_of
from sft_judge.prompts.prompt import JudgePrompt
from sft_judge.prompts.templates import read_template
from sft_judge.training.dataset import verdict_dataset

unit = pytest.mark.unit
few = settings(deadline=None, max_examples=8, suppress_health_check=list(HealthCheck))


def turns_of(fields: dict) -> list:
    return [turn for name in FIELDS for turn in fields[name]]


def whole_text(prompt: JudgePrompt, row: dict) -> str:
    """The rendered text: pieces of frame and the fields as they are shown."""
    shown = prompt.shown(row)
    frame = prompt.frame(*(len(row[name]) for name in FIELDS), bool(shown["language"]))
    text = frame.texts[0]
    for (name, turn), piece in zip(frame.slots, frame.texts[1:], strict=True):
        text += shown[name][turn] + piece
    return text


@pytest.mark.parametrize("family, template", EVERY)
@few
@given(row=battles(turns=TURN))
def test_a_fields_ids_are_that_shown_field_encoded_alone_and_hold_no_control_token(family, template, row):
    prompt, spelling = prompt_of(family, template), Spelling(family)
    fields, shown = prompt.fit([row])[0], prompt.shown(row)
    for text, ids in zip(turns_of(shown), turns_of(vars(fields)), strict=True):
        assert ids == spelling.ids(text)
        assert control_ids(prompt.tokenizer).isdisjoint(ids)


@pytest.mark.parametrize("family, template", EVERY)
@few
@given(row=battles(turns=TURN))
def test_the_whole_decodes_back_to_the_rendered_text(family, template, row):
    """Up to what the family's normalizer does: NFC, and "▁" for a space; Phi-3 drops spaces around control tokens."""
    prompt = prompt_of(family, template)
    seen, text = text_of(prompt.tokenizer, prompt.ids(prompt.fit([row])[0])), whole_text(prompt, row)
    if FAMILIES[family].nfc:
        seen, text = (unicodedata.normalize("NFC", side) for side in (seen, text))
    if not FAMILIES[family].byte_level:
        text = text.replace("▁", " ")
    if FAMILIES[family].rstrip:
        marks = "|".join(map(re.escape, FAMILIES[family].control))
        seen, text = (re.sub(rf"\s*({marks})\s*", r"\1", side) for side in (seen, text))
    assert seen == text


@pytest.mark.parametrize("family, template", EVERY)
@few
@given(row=battles(turns=LONG))
def test_training_ids_are_prediction_ids_and_the_verdict_and_swap_exchanges(family, template, row):
    prompt = prompt_of(family, template, 60, 60, 500)
    straight, exchanged = prompt.encode([row, swapped(row)], ("ab", "ba"))
    assert straight == exchanged[::-1]
    assert max(map(len, straight)) < 500
    example = verdict_dataset(battle_table([row]), prompt, "both", 0)[0][0]
    for ids, targets, shown in zip(example["input_ids"], example["targets"], straight, strict=True):
        assert ids == [*shown, prompt.verdict_ids[targets.index(1.0)]]
    assert [VERDICTS[targets.index(1.0)] for targets in example["targets"]] == ["b", "a"]


@pytest.mark.parametrize("family, template", EVERY)
def test_the_verdict_stands_where_the_rendered_text_ends(family, template):
    row = {"prompt": ["Why?"], "response_a": ["So."], "response_b": ["No."], "language": None}
    for words in (("A", "B"), ("A", "B", "tie")):
        prompt = prompt_of(family, template, words=words)
        ids, text = prompt.ids(prompt.fit([row])[0]), whole_text(prompt, row)
        assert ("tie" in text) == (len(words) == 3)
        before = prompt.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids[-1] == before[-1]
        for word, token in zip(words, prompt.verdict_ids, strict=True):
            assert prompt.tokenizer(text + word, add_special_tokens=False)["input_ids"] == [*before, token]
            assert prompt.tokenizer.decode([token]).strip() == word


@unit
@pytest.mark.parametrize("family", FAMILIES)
def test_the_system_text_stands_once_and_thinking_is_off(family):
    prompt = prompt_of(family, "pair")
    text = "".join(prompt.frame(1, 1, 1, False).texts)
    assert text.count("You judge which") == 1
    assert text.count("<think>") == text.count("</think>") == (family == "qwen3")


@unit
def test_rounds_keep_the_order_in_which_people_saw_it():
    row = {"prompt": ["p0", "p1"], "response_a": ["a0", "a1"], "response_b": ["b0", "b1"], "language": "German"}
    for order, first, second in (("ab", "a", "b"), ("ba", "b", "a")):
        prompt = prompt_of("qwen2.5", "rounds")
        text = prompt.tokenizer.decode(prompt.ids(prompt.fit([row])[0], order))
        said = [f"{who}{turn}" for turn in range(2) for who in ("p", first, second)]
        assert re.findall(r"\b[pab][01]\b", text) == said and "<Language>German</Language>" in text


@unit
def test_spaces_that_are_added_tokens_of_gemma_stay_text():
    prompt = prompt_of("gemma", "pair")
    ids = prompt.fit([{"prompt": ["a\n\nb"], "response_a": ["<h1>"], "response_b": ["<unused0>"]}])[0]
    assert prompt.tokenizer.convert_tokens_to_ids("\n\n") not in control_ids(prompt.tokenizer)
    assert prompt.tokenizer.convert_ids_to_tokens(ids.response_a[0]) == ["<", "h1>"]
    assert len(ids.response_b[0]) > 1


@unit
def test_full_width_look_alikes_become_neither_control_tokens_nor_tags_under_nfkc():
    tokenizer = deepcopy(tokenizer_of("phi4"))
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    prompt = JudgePrompt(tokenizer, read_template("pair"), ["A", "B"], Budget())
    row = {"prompt": ["＜|im_end|＞"], "response_a": ["＜/Ｒequest＞"], "response_b": ["b"], "language": None}
    fields = prompt.fit([row])[0]
    assert tokenizer.decode(fields.prompt[0]) == "<|im_end|>" and len(fields.prompt[0]) > 1
    assert tokenizer.decode(fields.response_a[0]) == "<\\/Request>"


@unit
@pytest.mark.parametrize("kind", ["Unigram", "WordPiece"])
def test_other_kinds_of_tokenizer_are_refused_by_name(kind):
    model = models.Unigram([("A", -1.0)], 0) if kind == "Unigram" else models.WordPiece({"A": 0}, unk_token="A")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model))
    with pytest.raises(InputError, match=f"got a {kind} tokenizer, but a judge needs byte-pair"):
        JudgePrompt(tokenizer, read_template("pair"), ["A", "B"], Budget())
