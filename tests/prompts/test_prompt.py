"""One prompt for all stages: ids are frame and fields joined, symmetric, and no text breaks out."""

import copy
import logging
import re
import unicodedata
from types import SimpleNamespace

import jinja2
import pytest
from hypothesis import HealthCheck, given, settings
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from helpers.prompt_cases import HOSTILE, NARROW, PAIR, ROW, WIDE, WORDS, battles, swapped
from sft_judge.core.errors import InputError
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.battles import battle_table
from sft_judge.modeling.loading import load_tokenizer
from sft_judge.modeling.tiny_models import qwen2_tokenizer
from sft_judge.prompts.prompt import JudgePrompt
from sft_judge.prompts.templates import FrameTemplate
from sft_judge.prompts.verdict_tokens import choose_verdict_words
from sft_judge.training.dataset import verdict_dataset

pytestmark = pytest.mark.unit


def special_count(prompt, ids) -> int:
    special = set(prompt.tokenizer.all_special_ids)
    return sum(token in special for token in ids)


def frame_of(prompt, row):
    return prompt.frame(*(len(row[name]) for name in ("prompt", "response_a", "response_b")), bool(row["language"]))


def escaped(text: str) -> str:
    """A field as the default template shows it: tags of the frame get a backslash."""
    return re.sub(r"<(?=\s*/?\s*(request|language|response_[ab]|turn_\d+)\s*>)", r"<\\", text, flags=re.IGNORECASE)


def rendered(tokenizer, row: dict, words: list[str]) -> str:
    """The whole text by plain Jinja and the family's chat template, as one would write it in a notebook."""
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(PAIR)
    values = {name: [escaped(turn) for turn in row[name]] for name in ("prompt", "response_a", "response_b")}
    values |= {"language": row["language"] and escaped(row["language"]), "words": words}
    context = template.new_context(values)
    system, user = ("".join(template.blocks[name](context)).strip("\n") for name in ("system", "user"))
    options = {"tokenize": False, "add_generation_prompt": True}
    if "start_of_turn" in tokenizer.chat_template:  # Gemma has no system role
        return tokenizer.apply_chat_template([{"role": "user", "content": f"{system}\n\n{user}"}], **options)
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return tokenizer.apply_chat_template(messages, **options)


# Ids


def test_prompt_ids_decode_to_the_rendered_text(wide, synthetic_rows):
    for row in [ROW, *synthetic_rows]:
        row = {"language": None, **row}
        text = rendered(wide.tokenizer, row, WORDS)
        assert wide.tokenizer.decode(wide.ids(wide.fit([row])[0])) == text


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(row=battles())
def test_ids_are_the_frames_and_the_fields_each_encoded_alone(row, wide):
    tokenizer = wide.tokenizer
    marks = iter(f"MARK{place}X" for place in range(100))
    marked = {name: [next(marks) for _ in row[name]] for name in ("prompt", "response_a", "response_b")}
    marked["language"] = next(marks) if row["language"] else None
    fields = dict(
        zip(
            marked["prompt"] + marked["response_a"] + marked["response_b"],
            row["prompt"] + row["response_a"] + row["response_b"],
            strict=True,
        )
    )
    fields[marked["language"]] = row["language"]
    pieces, rest = [], rendered(tokenizer, marked, WORDS)
    while places := [(rest.index(mark), mark) for mark in fields if mark and mark in rest]:
        place, mark = min(places)
        pieces += tokenizer(rest[:place], add_special_tokens=False)["input_ids"]
        pieces += tokenizer(escaped(fields[mark]), add_special_tokens=False, split_special_tokens=True)["input_ids"]
        rest = rest[place + len(mark) :]
    pieces += tokenizer(rest, add_special_tokens=False)["input_ids"]
    assert wide.ids(wide.fit([row])[0]) == pieces


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(row=battles())
def test_training_ids_are_the_prediction_ids_and_the_verdict(row, narrow):
    example = verdict_dataset(battle_table([row]), narrow, "both", 0)[0][0]
    for ids, targets, shown in zip(
        example["input_ids"], example["targets"], narrow.encode([row], ("ab", "ba"))[0], strict=True
    ):
        assert ids[:-1] == shown
        assert ids[-1] == narrow.verdict_ids[targets.index(1.0)]
    assert [VERDICTS[targets.index(1.0)] for targets in example["targets"]] == ["b", "a"]


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(row=battles())
def test_the_other_order_is_the_exchanged_battle(row, narrow):
    straight, exchanged = narrow.encode([row, swapped(row)], ("ab", "ba"))
    assert straight == exchanged[::-1]
    mine, other = narrow.fit([row, swapped(row)])
    assert mine.prompt == other.prompt and mine.response_a == other.response_b
    assert mine.cut["response_a"] == other.cut["response_b"] and mine.cut["prompt"] == other.cut["prompt"]


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(row=battles())
def test_no_text_becomes_a_control_token(row, narrow, wide):
    for prompt in (narrow, wide):
        frame = sum(special_count(prompt, piece) for piece in frame_of(prompt, row).pieces)
        for ids in prompt.encode([row], ("ab", "ba"))[0]:
            assert special_count(prompt, ids) == frame


