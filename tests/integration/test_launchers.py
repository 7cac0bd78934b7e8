"""
scripts/ssh_launch.sh and scripts/slurm.sh on two nodes that are both this machine, one CPU process on each.

What is not here, SSH and Slurm, is played by a few lines of shell; accelerate, DeepSpeed and the training are real.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from helpers.training_runs import losses, weights
from sft_judge.cli import main

pytestmark = pytest.mark.engine
ROOT = Path(__file__).parents[2]
# as ssh does: the words are joined and given to a shell, which starts elsewhere; `gone` is a host that is not there
SSH = """#!/bin/sh
test "$1" != gone || exit 7
shift
cd / && exec sh -c "$*"
"""
# options have no value of their own; the task's number is known to the task alone, and a name says where it runs
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
SLURM_NODEID=1 "$@" &
SLURM_NODEID=0 "$@" && wait $!
"""
SCONTROL = """#!/bin/sh
test "$*" = "show hostnames node[1-2]" && printf 'localhost\\n127.0.0.1\\n'
"""


@pytest.fixture
def nodes(tmp_path) -> dict[str, str]:
    """The environment of a launcher: stand-ins for SSH and Slurm, a free port, one process a node."""
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    for name, text in (("ssh", SSH), ("srun", SRUN), ("scontrol", SCONTROL)):
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join([str(stubs), str(Path(sys.executable).parent), os.environ["PATH"]])
    changed = {"PATH": path, "SSH": str(stubs / "ssh"), "PORT": str(port), "GPUS": "1", "DS_ACCELERATOR": "cpu"}
    return {**os.environ, **changed}


@pytest.fixture
def words(command):
    """A function that gives a launcher's words: a recipe and settings under which two processes train as one."""
    alike = {"train_sampling_strategy": "random", "lora_dropout": 0}

    def settings(output: str, rows: int, **changes) -> list[str]:
        return command(output, per_device_train_batch_size=rows, **alike, **changes)[2:]

    return settings


def start(line: list[str], folder: Path, environment: dict) -> subprocess.Popen:
    """In a session of its own, as a terminal has: a signal to its group reaches every process that is in it."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    return subprocess.Popen([str(word) for word in line], cwd=folder, env=environment, **options)


def left(folder: Path) -> list[list[str]]:
    """What still runs and names the folder."""
    found = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [command for command in found if any(str(folder) in word for word in command)]


def trains_as_one(words, tmp_path):
    """The judge of two nodes in `two` is that of one process with batches twice as large."""
    assert main(["train", "--config", *words("one", 8)]) == 0
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-4)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-3, rtol=0)  # Adam's first steps are all of size lr
    assert (tmp_path / "two" / "judge.json").is_file() and not (tmp_path / ".two.partial").exists()


def test_two_hosts_over_ssh_train_as_one_process(words, nodes, tmp_path):
    line = [ROOT / "scripts/ssh_launch.sh", "localhost 127.0.0.1", *words("two", 4)]
    run = start(line, tmp_path, nodes)
    said = run.communicate(timeout=300)[0]
    assert run.returncode == 0, said[-3000:]
    assert {text.split()[0] for text in said.splitlines()} == {"[localhost]", "[127.0.0.1]"}
    trains_as_one(words, tmp_path)


@pytest.mark.full  # as over SSH, by another launcher
def test_two_nodes_of_slurm_train_as_one_process(words, nodes, tmp_path):
    job = {"SLURM_JOB_ID": "1", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_CPUS_ON_NODE": "1"}
    run = start(["bash", ROOT / "scripts/slurm.sh", *words("two", 4)], ROOT, nodes | job)
    said = run.communicate(timeout=300)[0]
    assert run.returncode == 0, said[-3000:]
    trains_as_one(words, tmp_path)


def test_a_host_that_fails_ends_the_others(words, nodes, tmp_path):
    line = [ROOT / "scripts/ssh_launch.sh", "localhost gone", *words("two", 4)]
    run = start(line, tmp_path, nodes)
    said = run.communicate(timeout=60)[0]  # the first would wait for the second for ten minutes
    assert run.returncode == 7 and "failed with status 7" in said
    assert not left(tmp_path) and not (tmp_path / "two").exists()


def test_a_port_in_use_ends_all_hosts_and_is_named(words, nodes, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(nodes["PORT"])))
        taken.listen()
        line = [ROOT / "scripts/ssh_launch.sh", "localhost 127.0.0.1", *words("two", 4)]
        run = start(line, tmp_path, nodes)
        said = run.communicate(timeout=120)[0]
    assert run.returncode == 1 and f"port `{nodes['PORT']}`, but another process is utilizing it" in said
    assert not left(tmp_path) and not (tmp_path / "two").exists()


@pytest.mark.full
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_the_launchers_end_is_that_of_all_hosts_and_the_same_command_goes_on(number, status, words, nodes, tmp_path):
    settings = words("two", 4, max_steps=60, save_strategy="steps", save_steps=2)
    line = [ROOT / "scripts/ssh_launch.sh", "localhost 127.0.0.1", *settings]
    run = start(line, tmp_path, nodes)
    while not list(tmp_path.glob(".two.partial/checkpoint-*/trainer_state.json")):
        assert run.poll() is None
        time.sleep(0.05)
    os.killpg(run.pid, number) if number == signal.SIGINT else run.kill()
    run.communicate(timeout=60)
    assert run.returncode == status and not (tmp_path / "two").exists()
    deadline = time.monotonic() + 40  # torch gives its workers half a minute
    while left(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left(tmp_path)
    run = start(line, tmp_path, nodes)
    said = run.communicate(timeout=300)[0]
    assert run.returncode == 0 and "Resuming from" in said, said[-3000:]
    assert len(losses(tmp_path / "two")) == 60


def test_a_launcher_without_a_host_or_a_recipe_says_how_it_is_used(nodes, tmp_path):
    for line in (["localhost"], [" ", "recipe.yaml"]):
        run = start([ROOT / "scripts/ssh_launch.sh", *line], tmp_path, nodes)
        assert run.communicate(timeout=10)[0].count("\n") == 1 and run.returncode == 2
    run = start(["bash", ROOT / "scripts/slurm.sh"], ROOT, nodes)
    assert "usage" in run.communicate(timeout=10)[0] and run.returncode == 2
