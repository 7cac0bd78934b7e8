"""`prompt show` prints the very text with its marks; `prompt check` says in words what would break a run."""

import copy
import io
import json
import re
import shutil

import pytest
from rich.console import Console

from sft_judge.cli import main
from sft_judge.modeling.judge_spec import Budget, JudgeSpec, write_spec
from sft_judge.modeling.loading import load_tokenizer
from sft_judge.modeling.tiny_tokenizers import tokenizer_of
from sft_judge.prompts import show as prompt_view
from sft_judge.prompts.check import check_battles, check_budget, check_tokenizer, check_verdicts, control_tokens
from sft_judge.prompts.prompt import JudgePrompt
from sft_judge.prompts.show import segments, show_battle
from sft_judge.prompts.templates import read_template

pytestmark = pytest.mark.unit
PAIR = read_template("pair")
WORDS = ["A", "B", "tie"]
LONG = " ".join(f"word{place}" for place in range(200))
ROW = {
    "id": "7",
    "prompt": ["First?", LONG],
    "response_a": ["Yes.", LONG],
    "response_b": ["</Request>", "\x1b[2Jx\u202e"],
}


def prompt_of(family="qwen2.5", budget=(10_000, 10_000, 30_000), template=PAIR, words=WORDS) -> JudgePrompt:
    return JudgePrompt(tokenizer_of(family), template, list(words), Budget(*budget))


def levels(findings) -> list[str]:
    return [finding.level for finding in findings]


# show


@pytest.mark.parametrize("family", ["qwen2.5", "gemma", "phi3"])
@pytest.mark.parametrize("order", ["ab", "ba"])
def test_the_segments_joined_are_the_rendered_text(family, order):
    prompt = prompt_of(family)
    row = {**ROW, "response_b": ["</Request>", "x"]}
    fields = prompt.fit([row])[0]
    joined = "".join(text for _, text in segments(prompt, row, fields, order))
    frame, _ = prompt.placed(fields, order)
    shown = prompt.shown(row)
    if order == "ba":
        shown |= {"response_a": shown["response_b"], "response_b": shown["response_a"]}
    expected = frame.texts[0]
    for (name, turn), piece in zip(frame.slots, frame.texts[1:], strict=True):
        expected += shown[name][turn] + piece
    assert joined == expected


def test_segments_tell_fields_control_tokens_and_cuts_apart():
    prompt = prompt_of(budget=(100, 100, 400))
    fields = prompt.fit([ROW])[0]
    kinds = {}
    for kind, text in segments(prompt, ROW, fields, "ab"):
        kinds.setdefault(kind, []).append(text)
    assert set(kinds["control"]) == {"<|im_start|>", "<|im_end|>"} and kinds["cut"] == [" [...] "] * 2
    head, tail = kinds["prompt"][1:]
    assert LONG.startswith(head) and LONG.endswith(tail) and kinds["prompt"][0] == "First?"
    assert kinds["response_b"] == ["<\\/Request>", "⟨U+001B⟩[2Jx⟨U+202E⟩"]


def shown(prompt, terminal: bool, monkeypatch) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, soft_wrap=True, color_system="standard" if terminal else None)
    monkeypatch.setattr(prompt_view, "Console", lambda **options: console)
    show_battle(prompt, [ROW], "7", "ab")
    return out.getvalue()


def test_a_pipe_gets_brackets_and_a_terminal_colours(monkeypatch):
    prompt = prompt_of(budget=(100, 100, 400))
    piped, coloured = shown(prompt, False, monkeypatch), shown(prompt, True, monkeypatch)
    assert "⟪<|im_start|>⟫" in piped and "⟦First?⟧" in piped and "✂ [...] ✂" in piped and "\x1b" not in piped
    assert "\x1b[36mFirst?" in coloured and "\x1b[7m<|im_start|>" in coloured and "⟦" not in coloured
    assert "\x1b[2J" not in coloured  # the battle's own escape sequence
    verdicts = ", ".join(f"{name} = {word!r} ({token})" for name, word, token in _verdicts(prompt))
    fields = prompt.fit([ROW])[0]
    for text in (piped, coloured):
        plain = re.sub(r"\x1b\[[\d;]*m", "", text)
        assert verdicts in plain and "tokens of 400, the verdict's included" in plain
        for name in ("prompt", "response_a", "response_b"):
            whole = [len(prompt.plain.encode(turn).ids) for turn in prompt.shown(ROW)[name]]
            kept = [len(turn) for turn in getattr(fields, name)]
            turns = ", ".join(f"{after} of {before}" for after, before in zip(kept, whole, strict=True))
            assert f"{name}: {sum(kept)} of {sum(whole)} tokens (turns: {turns})" in plain


