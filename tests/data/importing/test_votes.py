"""Votes on a pair become their shares."""

import csv
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.importing import import_rows, votes
from sft_judge.cli import main
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.battles import battle_table, read_battles
from sft_judge.evaluation.slices import slices

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
        rows = list(csv.DictReader(file))
    pairs = Counter(
        (row["prompt"], frozenset((row[f"response_{s}"], row[f"model_{s}"]) for s in "ab")) for row in rows
    )
    table = read_battles(output)
    assert table.num_rows == len(pairs) and sum(table["weight"].to_pylist()) == sum(pairs.values())
    votes_of = Counter(row[f"model_{s}"] for row in rows for s in "ab")
    kept = Counter()
    for battle in table.to_pylist():
        for side in "ab":
            kept[battle[f"model_{side}"]] += int(battle["weight"])
    assert kept == votes_of  # no vote moved to another model


def test_equal_answers_of_different_models_keep_their_own_votes(tmp_path):
    row = {"prompt": ["p"], "response_a": ["same"], "response_b": ["other"], "model_b": "z"}
    rows = [
        {**row, "id": str(n), "model_a": model, "verdict": verdict}
        for n, (model, verdict) in enumerate([("x", "a"), ("x", "a"), ("y", "b"), ("x", "b")])
    ]
    battles, _ = import_rows(tmp_path, rows, "--votes", "soft")
    assert sorted((b["model_a"], b["weight"], round(b["soft_a"], 6)) for b in battles) == [
        ("x", 3, 0.666667),
        ("y", 1, 0),
    ]


def test_votes_on_one_question_get_ids_of_their_own(tmp_path, capsys):
    def chat(answer):
        return [{"role": "user", "content": "q"}, {"role": "assistant", "content": answer}]

    rows = [
        {"question_id": question, "conversation_a": chat("a"), "conversation_b": chat("b"), "winner": winner}
        for question, winner in [(81, "model_a"), (81, "model_b"), (82, "tie"), ("81-2", "tie"), (81, "tie")]
    ]
    battles, _ = import_rows(tmp_path, rows)
    assert [b["id"] for b in battles] == ["81", "81-2", "82", "81-2-2", "81-3"]
    assert "3 votes on a question_id seen before, given ids such as 81-2" in capsys.readouterr().out


def test_files_that_count_alike_are_told_apart_by_the_option_that_the_error_names(tmp_path, capsys):
    for name in ("one", "two"):
        (tmp_path / f"{name}.csv").write_text("id,prompt,response_a,response_b,winner\n0,q,a,b,model_a\n")
    words = ["import", str(tmp_path / "one.csv"), str(tmp_path / "two.csv"), "--output", str(tmp_path / "b.parquet")]
    assert main(words) == 2
    assert "--prefix-ids" in capsys.readouterr().err
    assert main([*words, "--prefix-ids"]) == 0
    assert read_battles(tmp_path / "b.parquet")["id"].to_pylist() == ["one-0", "two-0"]


def test_ids_of_a_column_with_gaps_are_whole_numbers_again(tmp_path, capsys):
    table = {"id": [1.0, 2.0], "prompt": ["p", "q"], "response_a": ["x"] * 2, "response_b": ["y"] * 2}
    pq.write_table(pa.table({**table, "winner": ["model_a", "model_b"]}), tmp_path / "s.parquet")
    words = ["import", str(tmp_path / "s.parquet"), "--output", str(tmp_path / "b.parquet"), "--format", "wsdm"]
    assert main(words) == 0
    assert read_battles(tmp_path / "b.parquet")["id"].to_pylist() == ["1", "2"]
    pq.write_table(pa.table({**table, "id": [2.0**53, 2.0], "winner": ["model_a", "model_b"]}), tmp_path / "s.parquet")
    assert main(words) == 0
    assert "1 rejected" in capsys.readouterr().out


@pytest.mark.parametrize("votes_as, kinds", [("rows", ["both bad", "both good", None, None]), ("soft", [None] * 2)])
def test_ties_of_two_bad_and_two_good_answers_are_kept_apart(votes_as, kinds, tmp_path):
    row = {"prompt": ["p"], "response_a": ["x"], "response_b": ["y"]}
    names = ["tie (bothbad)", "both_good", "tie", "model_a"]
    rows = [{**row, "prompt": [f"p{n // 2}"], "id": str(n), "winner": name} for n, name in enumerate(names)]
    battles, _ = import_rows(tmp_path, rows, "--votes", votes_as)
    assert [b.get("tie_kind") for b in battles] == kinds
    if votes_as == "rows":
        assert [b["verdict"] for b in battles] == ["tie", "tie", "tie", "a"]
        parts = slices(battle_table(battles * 20))["kind of tie"]
        assert sorted(parts) == ["another tie", "both bad", "both good", "no tie"]


def test_rows_of_the_same_texts_are_reported(tmp_path, capsys):
    row = {"prompt": ["p"], "response_a": ["x"], "response_b": ["y"], "verdict": "a"}
    exchanged = {**row, "response_a": ["y"], "response_b": ["x"]}
    rows = [{**(row if n < 4 else exchanged), "id": str(n), "prompt": [f"p{n % 3}"]} for n in range(7)]
    import_rows(tmp_path, rows)
    assert "4 rows with the same texts as another row, kept" in capsys.readouterr().out
