"""Columns of other sets: what a map says is read, and what it leaves open is one line."""

import json

import pytest

from helpers.importing import import_rows
from sft_judge.cli import main
from sft_judge.data.battles import battle_table, read_battles, write_battles
from sft_judge.evaluation.slices import slices

pytestmark = pytest.mark.unit

ROW = {"q": "What?", "more": "Now.", "one": "x", "two": "y", "who": 1, "task": "maths", "left": "m1"}
MAP = "prompt=q+more,response_a=one,response_b=two,verdict=who:0=tie,1=a,2=b,category=task,model_a=left"


def test_a_map_joins_texts_names_verdicts_and_keeps_what_describes(tmp_path):
    rows = [ROW, {**ROW, "more": "", "who": 2.0}, {**ROW, "who": "0"}, {**ROW, "who": None}]
    battles, _ = import_rows(tmp_path, rows, "--map", MAP)
    assert [b["prompt"] for b in battles] == [["What?\n\nNow."], ["What?"], ["What?\n\nNow."], ["What?\n\nNow."]]
    assert [b["verdict"] for b in battles] == ["a", "b", "tie", None]
    assert {(b["category"], b["model_a"], b["response_a"][0]) for b in battles} == {("maths", "m1", "x")}


def test_a_value_that_the_map_does_not_name_is_refused_and_can_be_named_none(tmp_path, capsys):
    (tmp_path / "s.jsonl").write_text("".join(json.dumps({**ROW, "who": who}) + "\n" for who in (1, 3)))
    assert main(["import", str(tmp_path / "s.jsonl"), "--output", str(tmp_path / "o.parquet"), "--map", MAP]) == 2
    assert "s row 2: a verdict is '3', but the map defines 0 (tie), 1 (a), 2 (b)." in capsys.readouterr().err
    assert not (tmp_path / "o.parquet").exists()
    battles, _ = import_rows(tmp_path, [ROW, {**ROW, "who": 3}], "--map", MAP.replace("2=b", "2=b,3=none"))
    assert [b["verdict"] for b in battles] == ["a", None]


def test_fields_that_battles_do_not_have_become_slices_of_a_report(tmp_path):
    rows = [{**ROW, "level": level, "topic": topic} for level, topic in ((1, "x"), (2, None), (None, "y: z"))]
    named = MAP + ",difficulty=level,domain=topic"
    battles, _ = import_rows(tmp_path, rows, "--map", named)
    assert [b["slices"] for b in battles] == [["difficulty: 1", "domain: x"], ["difficulty: 2"], ["domain: y: z"]]
    write_battles(tmp_path / "again.jsonl", battle_table(battles))  # and through the form for exchange
    masks = slices(read_battles(tmp_path / "again.jsonl").take([0, 1, 2] * 30))
    assert {name: mask.sum() for name, mask in masks["difficulty"].items()} == {"1": 30, "2": 30, "unknown": 30}
    assert set(masks["domain"]) == {"x", "unknown", "y: z"}


def test_several_columns_of_a_verdict_are_votes(tmp_path):
    row = {"instruction": "i", "input": "", "response1": "x", "response2": "y"}
    votes = [(1, 1, 0), (1, 2, 0), (2, 2, None), (2, None, None)]
    rows = [{**row, **{f"annotator{n + 1}": vote for n, vote in enumerate(three)}} for three in votes]
    battles, _ = import_rows(tmp_path, rows, "--map", "pandalm")
    assert [b["verdict"] for b in battles] == ["a", "tie", "b", "b"]
    assert [b["soft_a"] for b in battles] == [pytest.approx(2 / 3), pytest.approx(1 / 3), 0.0, None]


@pytest.mark.parametrize(
    "name, row, verdicts",
    [
        ("autoj", {"prompt": "p", "response 1": "x", "response 2": "y"}, {"label": [(0, "a"), (1, "b"), (2, "tie")]}),
        ("llmbar", {"input": "p", "output_1": "x", "output_2": "y"}, {"label": [(1, "a"), (2, "b")]}),
    ],
)
def test_ready_maps_read_their_sets(name, row, verdicts, tmp_path):
    ((column, values),) = verdicts.items()
    battles, _ = import_rows(tmp_path, [{**row, column: value} for value, _ in values], "--map", name)
    assert [b["verdict"] for b in battles] == [verdict for _, verdict in values]
    assert battles[0]["prompt"] == ["p"] and battles[0]["response_b"] == ["y"]


