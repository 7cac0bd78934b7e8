"""Source files to battles: every row is out or rejected, odd text is kept, bad files are one clear line."""

import csv
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sft_judge.cli import main
from sft_judge.data.battles import read_battles
from sft_judge.data.importing.importer import Imported, import_sources
from sft_judge.data.importing.labels import Reading, Sides

pytestmark = pytest.mark.unit
LMSYS = "id,model_a,model_b,prompt,response_a,response_b,winner_model_a,winner_model_b,winner_tie".split(",")
GOOD = ["7", "m1", "m2", '["hi", "more"]', '["a1", "a2"]', '["b1", "b2"]', "1", "0", "0"]


def lmsys_row(**changes) -> list[str]:
    return [changes.get(name, cell) for name, cell in zip(LMSYS, GOOD, strict=True)]


def write_csv(path, rows, header=LMSYS, lineterminator="\n", encoding="utf-8"):
    with open(path, "w", encoding=encoding, newline="") as file:
        csv.writer(file, lineterminator=lineterminator).writerows([header, *rows])
    return path


def imported(*paths, votes=None, **options) -> tuple[pa.Table, list[dict], Imported]:
    """The battles, the rejects and the counts of some sources."""
    with tempfile.TemporaryDirectory() as folder:
        output, rejects = Path(folder, "battles.parquet"), Path(folder, "rejects.jsonl")
        reading = Reading(Sides(options.pop("seed", 0)), options.pop("tie_margin", 0.0))
        result = import_sources(list(paths), output, rejects, reading, **options)
        lines = rejects.read_text().splitlines() if rejects.exists() else []
        return read_battles(output), [json.loads(line) for line in lines], result


def read_one(path, **options) -> dict:
    table, _, _ = imported(path, **options)
    assert table.num_rows == 1
    return table.to_pylist()[0]


def run_import(tmp_path, *sources, options=()):
    output = tmp_path / "out" / "battles.parquet"
    status = main(["import", *map(str, sources), "--output", str(output), *options])
    return status, output


# What each format says


@pytest.mark.parametrize("winner, verdict", [((1, 0, 0), "a"), ((0, 1, 0), "b"), ((0, 0, 1), "tie")])
def test_lmsys_one_hot_winners_are_verdicts(winner, verdict, tmp_path):
    names = ("winner_model_a", "winner_model_b", "winner_tie")
    for flags in (map(str, winner), (f"{flag}.0" for flag in winner)):
        row = lmsys_row(**dict(zip(names, flags, strict=True)))
        battle = read_one(write_csv(tmp_path / "votes.csv", [row]))
        assert battle["verdict"] == verdict
        assert battle["prompt"] == ["hi", "more"] and battle["response_b"] == ["b1", "b2"]
        assert battle["source"] == "votes" and battle["model_a"] == "m1"


def test_unlabelled_lmsys_and_wsdm_rows_are_told_apart_by_their_text(tmp_path):
    header = ["id", "prompt", "response_a", "response_b"]
    lists = read_one(write_csv(tmp_path / "t.csv", [["1", '["p"]', '["a"]', '["b"]']], header))
    plain = read_one(write_csv(tmp_path / "u.csv", [["1", "p", "[not a list", "b"]], header))
    assert lists["prompt"] == ["p"] and plain["response_a"] == ["[not a list"]
    assert lists["verdict"] is None and plain["verdict"] is None


@pytest.mark.parametrize("winner, verdict", [("model_a", "a"), ("model_b", "b")])
def test_wsdm_parquet_and_csv_read_the_same(winner, verdict, tmp_path):
    row = {"id": "x", "prompt": "p", "response_a": "", "response_b": "b", "winner": winner, "language": "Thai"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "w.parquet")
    write_csv(tmp_path / "w.csv", [list(row.values())], list(row))
    one, two = read_one(tmp_path / "w.parquet"), read_one(tmp_path / "w.csv")
    assert one == two and one["verdict"] == verdict and one["response_a"] == [""] and one["language"] == "Thai"


def test_battles_go_round_through_parquet_and_jsonl(tmp_path):
    source = write_csv(tmp_path / "v.csv", [lmsys_row(), lmsys_row(id="8", winner_model_a="0", winner_tie="1")])
    paths = [tmp_path / "b.parquet", tmp_path / "b.jsonl", tmp_path / "c.parquet"]
    for before, after in zip([source, *paths[:2]], paths, strict=True):
        assert main(["import", str(before), "--output", str(after)]) == 0
    assert pq.read_table(paths[0]).to_pylist() == pq.read_table(paths[2]).to_pylist()


