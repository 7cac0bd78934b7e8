"""Vocabularies that lack some bytes, as SmolLM2's does: a few characters become U+FFFD, and that is said."""

import json
import logging
import sys

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from helpers.prompt_cases import PAIR, ROW, WORDS
from sft_judge.core.errors import InputError
from sft_judge.modeling.judge_spec import Budget
from sft_judge.modeling.tiny_tokenizers import tokenizer_of
from sft_judge.prompts.escaping import REPLACEMENT, tokenizer_state, unspelled_characters
from sft_judge.prompts.prompt import JudgePrompt

pytestmark = pytest.mark.unit

# what SmolLM2's vocabulary has not: bytes of no text, control characters, and two lead bytes of unassigned planes
SMOLLM2 = (0xC0, 0xC1, *range(0xF5, 0x100), 0x04, 0x06, 0x0E, 0x10, 0x11, 0x15, 0xF1, 0xF2)


def without_bytes(missing, family: str = "qwen2.5") -> PreTrainedTokenizerFast:
    """A byte-level tokenizer whose vocabulary lacks the symbols of some bytes."""
    whole = tokenizer_of(family)
    state, symbols = tokenizer_state(whole), bytes_to_unicode()
    lost = {symbols[byte] for byte in missing}
    model = state["model"]
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    kept = [merge for merge in merges if not any(letter in lost for letter in "".join(merge))]
    vocabulary = {
        token: place for token, place in model["vocab"].items() if not any(letter in lost for letter in token)
    }
    state["model"] = {**model, "vocab": vocabulary, "merges": kept}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), name_or_path="lacking", eos_token=whole.eos_token
    )
    tokenizer.pad_token, tokenizer.chat_template = whole.pad_token, whole.chat_template
    return tokenizer


@pytest.mark.parametrize("missing", [SMOLLM2, (0x07, 0xE0, 0xF0, 0xF4), (0xC3, 0xED)])
def test_exactly_the_characters_of_missing_bytes_cannot_be_spelled(missing):
    pattern = unspelled_characters("lacking", tokenizer_state(without_bytes(missing)))
    for point in [*range(0x3000), *range(0x3000, sys.maxunicode + 1, 97), sys.maxunicode]:
        if not 0xD800 <= point <= 0xDFFF:
            letter = chr(point)
            assert bool(pattern.search(letter)) == any(byte in missing for byte in letter.encode()), hex(point)


def test_bytes_that_stand_in_no_text_are_not_missed():
    lacking = without_bytes((0xC0, 0xC1, *range(0xF5, 0x100)))
    assert unspelled_characters("lacking", tokenizer_state(lacking)) is None


def test_a_vocabulary_without_a_byte_of_most_texts_is_refused():
    for byte in (0x85, REPLACEMENT.encode()[0]):
        with pytest.raises(InputError, match=f"lacks the byte 0x{byte:02X}"):
            JudgePrompt(without_bytes((byte,)), PAIR, WORDS, Budget())


def test_a_character_that_cannot_be_spelled_is_read_as_the_replacement_counted_and_said_once(caplog):
    lacking, row = without_bytes(SMOLLM2), {**ROW, "response_a": ["a\x04b\U00045678c"], "response_b": ["d\x10"]}
    prompt = JudgePrompt(lacking, PAIR, WORDS, Budget())
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            fields = prompt.fit([row])[0]
    said = [record for record in caplog.records if "cannot encode" in record.message]
    assert len(said) == 1 and r"'\x04'" in said[0].message
    assert prompt.replaced == 6
    assert lacking.decode(fields.response_a[0]) == f"a{REPLACEMENT}b{REPLACEMENT}c"
    assert prompt.fit([{**row, "response_a": [f"a{REPLACEMENT}b{REPLACEMENT}c"]}])[0].response_a == fields.response_a


def test_a_prompt_template_that_cannot_be_spelled_is_refused():
    prompt = JudgePrompt(
        without_bytes(SMOLLM2), PAIR.replace("{% block system %}", "{% block system %}\x04"), WORDS, Budget()
    )
    with pytest.raises(InputError, match="of the template"):
        prompt.frame(1, 1, 1, False)
