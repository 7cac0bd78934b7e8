"""Builds of DeepSpeed's kernels: a killed one does not hang the next, and ninja is found."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sft_judge.training.deepspeed_builds import build_folder, prepare_builds

pytestmark = pytest.mark.unit


@pytest.fixture
def lock(tmp_path, monkeypatch) -> Path:
    """The lock of a kernel's build, in a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "")  # so that it is put back
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR")
    path = build_folder() / "kernel" / "lock"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def test_a_lock_that_no_process_holds_is_taken_away(lock):
    prepare_builds()
    assert not lock.exists() and lock.parent.is_dir()
    assert os.environ["TORCH_EXTENSIONS_DIR"] == str(lock.parents[1])


def test_a_lock_that_a_process_holds_stays(lock):
    hold = "import sys; file = open(sys.argv[1]); print(flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", hold, str(lock)], **pipes) as holder:
        holder.stdout.readline()
        prepare_builds()
        assert lock.exists()
        holder.stdin.close()


def test_a_build_folder_of_the_users_own_is_left_alone(lock, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(lock.parents[1]))
    prepare_builds()
    assert lock.exists()


def test_ninja_is_found_where_the_environment_is_not_activated(lock):
    assert shutil.which("ninja") is None
    prepare_builds()
    assert shutil.which("ninja") == str(Path(sys.executable).parent / "ninja")