def _verdicts(prompt):
    return zip(("a", "b", "tie"), prompt.words, prompt.verdict_ids, strict=True)


# check


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
    assert levels(findings) == ["ok", "warning"] and "would rather write a space" in findings[1].text


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
    assert f"the longest {longest} tokens of 4000" in lengths.text
    assert control.text.endswith(": 0") and "holds the budget" in context.text
    whole = [
        prompt.tokenizer(prompt.tokenizer.decode(ids))["input_ids"] != ids for (ids,) in prompt.encode(rows, ("ab",))
    ]
    assert seams.text.startswith(f"{sum(whole)} of 3")


@pytest.mark.parametrize("positions, said", [(3999, "though no battle"), (300, "and the longest battle has")])
def test_a_context_shorter_than_the_budget_is_wrong(positions, said):
    finding = check_battles(prompt_of(budget=(2000, 2000, 4000)), [ROW], positions)[0]
    assert finding.level == "wrong" and said in finding.text and str(positions) in finding.text


def test_a_control_token_in_a_field_would_be_counted():
    prompt = prompt_of()
    fields = prompt.fit([ROW])[0]
    assert control_tokens(prompt, fields) == 0
    fields.prompt[0].append(prompt.tokenizer.eos_token_id)
    assert control_tokens(prompt, fields) == 1


# the command


@pytest.fixture
def judge(bases, tmp_path):
    """A judge's folder as far as its prompt goes."""
    folder = tmp_path / "judge"
    shutil.copytree(bases["qwen2"], folder)
    prompt = JudgePrompt(load_tokenizer(str(folder)), PAIR, WORDS, Budget(200, 200, 512))
    write_spec(folder, JudgeSpec(WORDS, prompt.verdict_ids, PAIR, prompt.budget))
    return folder


def test_check_is_0_when_fine_and_2_when_something_would_break(judge, planted_file, capsys):
    words = ["prompt", "check", "--model", str(judge), "--battles", str(planted_file)]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines and all(line.startswith(("ok: ", "warning: ")) for line in lines)
    assert main([*words, "--budget", "200,200,600"]) == 2
    seen = capsys.readouterr()
    assert "wrong: the model's context is 512 tokens, the budget 600" in seen.out
    assert "warning: the budget differs" in seen.out and len(seen.err.splitlines()) == 1


def test_check_lists_a_broken_judge_instead_of_stopping_at_it(judge, capsys):
    spec = json.loads((judge / "judge.json").read_text())
    (judge / "judge.json").write_text(json.dumps({**spec, "verdict_ids": [5, 6, 7]}))
    assert main(["prompt", "check", "--model", str(judge)]) == 2
    assert "wrong: the tokenizer gives verdict ids" in capsys.readouterr().out
    assert main(["prompt", "show", "--model", str(judge)]) == 2


def test_show_takes_a_budget_in_the_place_of_the_judges_own(judge, planted_file, capsys):
    assert main(["prompt", "show", "--model", str(judge), "--battles", str(planted_file), "--budget", "200"]) == 0
    assert "tokens of 200" in capsys.readouterr().out


@pytest.mark.parametrize("budget", ["5,6", "0", "x", "1,2,3,4", "-1"])
def test_a_bad_budget_is_one_line(budget, judge, capsys):
    assert main(["prompt", "show", "--model", str(judge), f"--budget={budget}"]) == 2
    assert "is not a budget, expected 3072 or 2048,2048,3072" in capsys.readouterr().err


def test_a_template_file_that_is_no_text_is_one_line(bases, tmp_path, capsys):
    (tmp_path / "bad.jinja").write_bytes(b"\xff\xfe\x00")
    assert main(["prompt", "show", "--model", str(bases["qwen2"]), "--template", str(tmp_path / "bad.jinja")]) == 2
    assert "not a prompt template, it is not UTF-8" in capsys.readouterr().err
