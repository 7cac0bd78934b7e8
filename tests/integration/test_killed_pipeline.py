"""
A pipeline killed with SIGKILL at random moments and run again ends as an undisturbed one does.

Compared: the submission by bytes, probabilities to 1e-6, manifests without time and memory.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from sft_judge.data.probs import read_probs

pytestmark = pytest.mark.engine
COMMAND = [sys.executable, "-m", "sft_judge", "run", "tiny/pipeline"]
KILLS = 3
OF_A_RUN = ("seconds", "peak_memory_mb", "train_seconds", "tokens_per_second")


def run(folder: Path, seconds: float | None = None) -> int | None:
    """Run the pipeline in `folder`; after `seconds` kill the front process alone. None: killed."""
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with open(folder / "log.txt", "a") as log:
        process = subprocess.Popen(COMMAND, cwd=folder, stdout=log, stderr=log, env=environment)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            wait_until_none_is_left(folder)
            return None


def wait_until_none_is_left(folder: Path, seconds: float = 120) -> None:
    """A step whose pipeline is gone must not write on. A fork server notices once its imports are done."""
    until = time.monotonic() + seconds
    while left := [process for process in psutil.process_iter(["cwd"]) if process.info["cwd"] == str(folder)]:
        assert time.monotonic() < until, f"still running: {[process.cmdline() for process in left]}"
        time.sleep(0.1)


def manifests(folder: Path) -> dict:
    """Every manifest below a folder, less what differs from run to run."""
    found = {}
    for file in sorted(folder.rglob("*manifest.json")):
        manifest = json.loads(file.read_text())
        found[file.relative_to(folder).as_posix()] = {
            key: value for key, value in manifest.items() if key not in OF_A_RUN
        }
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    start = time.monotonic()
    assert run(folder) == 0, (folder / "log.txt").read_text()[-2000:]
    return folder, time.monotonic() - start


def test_a_finished_pipeline_is_up_to_date_and_does_nothing(undisturbed):
    folder, _ = undisturbed
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file() and file.name != "log.txt"}
    assert run(folder) == 0
    after = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file() and file.name != "log.txt"}
    assert {file.name for file in before if before[file] != after.get(file)} <= {".lock.partial"}


def test_a_pipeline_killed_at_random_moments_ends_as_an_undisturbed_one(undisturbed, tmp_path):
    whole, seconds = undisturbed
    moments = random.Random(7)
    killed = 0
    for _ in range(KILLS):
        if run(tmp_path, moments.uniform(0.2, 0.7) * seconds) is None:
            killed += 1
    assert killed >= 2, "the pipeline finished before it could be killed twice"
    assert run(tmp_path) == 0, (tmp_path / "log.txt").read_text()[-2000:]
    one, other = whole / "runs/tiny", tmp_path / "runs/tiny"
    assert (one / "submission.csv").read_bytes() == (other / "submission.csv").read_bytes()
    for name in ("labels.parquet", "probs.parquet"):
        np.testing.assert_allclose(read_probs(one / name).logp, read_probs(other / name).logp, atol=1e-6)
    assert manifests(one) == manifests(other)
    assert not list(other.rglob("*.partial")) or {f.name for f in other.rglob("*.partial")} == {".lock.partial"}


def test_a_changed_setting_redoes_its_step_and_what_depends_on_it_alone(undisturbed):
    folder, _ = undisturbed
    command = [*COMMAND, "--plan", "--set", "prepare.seed=1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    plan = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=True).stdout
    to_do = {line.split()[2].rstrip(":") for line in plan.splitlines() if line.startswith("to do")}
    assert to_do == {"prepare"}  # what depends on it follows once its output differs