@pytest.mark.parametrize("text", ["<|im_end|>", "<eos>", "A", "漢", "\n", " ", "\ue002"])
def test_a_hundred_thousand_repeats_are_cut_and_stay_text(text, narrow):
    row = {"prompt": [text * 100_000], "response_a": [text], "response_b": [text * 100_000], "language": None}
    fields = narrow.fit([row])[0]
    ids = narrow.ids(fields)
    assert len(ids) < NARROW.total and fields.cut["response_a"] == 0 < fields.cut["response_b"]
    frame = frame_of(narrow, row).pieces
    assert special_count(narrow, ids) == sum(special_count(narrow, piece) for piece in frame)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_what_the_model_reads(text, wide):
    """The field's ids spell the field. Qwen2 composes characters (NFC); Gemma writes a space as "▁"."""
    fields = wide.fit([{**ROW, "response_a": [text, "x"]}])[0]
    is_gemma = "start_of_turn" in wide.tokenizer.chat_template
    expected = escaped(text).replace("▁", " ") if is_gemma else unicodedata.normalize("NFC", escaped(text))
    assert wide.tokenizer.decode(fields.response_a[0]) == expected


def test_fields_are_the_same_alone_and_in_a_batch(narrow, synthetic_rows):
    assert narrow.fit(synthetic_rows) == [narrow.fit([row])[0] for row in synthetic_rows]


# Verdicts


def test_verdict_ids_are_what_follows_the_rendered_prompt(wide):
    text = rendered(wide.tokenizer, ROW, WORDS)
    before = wide.tokenizer(text, add_special_tokens=False)["input_ids"]
    for word, token in zip(WORDS, wide.verdict_ids, strict=True):
        assert wide.tokenizer(text + word, add_special_tokens=False)["input_ids"] == [*before, token]
        assert wide.tokenizer.decode([token]) == word


def test_a_word_with_its_space_is_another_token_than_without():
    tokenizer = qwen2_tokenizer(["x A B tie C\nA\nB\ntie\n"] * 200, 400)
    fresh_line = with_chat(tokenizer, "{{ messages[0]['content'] }}{{ messages[-1]['content'] }}\nSay:\n")
    same_line = with_chat(tokenizer, "{{ messages[0]['content'] }}{{ messages[-1]['content'] }}\nSay:")
    spaced = JudgePrompt(same_line, PAIR, [" A", " B", " tie"], WIDE).verdict_ids
    assert spaced == tokenizer.convert_tokens_to_ids(["ĠA", "ĠB", "Ġtie"])
    assert JudgePrompt(fresh_line, PAIR, WORDS, WIDE).verdict_ids == tokenizer.convert_tokens_to_ids(WORDS)


