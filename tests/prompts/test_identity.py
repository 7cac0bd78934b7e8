"""A judge's prompt is that of the day it was made: what would change it is refused, and the date is fixed."""

import copy
import datetime
from types import SimpleNamespace

import pytest
from transformers.utils import chat_template_utils

from helpers.prompt_cases import PAIR, WORDS
from sft_judge.core.errors import InputError
from sft_judge.modeling.judge_spec import Budget, JudgeSpec
from sft_judge.modeling.tiny_tokenizers import tokenizer_of
from sft_judge.prompts.check import check_chat_template
from sft_judge.prompts.identity import check_vocabulary, record_prompt
from sft_judge.prompts.prompt import JudgePrompt
from sft_judge.prompts.templates import FIXED_DATE

pytestmark = pytest.mark.unit

DATED = "{{ strftime_now('%d %B %Y') }}{% if mood is defined %}{{ mood }}{% endif %}\n"


def judge_of(tokenizer) -> JudgeSpec:
    prompt = JudgePrompt(tokenizer, PAIR, WORDS, Budget())
    return JudgeSpec(WORDS, prompt.verdict_ids, PAIR, Budget(), frame=record_prompt(prompt))


@pytest.fixture
def tokenizer():
    return copy.deepcopy(tokenizer_of("qwen3"))


def test_two_days_give_the_same_ids(tokenizer, monkeypatch):
    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 1, 1)

    tokenizer.chat_template = DATED + tokenizer.chat_template
    spec, today = judge_of(tokenizer), JudgePrompt(tokenizer, PAIR, WORDS, Budget()).frame(1, 1, 1, False)
    monkeypatch.setattr(chat_template_utils, "datetime", Clock)
    assert JudgePrompt.of(tokenizer, spec).frame(1, 1, 1, False) == today
    assert today.texts[0].startswith(FIXED_DATE.strftime("%d %B %Y"))
    said = " ".join(finding.text for finding in check_chat_template(tokenizer))
    assert f"fixed to {FIXED_DATE}" in said and "left at their defaults: mood" in said


def test_another_chat_template_is_refused_with_what_differs(tokenizer):
    spec = judge_of(tokenizer)
    JudgePrompt.of(tokenizer, spec)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_start|>user", "<|im_start|>human")
    tokenizer.chat_template = "Be brief.\n" + tokenizer.chat_template
    with pytest.raises(InputError, match="another prompt than the judge was made with: got 'Be brief"):
        JudgePrompt.of(tokenizer, spec)


def test_other_tokens_for_the_same_text_are_refused(tokenizer):
    spec = judge_of(tokenizer)
    other = copy.deepcopy(tokenizer_of("mistral"))
    other.chat_template = tokenizer.chat_template
    same_text = JudgeSpec(WORDS, JudgePrompt(other, PAIR, WORDS, Budget()).verdict_ids, PAIR, Budget())
    same_text.frame = spec.frame | {"text": record_prompt(JudgePrompt(other, PAIR, WORDS, Budget()))["text"]}
    with pytest.raises(InputError, match="other tokens for the same prompt"):
        JudgePrompt.of(other, same_text)


def test_a_judge_of_an_earlier_version_without_a_chat_template_is_refused(tokenizer):
    spec = judge_of(tokenizer)
    spec.frame, tokenizer.chat_template = None, None
    spec.verdict_ids = JudgePrompt(tokenizer, PAIR, WORDS, Budget()).verdict_ids
    with pytest.raises(InputError, match="earlier version"):
        JudgePrompt.of(tokenizer, spec)


@pytest.mark.parametrize("what", ["the pad token", "a verdict", "the prompt's frame", "the vocabulary"])
def test_a_token_beyond_the_embedding_is_refused_whichever_it_is(what):
    def place(name):
        return 100 if name == what else 7

    prompt = SimpleNamespace(
        tokenizer=SimpleNamespace(
            pad_token_id=place("the pad token"), name_or_path="m", convert_ids_to_tokens=lambda token: f"<{token}>"
        ),
        verdict_ids=[1, place("a verdict"), 2],
        language=False,
        frame=lambda *shape: SimpleNamespace(pieces=[[3], [4, place("the prompt's frame")]]),
        plain=SimpleNamespace(get_vocab=lambda: {"x": 5, "y": place("the vocabulary")}),
    )
    check_vocabulary(prompt, 101)
    with pytest.raises(InputError, match=f"{what} has token 100 .* has 100 rows"):
        check_vocabulary(prompt, 100)


def test_a_real_tokenizers_tokens_have_rows(tokenizer):
    check_vocabulary(JudgePrompt(tokenizer, PAIR, WORDS, Budget()), len(tokenizer))
