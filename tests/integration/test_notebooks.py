"""The notebooks are executed, on tiny models from a hub of this machine; only steps and time are cut short."""

import json
import os
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from helpers.hub import FakeHub, Repo
from helpers.judges import make_judge
from sft_judge.cli import main

pytestmark = pytest.mark.engine
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SHORT = {"STEPS = 500": "STEPS = 2"}


def execute(name: str, folder: Path, environment: dict[str, str], monkeypatch) -> str:
    """Execute a notebook in a folder; returns what its cells printed."""
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    for cell in notebook.cells:
        for long, short in SHORT.items():
            cell.source = cell.source.replace(long, short)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return "".join(
        output.get("text", "") or str(output.get("data", {}).get("text/plain", ""))
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )


def test_every_notebook_is_tested_here_and_holds_no_output():
    tested = Path(__file__).read_text(encoding="utf-8")
    for file in NOTEBOOKS.glob("*.ipynb"):
        assert f'execute("{file.name}"' in tested
        assert all(not cell.get("outputs") for cell in json.loads(file.read_text())["cells"])


@pytest.mark.full
def test_the_quick_start_trains_measures_and_asks_a_judge(synthetic_rows, tmp_path, monkeypatch):
    from sft_judge.modeling.tiny_models import make_base

    texts = [row[name][0] for row in synthetic_rows for name in ("prompt", "response_a", "response_b")]
    make_base(tmp_path / "base", "qwen2", texts, hidden=64, vocab=1200, positions=2048)
    rows = [
        {"prompt": row["prompt"][0], "chosen": row["response_a"][0] or "-", "rejected": row["response_b"][0] or "-"}
        for row in synthetic_rows
    ]
    with FakeHub() as hub:
        name = "Qwen/Qwen2.5-0.5B-Instruct"
        hub.repos[name] = Repo()
        hub.repos[name].add("main", {file.name: file.read_bytes() for file in (tmp_path / "base").iterdir()})
        data = "".join(json.dumps(row) + "\n" for row in rows)
        hub.put("trl-lib/ultrafeedback_binarized", train__jsonl=data)
        printed = execute("quick_start.ipynb", tmp_path, hub.environment(tmp_path / "cache"), monkeypatch)
    assert "Judgement(a=0." in printed and "log_loss {'value':" in printed
    assert (tmp_path / "report" / "report.html").is_file()


def test_the_kaggle_notebook_ends_in_a_valid_submission(bases, tmp_path, monkeypatch):
    words = "--rows 20 --test-rows 12 --shifted-rows 5".split()
    assert main(["synth", "--output", str(tmp_path / "data"), *words]) == 0
    shutil.rmtree(tmp_path / "data" / "truth")
    make_judge(tmp_path / "judge", bases["qwen2"])
    settings = {"JUDGE": "judge", "DATA": "data", "BUDGET": "5m", "ENGINE": "transformers"}
    printed = execute("kaggle_submission.ipynb", tmp_path, settings, monkeypatch)
    assert "winner_model_a" in printed
    assert len((tmp_path / "submission.csv").read_text().splitlines()) == 13