def test_jsonl_with_a_winner_and_meta_is_read(tmp_path):
    row = {"id": 5, "prompt": ["p"], "response_a": ["a"], "response_b": [None], "winner": "tie"}
    row["meta"] = {"model_a": "m", "lang": "ja", "original": {}}
    (tmp_path / "x.jsonl").write_text(json.dumps(row) + "\n\n")
    battle = read_one(tmp_path / "x.jsonl")
    assert battle["id"] == "5" and battle["verdict"] == "tie" and battle["language"] == "ja"
    assert battle["response_b"] == [""] and battle["model_a"] == "m"


# Corners that real files have


def test_a_null_turn_is_kept_as_an_empty_one_and_counted(tmp_path):
    table, _, result = imported(write_csv(tmp_path / "v.csv", [lmsys_row(response_a='[null, "a2"]')]))
    assert table["response_a"].to_pylist() == [["", "a2"]]
    assert result.mended["null turns kept as empty"] == 1


@pytest.mark.parametrize(
    "cell, text",
    [
        (r'"\ud83d alone"', "\ufffd alone"),
        (r'"\ud83d\ude00 pair"', "😀 pair"),
        (r'"nul \u0000 stays"', "nul \0 stays"),
        ('"raw\ttab and\nline"', "raw\ttab and\nline"),
        ('"مرحبا 你好"', "مرحبا 你好"),
        ('""', ""),
        ("42", "42"),
        ("1.10", "1.10"),
        ('"' + "x" * 400_000 + '"', "x" * 400_000),
    ],
)
@pytest.mark.parametrize("form", ["{}", "[{}]"])
def test_odd_text_is_kept(cell, text, form, tmp_path):
    row = lmsys_row(prompt='["p"]', response_a=form.format(cell), response_b='"a plain string"')
    battle = read_one(write_csv(tmp_path / "v.csv", [row]))
    assert battle["response_a"] == [text] and battle["response_b"] == ["a plain string"]


@pytest.mark.parametrize("encoding, end", [("utf-8", "\r\n"), ("utf-8-sig", "\n"), ("utf-8-sig", "\r\n")])
def test_bom_and_crlf_change_nothing(encoding, end, tmp_path):
    rows = [lmsys_row(prompt='["привет\r\n", "x"]'), lmsys_row(id="8")]
    plain = imported(write_csv(tmp_path / "v.csv", rows))[0]
    other = imported(write_csv(tmp_path / "v.csv", rows, LMSYS, end, encoding))[0]
    assert plain == other


def test_jsonl_with_bom_and_unicode_line_separators_keeps_its_rows(tmp_path):
    row = {"id": "1", "prompt": ["a\u2028b\x85c"], "response_a": ["x"], "response_b": ["y"], "verdict": None}
    (tmp_path / "x.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\r\n", encoding="utf-8-sig")
    assert read_one(tmp_path / "x.jsonl")["prompt"] == ["a\u2028b\x85c"]


# Bad rows in good files


BAD_ROWS = {
    "two winners": (lmsys_row(id="9", winner_model_b="1"), "winner", "2 winners"),
    "no winner": (lmsys_row(id="9", winner_model_a="0"), "winner", "0 winners"),
    "half a winner": (lmsys_row(id="9", winner_model_a="0.5"), "winner_model_a", "0.5"),
    "broken JSON": (lmsys_row(id="9", prompt='["hi", '), "prompt", "broken JSON"),
    "unequal turns": (lmsys_row(id="9", response_b='["b1"]'), "response_b", "unequal turns [2, 2, 1]"),
    "prompt longer": (lmsys_row(id="9", prompt='["1","2","3"]'), "response_a", "unequal turns [3, 2, 2]"),
    "no turns": (lmsys_row(id="9", prompt="[]", response_a="[]", response_b="[]"), "prompt", "empty list"),
    "a null field": (lmsys_row(id="9", response_a="null"), "response_a", "null"),
    "an object": (lmsys_row(id="9", response_a='[{"a": 1}, "x"]'), "response_a", "dict"),
    "no id": (lmsys_row(id=" "), "id", "missing"),
    "cells missing": (["9", "m1"], "line", "2 cells"),
}