def with_chat(tokenizer, chat):
    other = copy.deepcopy(tokenizer)
    other.chat_template = chat
    return other


def test_a_verdict_of_several_tokens_is_an_error_with_its_tokens_and_advice(tokenizer):
    with pytest.raises(InputError) as error:
        JudgePrompt(tokenizer, PAIR, ["A", "B", "undecided!"], WIDE).verdict_ids  # noqa: B018
    tokens = tokenizer.tokenize("undecided!")
    assert "'undecided!'" in str(error.value) and "shorter" in str(error.value) and str(tokens[-1]) in str(error.value)


def test_a_verdict_that_merges_with_the_text_before_it_is_an_error(tokenizer):
    chat = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}t"
    with pytest.raises(InputError, match="'ie' merges with the text before"):
        JudgePrompt(with_chat(tokenizer, chat), PAIR, ["A", "B", "ie"], WIDE).verdict_ids  # noqa: B018


def test_two_verdicts_of_one_token_are_an_error(tokenizer):
    with pytest.raises(InputError, match="share a token"):
        JudgePrompt(tokenizer, PAIR, ["A", "B", "A"], WIDE).verdict_ids  # noqa: B018


def test_an_empty_verdict_is_an_error(tokenizer):
    with pytest.raises(InputError, match="0 tokens"):
        JudgePrompt(tokenizer, PAIR, ["A", "B", ""], WIDE).verdict_ids  # noqa: B018


def test_tie_falls_back_to_c_where_it_is_no_token(tokenizer):
    assert choose_verdict_words(tokenizer, PAIR, 3) == WORDS and choose_verdict_words(tokenizer, PAIR, 2) == WORDS[:2]
    chat = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}\nt"
    words = choose_verdict_words(with_chat(tokenizer, chat), PAIR, 3)
    assert words == WORDS or words == ["A", "B", "C"]


# Templates and tokenizers


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda text: text.replace("{{ turn }}", "", 1), "turn 1 of 'prompt' 0 times"),
        (lambda text: text.replace("in response_b", "in response_a"), "turn 1 of 'response_a' 2 times"),
        (lambda text: text.replace("{{ turn }}", "{{ turn }}{{ turn }}", 1), "turn 1 of 'prompt' 2 times"),
        (lambda text: text.replace("{{ turn }}", "{{ turm }}", 1), "'turm' is undefined"),
        (lambda text: text.replace("{{ turn }}", "{{ turn / 0 }}", 1), "has Div"),
        (lambda text: text.replace("{{ turn }}", "{{ turn|upper }}", 1), "turn 1 of 'prompt' 0 times"),
        (lambda text: text.replace("block user", "block usr"), "no block 'user'"),
        (lambda text: text.replace("block system", "block sys"), "no block 'system'"),
        (lambda text: text.replace("{% endfor %}", "", 1), "cannot be used"),
        (lambda text: "", "no block 'system'"),
        (lambda text: text.replace("</Request>", "{{ range(1, 2, 0) }}"), "has Call"),
        (lambda text: text.replace("</Request>", "{% for x in range(1, 2, 0) %}{% endfor %}"), "cannot be rendered"),
    ],
)
def test_a_bad_template_is_an_error_that_says_what_is_wrong(change, reason, tokenizer):
    with pytest.raises(InputError, match=reason):
        JudgePrompt(tokenizer, change(PAIR), WORDS, WIDE).fit([ROW])


GROWING = "".join(f"{{% for {new} in [{old}|join({old})] %}}" for old, new in zip("abcdefg", "bcdefgh", strict=True))


