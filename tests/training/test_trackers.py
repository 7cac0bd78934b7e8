"""Trackers: their logs outlive the run, and a run that goes on keeps the earlier ones. Skipped if not installed."""

import json
import os
import signal
import subprocess
import sys

import pytest

from helpers.training_runs import CRASH
from sft_judge.core.files import content_hash
from sft_judge.modeling.judge_spec import read_spec

engine = pytest.mark.engine
SENT = CRASH.replace("os.kill(", "__import__('time').sleep(5)\n            os.kill(", 1)  # by trackio's own thread
RESUMED = {"save_strategy": "steps", "save_steps": 2}


def train_killed_and_again(words: list[str], folder) -> None:
    """A run that is killed at its fifth step, and goes on to its end."""
    environment = {**os.environ, "TRACKIO_DIR": str(folder / "trackio")}
    for prefix, status in (["-c", SENT, "5"], -signal.SIGKILL), (["-m", "sft_judge"], 0):
        run = subprocess.run([sys.executable, *prefix, *words], env=environment, capture_output=True, text=True)
        assert run.returncode == status, run.stderr[-3000:]
    assert "Resuming from" in run.stdout


@engine
def test_tensorboards_logs_are_in_the_judges_folder_those_of_a_killed_run_too(command, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train_killed_and_again(command(report_to="tensorboard", **RESUMED), tmp_path)
    steps = []
    for logs in sorted((tmp_path / "judge" / "runs").iterdir()):
        events = accumulator.EventAccumulator(str(logs)).Reload()
        steps.append([event.step for event in events.Scalars("train/loss")])
    assert steps == [[1, 2, 3, 4], [5, 6]]


@engine
def test_tensorboards_logs_are_no_part_of_what_the_judge_is(train):
    pytest.importorskip("tensorboard")
    one = content_hash(train(report_to="tensorboard"))
    (logs,) = (train(report_to="tensorboard") / "runs").iterdir()
    judge = logs.parent.parent
    assert content_hash(judge) == one and read_spec(judge)
    next(logs.iterdir()).unlink()
    assert content_hash(judge) == one


@engine
def test_a_run_that_goes_on_is_one_run_in_trackio(command, tmp_path):
    pytest.importorskip("trackio")
    train_killed_and_again(command(report_to="trackio", project="judges", **RESUMED), tmp_path)
    code = """
import json, trackio
from trackio.sqlite_storage import SQLiteStorage
print(json.dumps([[run.name, SQLiteStorage.get_logs("judges", run.name)] for run in trackio.Api().runs("judges")]))
"""
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")}
    read = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert read.returncode == 0, read.stderr
    ((name, logs),) = json.loads(read.stdout.splitlines()[-1])
    steps = [entry["train/global_step"] for entry in logs if "train/loss" in entry]
    assert name.startswith("judge-") and steps == [1, 2, 3, 4, 5, 6]
