"""`sft-judge judge`: one battle on the terminal."""

import json

import numpy as np
import pytest

from sft_judge.cli import main

pytestmark = pytest.mark.unit  # random judges: nothing is trained


@pytest.fixture
def judge(each_judge):
    return each_judge


def test_one_battle_on_the_terminal_sums_to_one(judge, capsys):
    words = ["judge", "--model", str(judge), "--prompt", "Name a prime.", "--response-a", "7", "--response-b", "Nine"]
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["a"] + answer["b"] + answer["tie"] == pytest.approx(1)
    assert main(words) == 0
    shares = [float(line.split()[1].rstrip("%")) for line in capsys.readouterr().out.splitlines()[:3]]
    np.testing.assert_allclose(shares, [100 * answer[name] for name in ("a", "b", "tie")], atol=0.06)
