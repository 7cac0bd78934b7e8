"""`prepare`: what goes is counted and in the rejects file, what stays is untouched, and an order is a permutation."""

import json

import numpy as np
import pyarrow as pa
import pytest

from sft_judge.cli import main
from sft_judge.data.battles import battle_table, read_battles, write_battles
from sft_judge.data.synthetic.generator import generate_split
from sft_judge.data.synthetic.preference_model import SyntheticSettings

pytestmark = pytest.mark.unit


def battle(identity, prompt="p", a="x", b="y", verdict="a", **more):
    return {"id": identity, "prompt": [prompt], "response_a": [a], "response_b": [b], "verdict": verdict, **more}


def prepare(tmp_path, rows, *options, folds="0"):
    """Prepared battles and rejects of rows (or of several files of rows)."""
    files = rows if isinstance(rows[0], list) else [rows]
    paths = []
    for place, part in enumerate(files):
        paths.append(str(tmp_path / f"in{place}.parquet"))
        write_battles(paths[-1], battle_table(part))
    output = tmp_path / "out" / "prepared.parquet"
    assert main(["prepare", *paths, "--output", str(output), "--folds", folds, *options]) == 0
    rejects = output.with_name("prepared.rejects.jsonl")
    lines = rejects.read_text().splitlines() if rejects.exists() else []
    facts = json.loads(output.with_name("prepared.parquet.manifest.json").read_text())
    kept = read_battles(output).to_pylist()
    assert facts["rows_in"] == len(kept) + len(lines)
    return kept, [json.loads(line) for line in lines], facts


def test_exact_duplicates_leave_the_labelled_one_and_name_it(tmp_path, capsys):
    rows = [
        battle("1", verdict=None),
        battle("2", verdict="b"),
        battle("3", a="y", b="x", verdict="b"),  # the first pair, exchanged
        battle("4", prompt="other"),
        battle("5", verdict="tie"),
    ]
    kept, rejects, facts = prepare(tmp_path, rows, "--dedup", "exact")
    assert [row["id"] for row in kept] == ["2", "4"]
    assert [(reject["id"], reject["row"]) for reject in rejects] == [("1", 1), ("3", 3), ("5", 5)]
    assert all(reject["reason"] == "duplicate of another battle: 2" for reject in rejects)
    # of the pair's labelled ones, "3" prefers x and "5" neither, where "2" prefers y
    assert rejects[0]["data"]["response_a"] == ["x"] and facts["rows_merged"] == 3 and facts["disagreeing"] == 2
    assert "5 rows in = 2 out + 0 rejected + 3 merged" in capsys.readouterr().out


def test_near_duplicates_go_within_and_across_files_and_others_stay(tmp_path):
    draw = np.random.default_rng(0)
    texts = [[" ".join(f"w{word}" for word in draw.integers(0, 9999, 80)) for _ in range(3)] for _ in range(20)]
    first = [battle(f"a{i}", *text) for i, text in enumerate(texts)]
    second = [battle(f"b{i}", p + " indeed", b, a) for i, (p, a, b) in enumerate(texts)]  # nearly, and exchanged
    third = [
        battle(f"c{i}", p, a, " ".join(f"v{w}" for w in range(80 * i, 80 * i + 80)))
        for i, (p, a, _) in enumerate(texts)
    ]
    kept, rejects, _ = prepare(tmp_path, [first, second + third], "--dedup", "near")
    assert [row["id"] for row in kept] == [row["id"] for row in first + third]
    assert [reject["reason"] for reject in rejects] == [f"near-duplicate of another battle: a{i}" for i in range(20)]
    kept, _, _ = prepare(tmp_path, [first, second + third], "--dedup", "exact")
    assert len(kept) == 60


def test_what_stays_does_not_depend_on_the_order_of_rows(tmp_path):
    draw = np.random.default_rng(1)
    rows = [battle(str(i), f"p{draw.integers(0, 30)}", f"x{draw.integers(0, 2)}") for i in range(200)]
    kept = {}
    for order in (range(200), draw.permutation(200)):
        battles, _, _ = prepare(tmp_path, [rows[row] for row in order], "--dedup", "exact", folds="3")
        kept[str(order)] = {row["id"]: row["fold"] for row in battles}
    one, two = kept.values()
    assert one == two and len(one) < 70


def test_filters_are_counted_by_rule_and_off_by_default(tmp_path):
    rows = [
        battle("empty", a=" "),
        battle("boilerplate", b="As an AI language model, I cannot."),
        battle("short", a=""),
        battle("long", a="x" * 500),
        battle("french", language="French"),
        battle("good", language="English"),
        battle("unstated"),
    ]
    assert len(prepare(tmp_path, rows)[0]) == 7
    rules = ["--drop-empty", "--drop-boilerplate", "--least-characters", "3", "--most-characters", "400"]
    kept, rejects, facts = prepare(tmp_path, rows, *rules, "--languages", "english")
    assert [row["id"] for row in kept] == ["good"]
    assert facts["rejected_by"] == {
        "an empty prompt or response": 2,
        "another language": 2,
        "boilerplate in a response": 1,
        "more than 400 characters": 1,
    }
    assert [reject["id"] for reject in rejects] == ["empty", "boilerplate", "short", "long", "french", "unstated"]


def test_dropped_ties_are_in_the_rejects_file(tmp_path):
    rows = [battle("1"), battle("2", prompt="q", verdict="tie")]
    kept, rejects, facts = prepare(tmp_path, rows, "--ties", "drop")
    assert [row["id"] for row in kept] == ["1"] and facts["ties"] == {"drop": 1}
    assert [(reject["id"], reject["reason"]) for reject in rejects] == [("2", "a tie")]


