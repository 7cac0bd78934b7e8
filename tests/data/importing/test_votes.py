"""Votes on a pair become their shares."""

import csv
from collections import Counter

import numpy as np
import pytest

from helpers.importing import import_rows, votes
from sft_judge.cli import main
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.battles import read_battles

pytestmark = pytest.mark.unit


def test_votes_of_a_pair_become_their_shares(tmp_path, capsys):
    rows = [
        *votes("a", "a", "b", "tie"),
        *votes("b", "a", prompt="q"),
        *votes(None, None, prompt="r"),
        *votes("tie", prompt="s"),
    ]
    rows += votes("a", "a", a="y", b="x")  # the first pair, exchanged: two votes for its b
    battles, _ = import_rows(tmp_path, rows, "--votes", "soft")
    assert "11 rows in = 5 out + 0 rejected + 6 merged" in capsys.readouterr().out
    shares = [[battle["soft_a"], battle["soft_b"], battle["soft_tie"]] for battle in battles]
    assert np.allclose(shares[0], [2 / 6, 3 / 6, 1 / 6]) and shares[1] == [0.5, 0.5, 0] and shares[4] == [0, 0, 1]
    assert shares[2:4] == [[None] * 3] * 2  # nobody voted, nothing is merged
    assert [battle["verdict"] for battle in battles] == ["b", "tie", None, None, "tie"]
    assert [battle["weight"] for battle in battles] == [6, 2, None, None, 1]


def test_shares_are_those_that_a_plain_count_gives(tmp_path):
    draw = np.random.default_rng(0)
    rows = []
    for number in range(400):
        pair = draw.integers(0, 40)
        sides = ("x", "y") if draw.integers(0, 2) else ("y", "x")
        verdict = VERDICTS[draw.integers(0, 3)]
        rows.append(
            {
                "id": str(number),
                "prompt": [f"p{pair}"],
                "response_a": [sides[0]],
                "response_b": [sides[1]],
                "verdict": verdict,
            }
        )
    counted: dict[str, Counter] = {}
    for row in rows:
        winner = "tie" if row["verdict"] == "tie" else row[f"response_{row['verdict']}"][0]
        counted.setdefault(row["prompt"][0], Counter())[winner] += 1
    battles, _ = import_rows(tmp_path, rows, "--votes", "soft")
    assert len(battles) == len(counted)
    for battle in battles:
        count = counted[battle["prompt"][0]]
        expected = [count[battle["response_a"][0]], count[battle["response_b"][0]], count["tie"]]
        assert np.allclose(
            [battle["soft_a"], battle["soft_b"], battle["soft_tie"]], np.array(expected) / sum(expected)
        )


def test_soft_votes_of_the_real_file_are_its_own_pairs(data_folder, tmp_path):
    source, output = data_folder / "lmsys/train.csv", tmp_path / "soft.parquet"
    assert main(["import", str(source), "--output", str(output), "--votes", "soft"]) == 0
    with open(source, encoding="utf-8", newline="") as file:
        pairs = Counter(
            (row["prompt"], frozenset((row["response_a"], row["response_b"]))) for row in csv.DictReader(file)
        )
    table = read_battles(output)
    assert table.num_rows == len(pairs) and sum(table["weight"].to_pylist()) == sum(pairs.values())