@pytest.mark.parametrize("row, field, reason", BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_goes_to_the_rejects_file_with_its_reason(row, field, reason, tmp_path, capsys):
    source = write_csv(tmp_path / "v.csv", [lmsys_row(), row, lmsys_row(id="8")])
    status, output = run_import(tmp_path, source)
    assert status == 0 and "3 rows in = 2 out + 1 rejected" in capsys.readouterr().out
    (reject,) = map(json.loads, output.with_name("battles.rejects.jsonl").read_text().splitlines())
    assert set(reject) == {"source", "row", "id", "field", "reason", "data"}
    assert reject["row"] == 2 and reject["field"] == field and reason in reject["reason"]
    assert pq.read_table(output)["id"].to_pylist() == ["7", "8"]


@pytest.mark.parametrize("row, field, reason", BAD_ROWS.values(), ids=BAD_ROWS)
def test_strict_makes_a_bad_row_an_error(row, field, reason, tmp_path, capsys):
    source = write_csv(tmp_path / "v.csv", [lmsys_row(), row])
    check_refused(tmp_path, capsys, [source], "row 2", field, options=["--strict"])


def test_bytes_that_are_not_utf8_reject_their_row_only(tmp_path):
    text = write_csv(tmp_path / "v.csv", [lmsys_row(), lmsys_row(id="8", model_a="caf\u00e9")]).read_bytes()
    (tmp_path / "v.csv").write_bytes(text.replace("\u00e9".encode(), b"\xe9"))
    table, rejects, _ = imported(tmp_path / "v.csv")
    assert table.num_rows == 1 and rejects[0]["reason"] == "bytes that are not UTF-8"


def test_broken_jsonl_lines_are_rejected(tmp_path):
    good = {"id": "1", "prompt": ["p"], "response_a": ["a"], "response_b": ["b"], "verdict": "a"}
    lines = [json.dumps(good), '{"id": "2", "prom', "[1]", json.dumps({**good, "id": "3", "verdict": "A"})]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    table, rejects, _ = imported(tmp_path / "x.jsonl")
    assert table.num_rows == 1
    assert [(reject["row"], reject["field"]) for reject in rejects] == [
        (2, "line"),
        (3, "line"),
        (4, "verdict"),
    ]


def test_a_clean_import_removes_a_stale_rejects_file(tmp_path):
    source = write_csv(tmp_path / "v.csv", [lmsys_row(), BAD_ROWS["broken JSON"][0]])
    _, output = run_import(tmp_path, source)
    rejects = output.with_name("battles.rejects.jsonl")
    assert rejects.exists()
    write_csv(source, [lmsys_row()])
    assert run_import(tmp_path, source)[0] == 0 and not rejects.exists()


def test_limit_takes_the_first_rows_of_each_source(tmp_path):
    one = write_csv(tmp_path / "v.csv", [lmsys_row(), lmsys_row(id="8")])
    two = write_csv(tmp_path / "w.csv", [lmsys_row(id="9"), lmsys_row(id="10")])
    assert imported(one, two, limit=1)[0]["id"].to_pylist() == ["7", "9"]


# Bad files


def check_refused(tmp_path, capsys, sources, *said, options=()):
    """Exit status 2, one line on standard error that says `said`, and nothing written."""
    status, output = run_import(tmp_path, *sources, options=options)
    error = capsys.readouterr().err
    assert status == 2 and error.count("\n") == 1
    for words in said:
        assert words in error
    assert not list(output.parent.glob("*"))


def test_an_id_that_stands_twice_is_an_error_naming_both_rows(tmp_path, capsys):
    source = write_csv(tmp_path / "v.csv", [lmsys_row(), lmsys_row(id="8"), lmsys_row()])
    check_refused(tmp_path, capsys, [source], "id '7'", "rows 1 and 3")


def test_an_id_in_two_files_is_an_error_naming_both(tmp_path, capsys):
    sources = [write_csv(tmp_path / name, [lmsys_row()]) for name in ("v.csv", "w.csv")]
    check_refused(tmp_path, capsys, sources, "v.csv", "w.csv", "id '7'")


def test_a_file_without_a_good_row_is_an_error(tmp_path, capsys):
    source = write_csv(tmp_path / "v.csv", [BAD_ROWS["two winners"][0], BAD_ROWS["broken JSON"][0][:-9] + ["x"]])
    check_refused(tmp_path, capsys, [source], "none of 2 rows is a battle", "row 1", "2 winners")


def test_a_missing_column_names_the_nearest(tmp_path, capsys):
    header = [name.replace("response_b", "respons_b") for name in LMSYS]
    check_refused(
        tmp_path, capsys, [write_csv(tmp_path / "v.csv", [lmsys_row()], header)], "'response_b'", "Did you mean"
    )
    header = [name.replace("winner_tie", "winner_draw") for name in LMSYS]
    check_refused(tmp_path, capsys, [write_csv(tmp_path / "v.csv", [lmsys_row()], header)], "'winner_tie'")


BAD_FILES = {
    "empty": (b"", "is empty"),
    "blank": (b"\n\n", "is empty"),
    "header": (",".join(LMSYS).encode() + b"\n", "no rows"),
    "garbage": (bytes(range(256)) * 50, "not UTF-8 text"),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(100), "a gzip file that cannot be unpacked"),
    "utf-16": ((",".join(LMSYS) + "\n").encode("utf-16"), "not UTF-8 text"),
    "cut Parquet": (b"PAR1" + bytes(100), "broken Parquet"),
    "prose": (b"once upon a time\nthere was a judge\n", "no column 'id'"),
    "open quote": (",".join(LMSYS).encode() + b'\n1,m,n,"[""p""]', "never closes"),
    "JSON array": (b'[{"id": 1}]\n', "no column 'prompt'"),
    "empty JSON array": (b"[]\n", "no rows"),
    "zip": (b"PK\x03\x04" + bytes(100), "a zip archive, which cannot be read"),
    "JSON array, cut": (b'[{"id": 1}', "broken JSON"),
    "broken JSONL": (b"{not json\n", "broken JSON"),
}


