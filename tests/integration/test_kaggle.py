"""The Kaggle script, whole, without a network: two fake GPUs, two judges, one row that is no battle."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.judges import make_judge
from sft_judge.cli import main
from sft_judge.data.probs import average_orders, read_probs
from sft_judge.inference.submission import check_submission, read_sample

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "kaggle" / "submit.py"

# Whatever Python starts below it refuses names and connections outside this machine, and writes down who tried.
GUARD = """
import os, socket
def refuse(what):
    with open(os.environ["GUARD_LOG"], "a") as log:
        log.write(f"{what}\\n")
    raise OSError(f"the guard refuses {what}")
def guarded(plain):
    def connect(self, address):
        local = self.family == socket.AF_UNIX or str(address[0]) in ("127.0.0.1", "::1", "localhost")
        return plain(self, address) if local else refuse(f"connect {address}")
    return connect
plain_lookup = socket.getaddrinfo
def lookup(host, *rest, **more):
    local = host in (None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0", socket.gethostname())
    return plain_lookup(host, *rest, **more) if local else refuse(f"look up {host}")
class Guarded(socket.socket):
    connect, connect_ex = guarded(socket.socket.connect), guarded(socket.socket.connect_ex)
socket.socket, socket.getaddrinfo = Guarded, lookup
open(os.environ["GUARD_LOG"] + ".on", "a").close()
"""


@pytest.fixture(scope="module")
def competition(tmp_path_factory):
    """test.csv and sample_submission.csv of 40 battles in the LMSYS format; the third row is none."""
    folder = tmp_path_factory.mktemp("competition")
    words = ["--rows", "10", "--test-rows", "40", "--shifted-rows", "1"]
    assert main(["plant", "--output", str(folder), *words]) == 0
    with open(folder / "test.csv", newline="") as lines:
        header, *rows = csv.reader(lines)
    rows[2][header.index("response_a")] = "no JSON list"
    with open(folder / "test.csv", "w", newline="") as lines:
        csv.writer(lines).writerows([header, *rows])
    return folder


def words(competition, judge, output, *more):
    files = ["--test", competition / "test.csv", "--sample", competition / "sample_submission.csv"]
    files += ["--model", judge, "--output", output / "submission.csv", "--work", output / "work"]
    rest = ["--gpus", "2", "--python", sys.executable, "--engine", "transformers", "--dtype", "float32"]
    return [sys.executable, str(SCRIPT), *map(str, files), *rest, *map(str, more)]


@pytest.mark.unit
def test_the_plan_is_one_process_a_gpu_and_loads_nothing(competition, tmp_path):
    command = [word for word in words(competition, "judge", tmp_path, "--time-budget", "9h", "--plan")]
    command[command.index("--python") : command.index("--python") + 2] = ["--wheels", "wheels"]
    run = subprocess.run([command[0], "-I", *command[1:]], capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    assert "--without-pip" in lines[0] and "--no-index --find-links wheels" in lines[1] and " import " in lines[2]
    for gpu, line in enumerate(lines[3:]):
        assert f"CUDA_VISIBLE_DEVICES={gpu} " in line and f"--shard {gpu}/2" in line and "--time-budget 32400s" in line
        assert "HF_HUB_OFFLINE=1" in line and "--dtype float32" in line
    assert len(lines) == 5 and not list(tmp_path.iterdir())


def dry_run(competition, folder, judge, *more) -> str:
    """Run the script under the guard; what it prints."""
    (folder / "guard").mkdir()
    (folder / "guard" / "sitecustomize.py").write_text(GUARD)
    environment = {**os.environ, "PYTHONPATH": f"{folder / 'guard'}:{ROOT}", "GUARD_LOG": str(folder / "asked")}
    command = words(competition, judge, folder, "--time-budget", "10m", *more)
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert (folder / "asked.on").exists() and not (folder / "asked").exists(), "somebody asked for the network"
    check_submission(folder / "submission.csv", read_sample(competition / "sample_submission.csv"))
    return run.stdout


def check_rows(submission, known) -> None:
    """The submission holds what is known, and in the third row, which is no battle, what the sample has."""
    with open(submission, newline="") as lines:
        rows = {row.pop("id"): [float(value) for value in row.values()] for row in csv.DictReader(lines)}
    for number, (id_, values) in enumerate(rows.items()):
        if number == 2:
            assert id_ not in known and values == pytest.approx([1 / 3] * 3, abs=1e-3)
        else:
            np.testing.assert_allclose(values, known[id_], atol=1e-9)


@pytest.mark.engine
def test_two_fake_gpus_without_a_network(competition, bases, tmp_path):
    said = dry_run(competition, tmp_path, make_judge(tmp_path / "judge", bases["qwen2"]))
    assert "1 rows are not battles" in said
    ids, probs, orders = average_orders(read_probs(tmp_path / "work" / "probs-0.parquet"))
    assert orders.tolist() == [2] * 39
    check_rows(tmp_path / "submission.csv", dict(zip(ids, probs, strict=True)))


@pytest.mark.full
@pytest.mark.engine
def test_a_second_judge_on_what_the_first_left_unsure(competition, bases, tmp_path):
    judges = [make_judge(tmp_path / f"judge-{seed}", bases["qwen2"], seed) for seed in range(2)]
    dry_run(competition, tmp_path, judges[0], "--model", judges[1], "--weights", "0.7", "0.3")
    (ids, one, both), (_, other, first) = (
        average_orders(read_probs(tmp_path / "work" / f"probs-{place}.parquet")) for place in range(2)
    )
    assert both.tolist() == [2] * 39 and first.tolist() == [1] * 39
    check_rows(tmp_path / "submission.csv", dict(zip(ids, 0.7 * one + 0.3 * other, strict=True)))


@pytest.mark.engine
def test_the_guard_does_refuse_the_network(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(GUARD)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "GUARD_LOG": str(tmp_path / "asked")}
    code = "import urllib.request; urllib.request.urlopen('http://192.0.2.1/', timeout=5)"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.returncode and "the guard refuses" in run.stderr and (tmp_path / "asked").exists()
