"""`sft-judge verify` of two forms of a judge on labelled battles."""

import re

import pytest

from helpers.judges import make_judge
from sft_judge.cli import main
from sft_judge.data.battles import read_battles

pytestmark = pytest.mark.unit


def test_a_judge_of_two_verdicts_is_compared_on_the_battles_that_are_no_ties(bases, synthetic_file, tmp_path, capsys):
    one, other = (make_judge(tmp_path / str(seed), bases["qwen2"], seed, ("A", "B")) for seed in (0, 1))
    known = ["verify", str(one), "--battles", str(synthetic_file), "--limit", "40", "--engines", "transformers"]
    assert main([*known[:2], str(one), *known[2:]]) == 0
    said = capsys.readouterr().out
    decided = sum(verdict != "tie" for verdict in read_battles(synthetic_file, 40)["verdict"].to_pylist())
    assert f"log loss +0.0000 [+0.0000, +0.0000] on {decided} battles" in said and 0 < decided < 40
    assert main([*known[:2], str(other), *known[2:]]) in (0, 3)
    figures = capsys.readouterr().out
    assert float(re.search(r"max \|Δp\| (\S+),", figures)[1]) > 1e-3 and "0 of 80 verdicts flip" not in figures
