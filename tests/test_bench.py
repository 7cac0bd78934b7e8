"""The benchmarks give what bench.json promises, with data and without. No time is asserted."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit
SCRIPTS = Path(__file__).parents[1] / "scripts"
sys.path.append(str(SCRIPTS))  # as `python scripts/bench.py` has it
RESULT = {"name": "x", "ratio": 0.9, "low": 0.85, "high": 1.0, "goal": ">= 0.8", "rounds": 3}


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """bench.py over made-up benchmarks in a folder of its own."""
    module = load("bench")
    monkeypatch.setattr(module, "SCRIPTS", tmp_path)
    monkeypatch.setattr(module, "OUTPUT", tmp_path / "runs" / "bench.json")
    (tmp_path / "bench_one.py").write_text(f"print({json.dumps([RESULT])!r})")
    return module


def test_results_of_all_benchmarks_are_collected_and_shown(bench, tmp_path, capsys):
    other = {**RESULT, "name": "other", "ratio": 1.02, "goal": "<= 1.03"}
    (tmp_path / "bench_two.py").write_text(f"print({json.dumps([other])!r})")
    assert bench.main([]) == 0
    assert json.loads((tmp_path / "runs" / "bench.json").read_text()) == [RESULT, other]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and "0.900" in lines[1] and "[0.850, 1.000]" in lines[1] and "MISSED" not in "".join(lines)
    assert bench.main(["two"]) == 0 and bench.main(["tow"]) == 2


@pytest.mark.parametrize("ratio, goal", [(0.79, ">= 0.8"), (1.04, "<= 1.03")])
def test_a_missed_goal_is_said_and_is_status_3(ratio, goal, bench, tmp_path, capsys):
    missed = [{**RESULT, "ratio": ratio, "goal": goal}]
    (tmp_path / "bench_one.py").write_text(f"print({json.dumps(missed)!r})")
    assert bench.main([]) == 3 and "MISSED" in capsys.readouterr().out
    assert json.loads((tmp_path / "runs" / "bench.json").read_text()) == missed


def test_prompts_are_measured_on_planted_battles_where_there_is_no_data(monkeypatch, capsys):
    module = load("bench_prompts")
    monkeypatch.delenv("SFT_JUDGE_DATA", raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, cores: None)
    monkeypatch.setattr(module, "ROWS", 40)
    monkeypatch.setattr(module, "A_ROUND", 10)
    results = module.measure([0])
    assert "synthetic battles" in capsys.readouterr().err and sys.stdout is not sys.stderr
    assert len(results) == 2 and all(set(result) == set(RESULT) for result in results)
    for result in results:
        assert result["low"] <= result["ratio"] <= result["high"] and result["rounds"] == 4


def test_distinct_rows_share_no_text():
    module = load("bench_prompts")
    rows = [{"id": "1", "prompt": ["p", "p"], "response_a": ["a", "b"], "response_b": ["a", "b"]}]
    module.ROWS = 5
    texts = [tuple(row["prompt"]) for row in module.repeated(rows, True)]
    assert len(set(texts)) == 5 and len(set(row["id"] for row in module.repeated(rows, False))) == 1


def test_a_benchmark_runs_all_its_parts_or_those_named_and_refuses_others(monkeypatch, capsys):
    from measuring import chosen

    for words, expected in (([], ["32k", "152k"]), (["152k"], ["152k"])):
        monkeypatch.setattr(sys, "argv", ["bench", *words])
        assert chosen("", {"32k": 1, "152k": 2}) == expected
    monkeypatch.setattr(sys, "argv", ["bench", "33k"])
    with pytest.raises(SystemExit):
        chosen("", {"32k": 1, "152k": 2})
    assert "33k: expected of 32k, 152k" in capsys.readouterr().err
