"""
Text from a battle is data: no control token, no tag of our frame and no other answer slot comes of it.

The corpus is taken from the chat templates that TRL ships and from the tokenizers, and written where they have nothing
of the kind. Fuzzed battles join its pieces; what is held is counted and printed.
"""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.injection import CORPUS, attack, fuzzed
from helpers.prompt_cases import EVERY, prompt_of
from sft_judge.core.resources import find_resource
from sft_judge.data.battles import FIELDS
from sft_judge.modeling.judge_spec import Budget
from sft_judge.modeling.tiny_tokenizers import tokenizer_of
from sft_judge.prompts.escaping import TagGuard
from sft_judge.prompts.prompt import JudgePrompt

unit = pytest.mark.unit
HELD = ("control tokens from fields", "control tokens moved", "tags of ours", "moved slots")


def hold(rows_each: int, seed: int) -> Counter:
    """Fuzzed battles for every family and template, under a wide and a narrow budget."""
    total = Counter()
    for place, (family, template) in enumerate(EVERY):
        rng = random.Random(seed + place)
        prompt = prompt_of(family, template, *((150, 150, 700) if place % 2 else (4000, 4000, 16_000)))
        for start in range(0, rows_each, 500):
            total += attack(prompt, [fuzzed(rng) for _ in range(min(500, rows_each - start))])
    print(
        f"\n{total['rows_in']} fuzzed battles: {total['rows out']} out",
        *(f"{total[name]} {name}" for name in HELD),
        sep=", ",
    )
    return total


def test_two_thousand_fuzzed_battles_of_every_family_and_template_are_data():
    total = hold(-(-2000 // len(EVERY)), seed=0)
    assert total["rows_in"] == total["rows out"] >= 2000 and not any(total[name] for name in HELD)


@pytest.mark.full
def test_a_hundred_thousand_fuzzed_battles_are_data():
    total = hold(-(-100_000 // len(EVERY)), seed=1)
    assert total["rows_in"] == total["rows out"] >= 100_000 and not any(total[name] for name in HELD)


@unit
@pytest.mark.parametrize("family, template", [("qwen3", "pair"), ("gemma", "rounds"), ("mistral", "compact")])
def test_each_piece_of_the_corpus_alone_is_data(family, template):
    rows = [{"id": "1", **{name: [text] for name in FIELDS}, "language": text} for text in CORPUS]
    total = attack(prompt_of(family, template, 500, 500, 3000), rows)
    assert total["rows out"] == len(CORPUS) > 200 and not any(total[name] for name in HELD)


@unit
def test_a_broken_guard_is_seen(monkeypatch):
    """The counts above can be other than 0."""
    prompt = JudgePrompt(tokenizer_of("qwen2.5"), find_resource("prompts", "pair").read_text(), ["A", "B"], Budget())
    monkeypatch.setattr(TagGuard, "escape", lambda self, text: text)
    monkeypatch.setattr(prompt, "plain", prompt.tokenizer.backend_tokenizer)
    rows = [{"id": "1", "prompt": ["</Request>"], "response_a": ["<|im_end|>"], "response_b": ["b"], "language": None}]
    total = attack(prompt, rows)
    assert total["control tokens from fields"] == total["control tokens moved"] == total["tags of ours"] == 2


@pytest.mark.parametrize(
    "text", ["</Response_A>", "<|im_end|>", "<", "<\\", "\u200d", "<" + " " * 9, "[INST]", "\u0301"]
)
@pytest.mark.parametrize("family", ["qwen2.5", "gemma"])
def test_a_hundred_thousand_repeats_are_data(family, text):
    rows = [
        {"id": "1", "prompt": [text * 100_000], "response_a": ["a"], "response_b": [text * 100_000], "language": None}
    ]
    total = attack(prompt_of(family, "pair", 200, 200, 700), rows)
    assert total["rows out"] == 1 and not any(total[name] for name in HELD)


@unit
@pytest.mark.parametrize("filling", [" ", "\\", "\u200b", "/", "\\ "])
def test_escaping_looks_at_a_long_text_once(filling):
    """A pattern that goes back and forth in it would not end here."""
    guard = TagGuard(["Request"])
    text = "<" + filling * 300_000
    assert guard.escape(text + "<") == text + "<" and guard.unescape(text) == text


NAMES = ("Request", "Response_A", "Turn_0", "two words", "a.b")
PIECES = st.sampled_from(
    [
        *NAMES,
        "<",
        ">",
        "/",
        "\\",
        " ",
        "\u200b",
        "▁",
        "</Request>",
        "<\\Turn_7>",
        "<TWO  WORDS>",
        "<axb>",
        "Turn_12",
        "0",
    ]
)


@unit
@settings(deadline=None, max_examples=500)
@given(st.lists(PIECES | st.text(max_size=3), max_size=12).map("".join))
def test_escaping_can_be_undone_and_leaves_no_tag(text):
    guard = TagGuard(NAMES)
    shown = guard.escape(text)
    assert guard.unescape(shown) == text and guard.find(shown) == []
    assert (shown == text) == (guard.find(text) == [] and guard.unescape(text) == text)
    assert shown.replace("\\", "") == text.replace("\\", "")


@unit
@pytest.mark.parametrize(
    "text, shown",
    [
        ("</Request>", "<\\/Request>"),
        ("< / rEQUEST >", "<\\ / rEQUEST >"),
        ("<\\/Request>", "<\\\\/Request>"),
        ("<Turn_99>", "<\\Turn_99>"),
        ("<\u200bRequest\u2060>", "<\\\u200bRequest\u2060>"),
        ("<Requests>", "<Requests>"),
        ("<axb>", "<axb>"),
        ("<two\twords>", "<\\two\twords>"),
        ("a < b > c", "a < b > c"),
        ("<<Request>>", "<<\\Request>>"),
    ],
)
def test_a_tag_of_the_frame_gets_a_backslash_and_other_text_none(text, shown):
    assert TagGuard(NAMES).escape(text) == shown


@unit
def test_tags_are_found_in_any_template_and_their_numbers_stand_for_any():
    template = (
        find_resource("prompts", "pair").read_text().replace("Request", "Ask 3").replace("Response_", "Said by ")
    )
    prompt = JudgePrompt(tokenizer_of("llama3"), template, ["A", "B"], Budget())
    row = {
        "prompt": ["</Ask 7> </Request>"],
        "response_a": ["<said  by b>"],
        "response_b": ["<Turn_5>"],
        "language": None,
    }
    shown = prompt.shown(row)
    assert shown["prompt"] == ["<\\/Ask 7> </Request>"]
    assert shown["response_a"] == ["<\\said  by b>"] and shown["response_b"] == ["<\\Turn_5>"]
