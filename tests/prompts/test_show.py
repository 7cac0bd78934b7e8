"""`prompt show`: the very text, its fields, control tokens and cuts marked."""

import io
import re

import pytest
from rich.console import Console

from helpers.pair_prompts import LONG, ROW, prompt_of
from sft_judge.commands.console import print_prompt
from sft_judge.prompts.show import segments

pytestmark = pytest.mark.unit


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
    monkeypatch.setattr("rich.console.Console", lambda **options: console)
    print_prompt(prompt, ROW, "ab")
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
        assert verdicts in plain and "tokens of 400, including the verdict" in plain
        for name in ("prompt", "response_a", "response_b"):
            whole = [len(prompt.plain.encode(turn).ids) for turn in prompt.shown(ROW)[name]]
            kept = [len(turn) for turn in getattr(fields, name)]
            turns = ", ".join(f"{after} of {before}" for after, before in zip(kept, whole, strict=True))
            assert f"{name}: {sum(kept)} of {sum(whole)} tokens (turns: {turns})" in plain


def _verdicts(prompt):
    return zip(("a", "b", "tie"), prompt.words, prompt.verdict_ids, strict=True)
