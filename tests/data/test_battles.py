"""Battles files: what is read is whole, and what is wrong is one line with the row."""

import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sft_judge.cli import main
from sft_judge.core.errors import InputError
from sft_judge.data.battles import FIELDS, TURNS, battle_table, read_battles, write_battles

pytestmark = pytest.mark.unit


BAD_NUMBERS = (math.inf, -math.inf, math.nan)
SHARES = {"verdict": None, "soft_a": 0.5, "soft_b": 0.5}


def battle(number: int, **changes) -> dict:
    texts = {"prompt": ["p", "q"], "response_a": ["a", "aa"], "response_b": ["b", ""]}
    return {"id": f"row-{number}", **texts, "verdict": "a", **changes}


def write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(battle_table(rows), path)
    return path


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_what_is_written_is_read_back(suffix, tmp_path):
    table = battle_table([battle(0), battle(1, verdict=None, fold=3), battle(2, verdict="tie", language="日本語")])
    write_battles(tmp_path / f"battles.{suffix}", table)
    assert read_battles(tmp_path / f"battles.{suffix}").equals(table)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.parametrize(
    "changes, reason",
    [
        *(({name: None}, f"no {name}") for name in ("id", *FIELDS)),
        *(({name: []}, f"no turn in {name}") for name in FIELDS),
        *(({name: ["x", None]}, f"a turn of {name} is null") for name in FIELDS),
        ({"response_a": ["one"]}, "unequal numbers of turns"),
        ({"verdict": "A"}, "verdict 'A'"),
    ],
)
def test_a_bad_row_is_an_error_with_its_number(changes, reason, suffix, tmp_path):
    file = write(tmp_path / f"battles.{suffix}", [battle(0), battle(1), battle(2, **changes), battle(3)])
    with pytest.raises(InputError, match=f"row 3: .*{reason}"):
        read_battles(file)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.parametrize(
    "changes, reason",
    [
        *(({name: value}, f"{name} is") for name in ("weight", "margin") for value in BAD_NUMBERS),
        ({"weight": -1.0}, "weight is -1.0, expected a number from 0 to 3.4e.38"),
        ({"weight": 1e308}, "weight is 1e.308"),
        *((SHARES | {"soft_b": value}, "soft_b is") for value in (*BAD_NUMBERS, -0.1)),
        (SHARES | {"soft_tie": math.nan}, "soft_tie is nan"),
        ({"soft_a": 0.0, "soft_b": 0.0}, "add up to more than 0"),
        ({"soft_a": 0.7}, "soft_b None"),
        ({"soft_tie": 0.7}, "soft_a None"),
    ],
)
def test_a_number_that_cannot_be_used_is_an_error_with_its_row_and_battle(changes, reason, suffix, tmp_path):
    file = write(tmp_path / f"battles.{suffix}", [battle(0), battle(1), battle(2, **changes), battle(3)])
    with pytest.raises(InputError, match=rf"row 3 \(battle row-2\): .*{reason}"):
        read_battles(file)


def test_a_null_turn_is_found_in_a_later_row_group(tmp_path):
    rows = [battle(number) for number in range(25)] + [battle(25, response_b=[None, "x"]), battle(26)]
    table = battle_table(rows)
    chunked = pa.concat_tables([table.slice(0, 10), table.slice(10, 10), table.slice(20)])
    pq.write_table(chunked, tmp_path / "battles.parquet", row_group_size=7)
    with pytest.raises(InputError, match="row 26: a turn of response_b is null"):
        read_battles(tmp_path / "battles.parquet")


def test_a_json_row_without_a_response_is_an_error_with_its_number(tmp_path):
    row = battle(1)
    del row["response_a"]
    with pytest.raises(InputError, match="row 2: no response_a"):
        read_battles(write(tmp_path / "battles.jsonl", [battle(0), row]))


