"""The demo on real votes chooses its training set by a measured step, says so, and finds the votes."""

import importlib.util
import subprocess
import sys
import types
from pathlib import Path

import pytest

from sft_judge.data.battles import battle_table, write_battles

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[1]


@pytest.fixture
def demo():
    spec = importlib.util.spec_from_file_location("demo_real", ROOT / "scripts" / "demo_real.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SIZES = {"evaluate": 250, "train": 1000}


def minutes_of(demo, number: int, step: float) -> float:
    rows = 2 * 3 * SIZES["evaluate"]
    return step * (number / 8 + demo.PREDICTED_ROW * rows + demo.OTHER_STAGES) / 60


@pytest.mark.parametrize(("step", "number"), [(9.5, 1000), (15.0, 720), (20.0, 240)])
def test_as_many_battles_as_the_minutes_allow_are_trained_on(step, number, demo):
    chosen, lines = demo.plan(step, SIZES, 60)
    assert chosen == number and minutes_of(demo, chosen, step) <= 60
    assert chosen == SIZES["train"] or minutes_of(demo, chosen + 8, step) > 60
    assert f"{minutes_of(demo, chosen, step):.1f} min  in all" in lines[-1] and f"{step:.1f} s" in lines[0]


def test_where_too_few_would_fit_the_least_that_teaches_something_is_taken_and_said(demo):
    chosen, lines = demo.plan(60.0, SIZES, 60)
    assert chosen == demo.LEAST and "more than 60" in lines[-1]
    assert demo.plan(60.0, {"evaluate": 250, "train": 40}, 60)[0] == 40


def test_votes_are_those_given_else_those_of_the_data_folder_else_of_the_hub(demo, tmp_path, monkeypatch):
    monkeypatch.delenv("SFT_JUDGE_DATA", raising=False)
    assert demo.find_votes(None) == (demo.HUB, ["--set", "import.split=human"])
    monkeypatch.setenv("SFT_JUDGE_DATA", str(tmp_path))
    assert demo.find_votes(None)[0] == demo.HUB
    (tmp_path / demo.FILE).write_text("")
    assert demo.find_votes(None) == (str(tmp_path / demo.FILE), [])
    assert demo.find_votes("mine.jsonl") == ("mine.jsonl", [])


def test_the_commands_set_the_votes_and_how_many_rows_of_the_file_are_read(demo, tmp_path, monkeypatch):
    commands = []

    def run(command, **options):
        commands.append(command)
        return types.SimpleNamespace(returncode=0)

    rows = [
        {
            "id": f"r{place}",
            "prompt": ["?"],
            "response_a": ["x"],
            "response_b": ["y"],
            "verdict": "a",
            "fold": place % 5,
        }
        for place in range(1000)
    ]
    write_battles(tmp_path / "battles.parquet", battle_table(rows))
    (tmp_path / "timing").mkdir()
    (tmp_path / "timing" / "manifest.json").write_text('{"train_seconds": 120}')
    monkeypatch.setattr(subprocess, "run", run)
    words = [
        "demo_real.py",
        "--votes",
        "mine.jsonl",
        "--run",
        str(tmp_path),
        "--set",
        "train.seed=3",
        "--minutes",
        "60",
    ]
    monkeypatch.setattr(sys, "argv", words)
    demo.main()
    chosen = demo.plan(120 / demo.TIMED_STEPS, {"evaluate": 200, "train": 800}, 60)[0]
    first, last = commands
    assert first[-2:] == ["--until", "prepare"] and "votes=mine.jsonl" in first and "train.seed=3" in first
    assert f"train.limit={chosen * 1000 // 800}" in last and last[-1] == "train.seed=3"  # what is given wins
