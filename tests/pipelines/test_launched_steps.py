"""A training of a pipeline on several processes: how it is written, planned, run, and what a kill leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from helpers.training_runs import RECIPE
from sft_judge.cli import main

unit, engine = pytest.mark.unit, pytest.mark.engine
ROOT = Path(__file__).parents[2]


@pytest.fixture
def pipeline(bases, synthetic_file, tmp_path):
    """A function that writes a pipeline of one training, launched as it says."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)

    def write(launch, **settings) -> Path:
        step = {"config": str(tmp_path / "recipe.yaml"), "model_name_or_path": str(bases["qwen2"])}
        step |= {"battles": str(synthetic_file), "output_dir": "{run}/judge", "launch": launch, **settings}
        content = {"vars": {"run": str(tmp_path / "run"), "gpus": 2}, "steps": {"train": step}}
        (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(content))
        return tmp_path / "pipeline.yaml"

    return write


@unit
@pytest.mark.parametrize(
    "launch, reason",
    [
        ("zero2", "needs a launch file"),
        ({"processes": 2}, "needs a launch file"),
        ({"config": "ddp", "proceses": 2}, "Did you mean 'processes'?"),
        ({"config": "ddp", "processes": "many"}, "invalid"),
    ],
)
def test_a_launch_that_is_written_wrongly_is_one_line(launch, reason, pipeline, capsys):
    assert main(["run", str(pipeline(launch)), "--plan"]) == 2
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1


@unit
def test_the_plan_says_what_will_be_launched_and_plans_for_its_gpus(pipeline, capsys):
    assert main(["run", str(pipeline({"config": "zero2", "processes": "{gpus}"})), "--plan", "--gpus", "8"]) == 0
    shown = capsys.readouterr().out
    assert "sft-judge launch --config_file zero2 --num_processes 2" in shown and "on 2 GPUs each" in shown


@unit
def test_one_process_is_not_launched(pipeline, capsys):
    assert main(["run", str(pipeline({"config": "zero2", "processes": 1})), "--plan"]) == 0
    assert "sft-judge train" in capsys.readouterr().out


def run(file: Path) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen([sys.executable, "-m", "sft_judge", "run", str(file)], env=environment, cwd=ROOT)


@engine
def test_two_processes_train_in_a_pipeline_which_is_then_up_to_date(pipeline, tmp_path, capfd):
    file = pipeline({"config": "ddp", "processes": "{gpus}"}, max_steps=2)
    assert run(file).wait(300) == 0
    folder = tmp_path / "run" / "judge"
    assert json.loads((folder / "judge.json").read_text())["training"]["steps"] == 2
    assert "4 per batch x 1 accumulated x 2 processes" in capfd.readouterr().out
    assert run(file).wait(120) == 0
    assert "train: up to date" in "".join(capfd.readouterr())


@engine
def test_a_killed_pipeline_leaves_no_process_of_its_launch(pipeline, tmp_path):
    file = pipeline({"config": "ddp", "processes": 2}, max_steps=2000, save_strategy="steps", save_steps=2)
    running = run(file)
    work = tmp_path / "run" / ".judge.partial"
    deadline = time.monotonic() + 240
    while not any(work.glob("checkpoint-*")) and time.monotonic() < deadline:
        assert running.poll() is None
        time.sleep(0.5)
    assert any(work.glob("checkpoint-*"))
    running.send_signal(signal.SIGKILL)
    running.wait()
    for _ in range(60):
        left = subprocess.run(
            ["pgrep", "-f", str(work.parent / "judge")], capture_output=True, text=True
        ).stdout.split()
        if not left:
            break
        time.sleep(0.5)
    assert not left