@pytest.mark.parametrize("line", ["[1, 2]", "7", "null", '"text"'])
def test_a_json_line_that_is_no_object_is_an_error_with_its_number(line, tmp_path):
    file = write(tmp_path / "battles.jsonl", [battle(0)])
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(InputError, match="row 2: .*not an object"):
        read_battles(file)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n\n",
        b'{"id": ',
        b"\xff\xfe\x00",
        b'{"id": "1", "prompt": "no list"}',
        b'{"id": {"a": 1}}',
        b'{"id": "\\ud83d"}',
        b"[" * 100_000,
    ],
)
@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_a_broken_file_is_one_line_and_status_2(content, suffix, tmp_path, capsys):
    file = tmp_path / f"battles.{suffix}"
    file.write_bytes(content)
    assert main(["prepare", str(file), "--output", str(tmp_path / "out.parquet")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(file) in error and "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("column", ["prompt", "response_b", "verdict"])
def test_a_missing_column_is_named(column, tmp_path):
    pq.write_table(battle_table([battle(0)]).drop_columns([column]), tmp_path / "battles.parquet")
    with pytest.raises(InputError, match=f"no column '{column}'"):
        read_battles(tmp_path / "battles.parquet")


def test_an_id_that_stands_twice_is_named(tmp_path):
    with pytest.raises(InputError, match="'row-1'"):
        read_battles(write(tmp_path / "battles.parquet", [battle(0), battle(1), battle(1)]))


def test_turns_of_another_arrow_type_are_read_all_the_same(tmp_path):
    table = battle_table([battle(0), battle(1)])
    large = table.set_column(1, "prompt", table["prompt"].cast(pa.large_list(pa.large_string())))
    pq.write_table(large, tmp_path / "battles.parquet")
    read = read_battles(tmp_path / "battles.parquet")
    assert read.schema.field("prompt").type == TURNS and read["prompt"].to_pylist() == table["prompt"].to_pylist()


# A user's own columns


TEXT_COLUMNS = ("source", "category", "language", "model_a", "model_b")
NUMBER_COLUMNS = ("weight", "margin", "fold", "soft_a", "soft_b", "soft_tie")
FOREIGN = {"a list": [["x", "y"], ["z"]], "a bool": [True, False], "a dict": [{"x": 1}, {"x": 2}]}


def write_own(path, name, values):
    """Two battles with a column of somebody's own."""
    rows = [battle(row) | {name: value} for row, value in enumerate(values)]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.parametrize("values", FOREIGN.values(), ids=FOREIGN)
def test_a_describing_column_of_another_type_is_left_out_and_said_once(values, suffix, tmp_path, capsys):
    for name in TEXT_COLUMNS:
        file = write_own(tmp_path / f"{name}.{suffix}", name, values)
        assert read_battles(file).column_names == read_battles(file).column_names == [*battle(0)]
        (line,) = capsys.readouterr().err.splitlines()
        seen = {"list": "list", "bool": "bool", "dict": "struct" if suffix == "parquet" else "dict"}
        assert f"{name}.{suffix}: column '{name}' holds" in line and "expected text. It is left out." in line
        assert seen[type(values[0]).__name__] in line


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.parametrize("values", [*FOREIGN.values(), ["much", "little"]], ids=[*FOREIGN, "text"])
def test_a_column_that_changes_numbers_and_is_of_another_type_is_refused_with_the_remedy(values, suffix, tmp_path):
    for name in NUMBER_COLUMNS:
        file = write_own(tmp_path / f"{name}.{suffix}", name, values)
        with pytest.raises(InputError, match=f"column '{name}' holds .*expected .*numbers. Rename the column, or"):
            read_battles(file)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_whole_numbers_are_folds_however_they_are_written_and_others_are_refused(suffix, tmp_path):
    assert read_battles(write_own(tmp_path / f"a.{suffix}", "fold", [3.0, 1.0]))["fold"].to_pylist() == [3, 1]
    for place, value in enumerate((1.5, math.inf, math.nan)):
        with pytest.raises(InputError, match="column 'fold' holds .*expected whole numbers"):
            read_battles(write_own(tmp_path / f"b{place}.{suffix}", "fold", [3.0, value]))


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_numbers_are_text_where_text_is_due(suffix, tmp_path):
    assert read_battles(write_own(tmp_path / f"a.{suffix}", "category", [3, 4]))["category"].to_pylist() == ["3", "4"]


# Texts as turns


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_plain_text_is_one_turn_and_not_one_a_character(kind, tmp_path):
    row = {"id": 7, "prompt": "why?", "response_a": ["as", "so"][:1], "response_b": "no", "verdict": "a"}
    texts = {"id": "7", "prompt": "why?", "response_a": "as", "response_b": "no", "verdict": "a"}
    path = tmp_path / f"b.{kind}"
    if kind == "jsonl":
        path.write_text("\ufeff" + json.dumps(row) + "\n", encoding="utf-8")
    else:
        pq.write_table(pa.table({name: [value] for name, value in texts.items()}), path)
    (read,) = read_battles(path).to_pylist()
    assert read == {**row, "id": "7", "prompt": ["why?"], "response_b": ["no"]}


@pytest.mark.parametrize("value", [{"role": "user"}, 7, True, [{"a": 1}], [["x"]], [3]])
def test_what_is_neither_text_nor_texts_is_refused_by_its_row(value, tmp_path):
    rows = [{"id": str(n), "prompt": "p", "response_a": "a", "response_b": "b", "verdict": None} for n in range(3)]
    rows[1]["response_a"] = value
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match="b.jsonl row 2: response_a holds a"):
        read_battles(tmp_path / "b.jsonl")
