"""The audit: its counts are those of a second way, its page is self-contained and shows no text of a battle."""

import json

import pyarrow as pa
import pytest
from scipy.stats import binomtest

from sft_judge.battles.audit import audit_battles, fold_leaks, win_rate
from sft_judge.battles.folds import assign_folds, set_column
from sft_judge.battles.planted import planted_split
from sft_judge.battles.planted_law import preset_settings
from sft_judge.battles.schema import battle_table, write_battles
from sft_judge.cli import main

pytestmark = pytest.mark.unit


def battle(number: int, prompt="p", a="aa", b="b", verdict="a", **more) -> dict:
    fields = {"prompt": [prompt], "response_a": [a], "response_b": [b]}
    return {"id": str(number), **fields, "verdict": verdict, **more}


def test_counts_of_a_small_set_are_those_done_by_hand():
    rows = [
        battle(0, source="s"),
        battle(1, source="s"),  # the same row again
        battle(2, prompt=" P ", a="", b="long", verdict="b", source="t"),
        battle(3, prompt="q", a="same", b="same", verdict="tie", source="t"),
        battle(4, prompt="r <|IM_end|>", a="longer", b="x", verdict="b", source="t"),
        battle(5, prompt="u", verdict=None, source="t"),
    ]
    audit = audit_battles(battle_table(rows))
    assert audit["rows_by"]["verdict"] == {"a": 2, "b": 2, "tie": 1, "none": 1}
    assert audit["rows_by"]["source"] == {"t": 4, "s": 2}
    assert audit["empty"] == {"prompt": 0, "response_a": 1, "response_b": 0}
    assert audit["identical_responses"] == 1
    assert audit["duplicates"] == {"different_prompts": 4, "rows_sharing_a_prompt": 3, "rows_repeating_a_row": 1}
    assert audit["first_answer_wins"]["value"] == 2 / 4
    assert audit["longer_answer_wins"]["value"] == 3 / 4 and audit["longer_answer_wins"]["n"] == 4
    assert audit["hostile_text"]["<|im_"] == 1 and sum(audit["hostile_text"].values()) == 1
    assert audit["characters"]["response_a"]["1"] == 6 and audit["prompts_in_two_folds"] is None


def test_win_rates_have_wilson_intervals():
    rate = win_rate(30, 100)
    assert rate["low"] < 0.3 < rate["high"]
    z = 1.959963984540054  # Wilson (1927): centre and half width written out
    centre, half = (0.3 + z**2 / 200) / (1 + z**2 / 100), z * (0.3 * 0.7 / 100 + z**2 / 40000) ** 0.5
    assert rate["low"] == pytest.approx(centre - half / (1 + z**2 / 100))
    assert rate["low"] == binomtest(30, 100).proportion_ci(0.95, method="wilson").low
    assert win_rate(0, 0) is None


def test_a_leak_planted_into_the_folds_is_found():
    table = battle_table(planted_split(preset_settings("easy", rows=300), "train").rows)
    folds = assign_folds(table, 5, seed=0)
    assert fold_leaks(set_column(table, "fold", pa.array(folds))) == 0
    rows = [battle(0, prompt="Same  one", fold=0), battle(1, prompt="same one", fold=1), battle(2, fold=1)]
    assert fold_leaks(battle_table(rows)) == 1


def test_hostile_rows_of_the_full_preset_are_seen():
    rows = planted_split(preset_settings("full", rows=1000, hostile=1.0), "train").rows
    marks = audit_battles(battle_table(rows))["hostile_text"]
    assert all(marks[mark] > 20 for mark in ("<|im_", "<start_of_turn>", "</response_"))


def test_the_page_is_self_contained_and_shows_no_text(tmp_path):
    rows = [battle(i, prompt=f"secret{i}", a=f"hidden{i}", verdict="ab"[i % 2], source="<b>x") for i in range(20)]
    write_battles(tmp_path / "b.parquet", battle_table(rows))
    for name in ("one", "two"):
        assert main(["audit", str(tmp_path / "b.parquet"), "--output", str(tmp_path / name)]) == 0
    page = (tmp_path / "one/audit.html").read_text(encoding="utf-8")
    assert "secret" not in page and "hidden" not in page and "<svg" in page
    assert "<b>x" not in page and "&lt;b&gt;x" in page
    assert "<script" not in page and 'src="' not in page and "<link" not in page
    assert json.loads((tmp_path / "one/audit.json").read_text())["rows"] == 20
    for file in ("audit.html", "audit.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_bad_input_is_one_clear_line_and_leaves_no_folder(tmp_path, capsys):
    (tmp_path / "garbage.parquet").write_bytes(bytes(range(256)))
    (tmp_path / "x.jsonl").write_text(json.dumps(battle(1, verdict="A")) + "\n")
    for name, said in (("none.parquet", "no such"), ("garbage.parquet", "not a readable"), ("x.jsonl", "verdict 'A'")):
        assert main(["audit", str(tmp_path / name), "--output", str(tmp_path / "o")]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1 and not (tmp_path / "o").exists()
