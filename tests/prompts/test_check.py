"""`prompt check`: it says in words what would break a run."""

import copy

import pytest

from helpers.pair_prompts import PAIR, ROW, WORDS, prompt_of
from sft_judge.modeling.judge_spec import Budget, JudgeSpec
from sft_judge.modeling.tiny_tokenizers import tokenizer_of
from sft_judge.prompts.check import check_battles, check_budget, check_tokenizer, check_verdicts, control_tokens
from sft_judge.prompts.prompt import JudgePrompt

pytestmark = pytest.mark.unit


def levels(findings) -> list[str]:
    return [finding.level for finding in findings]


def test_good_verdict_words_are_said_with_their_ids_and_the_spaced_ones():
    findings = check_verdicts(prompt_of(), None)
    assert levels(findings) == ["ok", "ok"] and str(prompt_of().verdict_ids[0]) in findings[0].text
    assert "' A' = " in findings[1].text


@pytest.mark.parametrize("words, reason", [(["A", "A"], "share a token"), (["A", "undecided"], "tokens")])
def test_verdict_words_of_several_tokens_or_of_one_are_wrong(words, reason):
    (finding,) = check_verdicts(prompt_of(words=words), None)
    assert finding.level == "wrong" and reason in finding.text


def test_other_verdict_ids_than_those_of_judge_json_are_wrong():
    spec = JudgeSpec(WORDS, [1, 2, 3], PAIR, Budget())
    assert "wrong" in levels(check_verdicts(prompt_of(), spec))


def test_a_prompt_that_ends_within_a_line_is_warned_about():
    tokenizer = copy.deepcopy(tokenizer_of("phi4"))
    tokenizer.chat_template = "{{ messages[0]['content'] }}{{ messages[-1]['content'] }}\nSay:"
    findings = check_verdicts(JudgePrompt(tokenizer, PAIR, WORDS, Budget()), None)
    assert levels(findings) == ["ok", "warning"] and "would more likely write a space" in findings[1].text


@pytest.mark.parametrize(
    "served, recipe, level",
    [
        ((10, 20, 30), (10, 20, 30), "ok"),
        ((10, 20, 31), (10, 20, 30), "warning"),
        ((10, 20, 30), (11, 20, 30), "warning"),
        ((10, 20, 30), None, "ok"),
    ],
)
def test_a_budget_that_differs_between_training_and_serving_is_warned_about(served, recipe, level):
    names = ("prompt_budget", "response_budget", "total_budget")
    training = {"recipe": dict(zip(names, recipe, strict=True))} if recipe else {}
    spec = JudgeSpec(WORDS, [1, 2, 3], PAIR, Budget(10, 20, 30), training=training)
    (finding,) = check_budget(prompt_of(budget=served), spec)
    assert finding.level == level and "/".join(map(str, served)) in finding.text


def test_a_thinking_prefix_and_a_missing_pad_token_are_found():
    tokenizer = copy.deepcopy(tokenizer_of("qwen3"))
    assert check_tokenizer(JudgePrompt(tokenizer, PAIR, WORDS, Budget()))[0].level == "ok"
    tokenizer.chat_template = tokenizer.chat_template.replace("<think>\\n\\n</think>", "<think>\\n")
    tokenizer.pad_token = tokenizer.eos_token = None
    findings = check_tokenizer(JudgePrompt(tokenizer, PAIR, WORDS, Budget()))
    assert levels(findings) == ["wrong", "warning"]
    assert "no pad token" in findings[0].text and "opens <think>" in findings[1].text


def test_battles_are_counted_by_field_against_the_budget():
    prompt, row = prompt_of(budget=(100, 2000, 4000)), {**ROW, "prompt": ["short"], "response_a": ["yes"]}
    rows = [ROW, row, row]
    context, lengths, control, seams = check_battles(prompt, rows, 4000)
    assert "3 battles" in lengths.text and "prompt 1 (33.3%), response_a 0 (0.0%)" in lengths.text
    longest = max(len(ids) for (ids,) in prompt.encode(rows, ("ab",))) + 1
    assert f"the longest has {longest} tokens of 4000" in lengths.text
    assert control.text.endswith(": 0") and "holds the budget" in context.text
    whole = [
        prompt.tokenizer(prompt.tokenizer.decode(ids))["input_ids"] != ids for (ids,) in prompt.encode(rows, ("ab",))
    ]
    assert seams.text.startswith(f"{sum(whole)} of 3")


@pytest.mark.parametrize("positions, said", [(3999, "but no battle"), (300, "and the longest battle has")])
def test_a_context_shorter_than_the_budget_is_wrong(positions, said):
    finding = check_battles(prompt_of(budget=(2000, 2000, 4000)), [ROW], positions)[0]
    assert finding.level == "wrong" and said in finding.text and str(positions) in finding.text


def test_a_control_token_in_a_field_would_be_counted():
    prompt = prompt_of()
    fields = prompt.fit([ROW])[0]
    assert control_tokens(prompt, fields) == 0
    fields.prompt[0].append(prompt.tokenizer.eos_token_id)
    assert control_tokens(prompt, fields) == 1
