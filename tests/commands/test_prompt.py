"""`sft-judge prompt`: its status tells what would break a run, and bad input is one line."""

import json
import shutil

import pytest

from helpers.pair_prompts import PAIR, WORDS
from sft_judge.cli import main
from sft_judge.modeling.judge_spec import Budget, JudgeSpec, write_spec
from sft_judge.modeling.loading import load_tokenizer
from sft_judge.prompts.prompt import JudgePrompt

pytestmark = pytest.mark.unit


@pytest.fixture
def judge(bases, tmp_path):
    """A judge's folder as far as its prompt goes."""
    folder = tmp_path / "judge"
    shutil.copytree(bases["qwen2"], folder)
    prompt = JudgePrompt(load_tokenizer(str(folder)), PAIR, WORDS, Budget(200, 200, 512))
    write_spec(folder, JudgeSpec(WORDS, prompt.verdict_ids, PAIR, prompt.budget))
    return folder


def test_check_is_0_when_fine_and_2_when_something_would_break(judge, synthetic_file, capsys):
    words = ["prompt", "check", "--model", str(judge), "--battles", str(synthetic_file)]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines and all(line.startswith(("ok: ", "warning: ")) for line in lines)
    assert main([*words, "--budget", "200,200,600"]) == 2
    seen = capsys.readouterr()
    assert "wrong: the model's context is 512 tokens, the budget is 600" in seen.out
    assert "warning: the budget differs" in seen.out and len(seen.err.splitlines()) == 1


def test_check_lists_a_broken_judge_instead_of_stopping_at_it(judge, capsys):
    spec = json.loads((judge / "judge.json").read_text())
    (judge / "judge.json").write_text(json.dumps({**spec, "verdict_ids": [5, 6, 7]}))
    assert main(["prompt", "check", "--model", str(judge)]) == 2
    assert "wrong: the tokenizer gives verdict ids" in capsys.readouterr().out
    assert main(["prompt", "show", "--model", str(judge)]) == 2


def test_show_takes_a_budget_in_the_place_of_the_judges_own(judge, synthetic_file, capsys):
    assert main(["prompt", "show", "--model", str(judge), "--battles", str(synthetic_file), "--budget", "200"]) == 0
    assert "tokens of 200" in capsys.readouterr().out


@pytest.mark.parametrize("budget", ["5,6", "0", "x", "1,2,3,4", "-1"])
def test_a_bad_budget_is_one_line(budget, judge, capsys):
    assert main(["prompt", "show", "--model", str(judge), f"--budget={budget}"]) == 2
    assert "is not a budget, expected 3072 or 2048,2048,3072" in capsys.readouterr().err


def test_a_template_file_that_is_no_text_is_one_line(bases, tmp_path, capsys):
    (tmp_path / "bad.jinja").write_bytes(b"\xff\xfe\x00")
    assert main(["prompt", "show", "--model", str(bases["qwen2"]), "--template", str(tmp_path / "bad.jinja")]) == 2
    assert "not a prompt template, it is not UTF-8" in capsys.readouterr().err