@pytest.mark.parametrize("content, said", BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_one_clear_line(content, said, tmp_path, capsys):
    (tmp_path / "v.csv").write_bytes(content)
    check_refused(tmp_path, capsys, [tmp_path / "v.csv"], "v.csv", said)


def test_missing_file_folder_and_unknown_format_are_one_clear_line(tmp_path, capsys):
    check_refused(tmp_path, capsys, [tmp_path / "none.csv"], "no such file")
    (tmp_path / "empty").mkdir()
    check_refused(tmp_path, capsys, [tmp_path / "empty"], "no .parquet, .jsonl, .csv, .json in this folder")
    source = write_csv(tmp_path / "v.csv", [lmsys_row()])
    check_refused(tmp_path, capsys, [source], "'lmsis'", "lmsys", options=["--format", "lmsis"])


# Real data


@pytest.mark.parametrize(
    "name, rows, labelled",
    [
        ("lmsys/train.csv", 2313, 2313),
        ("lmsys/test.csv", 548, 0),
        ("wsdm/train.parquet", 2485, 2485),
        ("wsdm/test.parquet", 200, 0),
        ("mtbench_votes_q1to7.jsonl", 2313, 2313),
        ("mtbench_majority_q1to7.jsonl", 1266, 1266),
        ("llmeval2.jsonl", 2115, 2115),
        ("wmt_ted.jsonl", 2105, 2105),
        ("ja_vicuna_gpt4.jsonl", 480, 480),
        ("llamafactory_dpo.jsonl", 600, 600),
    ],
)
def test_real_files_lose_no_row_but_those_of_one_response_twice(name, rows, labelled, data_folder):
    table, rejects, result = imported(data_folder / name)
    twice = {"wsdm/train.parquet": 2, "llmeval2.jsonl": 2}.get(name, 0)
    assert [reject["reason"].partition(",")[0] for reject in rejects] == ["the same as response_a"] * twice
    assert table.num_rows + twice == rows == result.rows_in
    assert table.num_rows - table["verdict"].null_count + twice == labelled


def test_real_text_is_what_the_csv_module_and_json_read(data_folder):
    table = imported(data_folder / "lmsys/train.csv")[0]
    with open(data_folder / "lmsys/train.csv", encoding="utf-8", newline="") as file:
        for battle, row in zip(table.to_pylist(), csv.DictReader(file), strict=True):
            assert battle["id"] == row["id"]
            assert all(battle[name] == json.loads(row[name]) for name in ("prompt", "response_a", "response_b"))
            assert row[{"a": "winner_model_a", "b": "winner_model_b", "tie": "winner_tie"}[battle["verdict"]]] == "1"