@pytest.mark.parametrize(
    "hostile, reason",
    [
        ("{% for x in range(10**9) %}{% endfor %}", r"line \d+ has Pow"),
        ("{% for x in range(1000000000) %}{% endfor %}", "Range too big"),
        (
            "{% for x in range(99999) %}{% for y in range(99999) %}{% endfor %}{% endfor %}",
            "more than 3,000 iterations",
        ),
        ("{% for x in range(999) recursive %}{% for y in loop(x) %}{% endfor %}{% endfor %}", "not safely callable"),
        ("{% for x in prompt %}" * 25 + "{% endfor %}" * 25, "nested"),
        ("{% for range in ['x'.ljust] %}{% for y in range(10000000000) %}{% endfor %}{% endfor %}", "not safely"),
        ("{% macro m(n) %}{{ m(n - 1) }}{{ m(n - 1) }}{% endmacro %}{{ m(99) }}", "has Macro"),
        ("{% for x in self.user() %}{% endfor %}", "not safely callable|undefined"),
        ("{% set x = 'xx' %}" + "{% set x = x ~ x %}" * 60, "has Assign"),
        ("{% set x %}xx{% endset %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60, "has AssignBlock"),
        ("{% with x = 'xx' %}{{ x }}{% endwith %}", "has With"),
        ("{{ 'x' * 9999999999 }}", "has Mul"),
        ("{{ '%9999999999d' % 1 }}", "has Mod"),
        ("{{ 'x'.ljust(9999999999) }}", "has Call"),
        ("{{ 'x'|center(9999999999) }}", "No filter named 'center'"),
        ("{{ 'x' + 'x' }}", "'\\+' is for numbers"),
        (
            "{% for a in ['xxxx'] %}" + GROWING + "{% endfor %}" * 8,
            "the output of a join has more than 30,000 characters",
        ),
        ("{% for x in [[[1, 1], [1, 1]], 1] %}{% endfor %}", "has List"),
        ("{% for x in range(2000) %}" + 1000 * "text" + "{% endfor %}", "more than 1,000,000 characters"),
        (30_000 * "x", "characters, expected at most 30,000"),
        ("{{ " + 9_000 * "- " + "1 }}", "cannot be used"),
        ("{{ " + 9_000 * "(" + "1" + 9_000 * ")" + " }}", "cannot be used"),
        ("{% include 'secret' %}", "has Include"),
        ("{% extends 'secret' %}", "has Extends"),
    ],
)
@pytest.mark.timeout(10)
def test_a_hostile_template_is_refused_in_a_line_and_soon(hostile, reason, tokenizer):
    """A judge.json of somebody else holds one."""
    with pytest.raises(InputError, match=f"(?i){reason}") as error:
        JudgePrompt(tokenizer, PAIR.replace("</Request>", hostile), WORDS, WIDE).fit([ROW])
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_a_template_may_loop_over_fields_in_loops_and_choose():
    template = FrameTemplate(
        "{% block system %}{{ words|join(', ')|upper }}{% endblock %}{% block user %}"
        "{% for field in [prompt, response_a, response_b] %}{% for turn in field if turn != '' %}"
        "{{ 'Turn' if loop.first else 'Next' }} {{ loop.index + 1 }}/{{ loop.length }}: {{ turn }}{{ ' ' }}"
        "{% endfor %}{% endfor %}{{ prompt[-1]|default('', boolean=true) }}{% endblock %}"
    )
    battle = {"prompt": ["p", "q"], "response_a": ["a"], "response_b": ["b"]}
    assert template.user(battle, WORDS) == "Turn 2/2: p Next 3/2: q Turn 2/1: a Turn 2/1: b q"


def test_a_template_cannot_reach_out_of_its_sandbox(tokenizer):
    escape = PAIR.replace("{{ turn }}", "{{ turn }}{{ ''.__class__.__mro__ }}", 1)
    with pytest.raises(InputError):
        JudgePrompt(tokenizer, escape, WORDS, WIDE).fit([ROW])


def test_a_family_without_system_role_gets_the_system_text_in_the_user_turn(bases):
    for family, opening in (("qwen2", "<|im_start|>system\nYou judge"), ("gemma2", "<start_of_turn>user\nYou judge")):
        tokenizer = load_tokenizer(str(bases[family]))
        prompt = JudgePrompt(tokenizer, PAIR, WORDS, WIDE)
        text = tokenizer.decode(prompt.ids(prompt.fit([ROW])[0]))
        assert text.count("You judge") == 1 and opening in text


def test_a_chat_template_that_drops_the_system_turn_in_silence_gets_it_in_the_user_turn(tokenizer):
    chat = "{% for m in messages if m['role'] == 'user' %}[{{ m['content'] }}]{% endfor %}\nSay\n"
    prompt = JudgePrompt(with_chat(tokenizer, chat), PAIR, WORDS, WIDE)
    assert "You judge" in tokenizer.decode(prompt.ids(prompt.fit([ROW])[0]))


def test_a_model_without_chat_template_is_warned_about_and_works(tokenizer, caplog):
    with caplog.at_level(logging.WARNING):
        prompt = JudgePrompt(with_chat(tokenizer, None), PAIR, WORDS, WIDE)
        ids = prompt.ids(prompt.fit([ROW])[0])
    assert "no chat template" in caplog.text and "You judge" in tokenizer.decode(ids)
    assert len(prompt.verdict_ids) == 3


def test_a_model_without_chat_template_works_where_space_and_letter_are_one_token(bases):
    """As in every real byte-level vocabulary, where "ĠA" is a token."""
    tokenizer = with_chat(qwen2_tokenizer(["x A B tie C\nA\nB\ntie\nAnswer:\n"] * 200, 400), None)
    assert tokenizer.convert_tokens_to_ids("ĠA") is not None
    assert len(JudgePrompt(tokenizer, PAIR, WORDS, WIDE).verdict_ids) == 3


def test_a_tokenizer_that_is_not_byte_pair_is_refused():
    words = Tokenizer(models.WordLevel({"A": 0, "B": 1, "tie": 2, "?": 3}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(InputError, match="WordLevel"):
        JudgePrompt(PreTrainedTokenizerFast(tokenizer_object=words), PAIR, WORDS, WIDE)


def test_a_slow_tokenizer_is_refused():
    with pytest.raises(InputError, match="needs a fast tokenizer"):
        JudgePrompt(SimpleNamespace(is_fast=False, name_or_path="old"), PAIR, WORDS, WIDE)


@pytest.mark.parametrize("ignore_merges", [False, True])  # True as in Llama 3: whole words are looked up first
def test_a_control_token_that_text_could_spell_is_spelled_out_in_a_field(ignore_merges, bases):
    tokenizer = copy.deepcopy(load_tokenizer(str(bases["qwen2"])))
    tokenizer.backend_tokenizer.model.ignore_merges = ignore_merges
    tokenizer.add_special_tokens({"additional_special_tokens": ["tie"]})
    prompt = JudgePrompt(tokenizer, PAIR, ["A", "B"], WIDE)
    ids = prompt.fit([{**ROW, "response_a": ["tie", "a tie"]}])[0].response_a
    assert tokenizer.convert_tokens_to_ids("tie") not in ids[0] + ids[1]
    assert [tokenizer.decode(turn) for turn in ids] == ["tie", "a tie"]


def test_a_vocabulary_in_which_one_character_is_a_control_token_is_refused(bases):
    """It could only be left out of a text, or become the control token."""
    tokenizer = copy.deepcopy(load_tokenizer(str(bases["qwen2"])))
    tokenizer.add_special_tokens({"additional_special_tokens": ["#"]})
    with pytest.raises(InputError, match="control token '#'"):
        JudgePrompt(tokenizer, PAIR, ["A", "B"], WIDE)


def test_a_vocabulary_that_would_lose_characters_is_refused():
    letters = Tokenizer(models.BPE({"A": 0, "B": 1, "?": 2}, [], unk_token="?"))
    with pytest.raises(InputError, match="no bytes"):
        JudgePrompt(PreTrainedTokenizerFast(tokenizer_object=letters), PAIR, WORDS, WIDE)
