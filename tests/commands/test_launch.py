"""`sft-judge launch`: the training under accelerate, its exit status, and what is refused before anything starts."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.training_runs import losses, refuses
from sft_judge.cli import main

unit, engine = pytest.mark.unit, pytest.mark.engine
ROOT = Path(__file__).parents[2]


def start(words: list[str], **options) -> subprocess.Popen:
    """`sft-judge launch`, its launcher on a free port."""
    line = [sys.executable, "-m", "sft_judge", "launch", "--main_process_port", "0", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(line, env=environment, **pipes, **options)


@unit
@pytest.mark.parametrize("name", ["zero2", "accelerate/zero2", "recipes/accelerate/zero2.yaml"])
def test_a_dry_run_prints_the_command(name, command, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = command()[1:]
    launcher = ["--config-file", name, "--num_processes", "3", "--machine-rank", "1"]
    assert main(["launch", *launcher[:4], *words, *launcher[4:], "--dry-run"]) == 0
    shown = shlex.split(capsys.readouterr().out)
    file = str(ROOT / "recipes/accelerate/zero2.yaml")
    flags = ["--config_file", file, "--num_processes", "3", "--machine_rank", "1"]
    assert shown == ["accelerate", "launch", *flags, "-m", "sft_judge", "train", *words]


@unit
@pytest.mark.parametrize(
    ("words", "gpus", "reason"),
    [
        (["--config_file", "zero9"], 0, "Did you mean 'accelerate/zero"),
        (["--config_file", "no/such.yaml"], 0, "no such file"),
        (["--config_file", "recipes/demo/student.yaml"], 0, "has no distributed_type"),
        (["--num_processes", "4"], 2, "4 processes for 2 GPUs"),
        ([], 1, "2 processes for 1 GPU, expected one per GPU: --num_processes 1"),
        (["--config_file", "multinode", "--num_machines", "3"], 4, "16 processes for 12 GPUs"),
        (["--config_file", "cpu", "--num_processes", "2"], 0, "starts one process, not 2"),
        (["--num_processes", "0"], 0, "0 is not a positive number"),
    ],
)
def test_a_launch_that_cannot_be_is_one_line(words, gpus, reason, command, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    refuses(["launch", *words, *command()[1:]], 2, reason, tmp_path, capsys)


@unit
def test_a_launch_with_nothing_to_train_is_one_line(tmp_path, capsys):
    refuses(["launch", "--num_processes", "2"], 2, "Nothing to train", tmp_path, capsys)


@engine
def test_two_processes_train_one_judge(command, train, tmp_path):
    same = {"train_sampling_strategy": "random", "lora_dropout": 0}
    words = command("two", per_device_train_batch_size=2, **same)[1:]
    process = start(words)
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err[-3000:]
    one = train("one", per_device_train_batch_size=4, **same)
    assert losses(tmp_path / "two") == pytest.approx(losses(one), abs=2e-4)
    assert (tmp_path / "two" / "manifest.json").is_file() and out.count("step 6/6") == 1


@engine
@pytest.mark.parametrize("launch_file", ["ddp", pytest.param("cpu", marks=pytest.mark.full)])
def test_the_exit_status_is_that_of_the_training(launch_file, command):
    words = command("bad", learning_rate=-1)[1:]
    process = start(["--config_file", launch_file, *words])
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2 and "learning_rate is -1" in err and "Traceback" not in err


@engine
def test_a_terminated_launch_leaves_no_process_and_goes_on(command, tmp_path):
    words = command("ended", max_steps=2000, per_device_train_batch_size=2, save_strategy="no")[1:]
    process = start(words, start_new_session=True)
    while line := process.stdout.readline():
        if "step 2/" in line:
            break
    workers = ["pgrep", "-f", str(tmp_path / "ended")]  # torchrun gives each a session of its own
    assert line and len(subprocess.run(workers, capture_output=True).stdout.split()) >= 2
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 143 and not (tmp_path / "ended").exists()
    for _ in range(20):
        if not subprocess.run(workers, capture_output=True).stdout:
            return
        time.sleep(0.5)
    pytest.fail("a process is left")