def test_a_balanced_order_moves_rows_and_changes_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr("sft_judge.data.preparing.external_sort.BUCKET", 70)
    rows = generate_split(SyntheticSettings(rows=500), "train").rows
    plain, _, _ = prepare(tmp_path, rows, folds="4")
    ordered, _, _ = prepare(tmp_path, rows, "--order", "balanced", folds="4")
    again, _, _ = prepare(tmp_path, rows, "--order", "balanced", "--seed", "1", folds="0")
    assert [row["id"] for row in ordered] != [row["id"] for row in plain]
    assert [row["id"] for row in ordered] != [row["id"] for row in again]
    by_id = {row["id"]: row for row in plain}
    assert len(ordered) == 500 and all(by_id[row["id"]] == row for row in ordered)
    is_tie = np.array([row["verdict"] == "tie" for row in ordered])
    drift = np.cumsum(is_tie) - np.arange(1, 501) * is_tie.mean()
    assert np.abs(drift).max() < 1


def test_overlap_with_test_rows_is_told_and_cuts_nothing(tmp_path, capsys):
    words = " ".join(f"word{i}" for i in range(40))
    rows = [battle("1", words), battle("2", "What is it?"), battle("3", "Something else entirely, please")]
    test = [battle("t1", words + " more"), battle("t2", "what  IS it?"), battle("t3", "New question here")]
    write_battles(tmp_path / "test.parquet", battle_table([{**row, "verdict": None} for row in test]))
    kept, _, facts = prepare(tmp_path, rows, "--against", str(tmp_path / "test.parquet"))
    assert len(kept) == 3
    assert facts["against"] == {"rows": 3, "same_prompt": 1, "near_prompt": 1, "first_ids": ["t1", "t2"]}
    assert "of 3 test rows 1 have a prompt of the training rows, 1 a near-duplicate of one" in capsys.readouterr().out


def test_leaving_nothing_is_one_clear_line(tmp_path, capsys):
    write_battles(tmp_path / "b.parquet", battle_table([battle("1", verdict="tie")]))
    output = tmp_path / "o.parquet"
    assert main(["prepare", str(tmp_path / "b.parquet"), "--output", str(output), "--ties", "drop"]) == 2
    assert "No battle is left: 1 a tie" in capsys.readouterr().err and not output.exists()


def test_languages_to_choose_from_must_be_there(tmp_path, capsys):
    write_battles(tmp_path / "b.parquet", battle_table([battle("1")]))
    words = ["--output", str(tmp_path / "o.parquet"), "--languages", "English"]
    assert main(["prepare", str(tmp_path / "b.parquet"), *words]) == 2
    assert "Add --language" in capsys.readouterr().err


def test_limit_counts_over_all_files(tmp_path):
    first, second = ([battle(f"{side}{i}", f"{side}{i}") for i in range(3)] for side in "ab")
    kept, _, _ = prepare(tmp_path, [first, second], "--limit", "4")
    assert [row["id"] for row in kept] == ["a0", "a1", "a2", "b0"]


def synthetic_table(rows: int, **knobs) -> pa.Table:
    return battle_table(generate_split(SyntheticSettings(rows=rows, **knobs), "train").rows)


def test_prepare_counts_every_row_and_joins_files(tmp_path, capsys):
    table = synthetic_table(200)
    paths = [tmp_path / "one.parquet", tmp_path / "two.jsonl"]
    for path, part in zip(paths, (table.slice(0, 120), table.slice(120)), strict=True):
        write_battles(path, part)
    output = tmp_path / "out.parquet"
    assert main(["prepare", *map(str, paths), "--output", str(output), "--ties", "drop", "--folds", "4"]) == 0
    kept = [row for row in table.to_pylist() if row["verdict"] != "tie"]
    assert f"200 rows in = {len(kept)} out + {200 - len(kept)} rejected + 0 merged" in capsys.readouterr().out
    read = read_battles(output)
    assert read["id"].to_pylist() == [row["id"] for row in kept]
    assert set(read["fold"].to_pylist()) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    "options, said",
    [
        (["--folds", "1"], "expected 2 or more"),
        (["--folds", "50"], "too few for 50 folds"),
        (["--ties", "halve"], "split"),
        (["--limit", "0"], "0 is not a positive number"),
    ],
)
def test_bad_settings_are_one_clear_line(options, said, tmp_path, capsys):
    write_battles(tmp_path / "b.parquet", synthetic_table(20))
    assert main(["prepare", str(tmp_path / "b.parquet"), "--output", str(tmp_path / "o.parquet"), *options]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "o.parquet").exists()


def test_bad_battles_are_one_clear_line(tmp_path, capsys):
    good = tmp_path / "b.parquet"
    write_battles(good, synthetic_table(20))
    (tmp_path / "twin.parquet").write_bytes(good.read_bytes())
    (tmp_path / "empty.parquet").write_bytes(b"")
    (tmp_path / "garbage.parquet").write_bytes(bytes(range(256)))
    for sources, said in (
        (["none.parquet"], "no such battles file"),
        (["empty.parquet"], "empty.parquet"),
        (["garbage.parquet"], "garbage.parquet"),
        (["b.parquet", "twin.parquet"], "is in"),
    ):
        paths = [str(tmp_path / source) for source in sources]
        assert main(["prepare", *paths, "--output", str(tmp_path / "o.parquet")]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1 and not (tmp_path / "o.parquet").exists()