def test_a_map_in_a_file_says_the_same(tmp_path):
    lines = (
        "prompt: [q, more]\nresponse_a: one\nresponse_b: two\nverdict: {columns: who, values: {0: tie, 1: a, 2: b}}\n"
    )
    (tmp_path / "m.yaml").write_text(lines + "category: task\nmodel_a: left\n")
    assert import_rows(tmp_path, [ROW], "--map", str(tmp_path / "m.yaml")) == import_rows(
        tmp_path, [ROW], "--map", MAP
    )


WRONG = {
    "prompt=q,response_a=one": "no column for response_b",
    "prompt=q,response_a=one,response_b=too": "from 'too', but the columns are",
    "promt=q,response_a=one,response_b=two": "no field 'promt' of a battle. Did you mean 'prompt'?",
    "prompt=q,response_a=one,response_b=two,verdict=who:1=first": "a verdict is 'first'",
    "autoJ": "expected FIELD=COLUMN",
    "prompt=,response_a=one,response_b=two": "expected FIELD=COLUMN",
    "prompt=q,response_a=one,response_a=two,response_b=two": "'response_a' occurs twice",
    "prompt=q,response_a=one,response_b=two,verdict=who:1=a,2=b,1=b": "'1' occurs twice",
    "prompt=q,response_a=one,response_b=one": "both responses come from one",
    "prompt=q,response_a=one,response_b=two,soft_a=who": "'soft_a' cannot be mapped",
    "nowhere.yaml": "not a map of columns",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_map_that_cannot_be_is_one_line(text, tmp_path, capsys):
    (tmp_path / "s.jsonl").write_text(json.dumps(ROW) + "\n")
    assert main(["import", str(tmp_path / "s.jsonl"), "--output", str(tmp_path / "o.parquet"), "--map", text]) == 2
    error = capsys.readouterr().err
    assert WRONG[text] in error and error.count("\n") == 1
    assert not (tmp_path / "o.parquet").exists()


def test_values_of_a_file_are_named_and_a_format_beside_a_map_is_refused(tmp_path, capsys):
    (tmp_path / "s.jsonl").write_text(json.dumps(ROW) + "\n")
    (tmp_path / "m.yaml").write_text(
        "prompt: q\nresponse_a: one\nresponse_b: two\nverdict: {columns: who, values: [a, b]}\n"
    )
    words = ["import", str(tmp_path / "s.jsonl"), "--output", str(tmp_path / "o.parquet"), "--map"]
    assert main([*words, str(tmp_path / "m.yaml")]) == 2
    assert "verdict has the values ['a', 'b'], expected" in capsys.readouterr().err
    assert main([*words, MAP, "--format", "wsdm"]) == 2
    assert "--format wsdm has no effect with --map" in capsys.readouterr().err


def test_rejected_rows_do_not_count_as_rows_without_a_verdict(tmp_path, capsys):
    good, bad = [ROW] * 2, [{**ROW, "who": None, "q": ["one", "two"]}] * 2  # of two turns, and of one answer
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*good, *bad]))
    words = [
        "import",
        str(tmp_path / "s.jsonl"),
        "--output",
        str(tmp_path / "o.parquet"),
        "--map",
        MAP.replace("+more", ""),
    ]
    assert main(words) == 0
    assert [battle["verdict"] for battle in read_battles(tmp_path / "o.parquet").to_pylist()] == ["a", "a"]


def test_a_map_whose_verdicts_are_all_empty_is_one_line(tmp_path, capsys):
    (tmp_path / "s.jsonl").write_text(json.dumps({**ROW, "who": None}) + "\n")
    assert main(["import", str(tmp_path / "s.jsonl"), "--output", str(tmp_path / "o.parquet"), "--map", MAP]) == 2
    assert "--map takes the verdict from 'who', but it is empty in all 1 rows." in capsys.readouterr().err
    assert not (tmp_path / "o.parquet").exists()
