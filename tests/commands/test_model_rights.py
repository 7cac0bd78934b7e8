"""A judge is a folder that others may read: the container's user is nobody."""

import os
from importlib.util import find_spec

import pytest

from sft_judge.cli import main

pytestmark = pytest.mark.engine


@pytest.fixture(autouse=True)
def umask():
    """The usual one."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def unreadable(folder) -> list:
    """What in a folder another user could not read."""
    needed = {True: 0o755, False: 0o644}
    return [path for path in (folder, *folder.rglob("*")) if path.stat().st_mode & 0o777 != needed[path.is_dir()]]


def test_every_stage_that_writes_a_model_lets_others_read_it(train, synthetic_file, tmp_path):
    made = {name: tmp_path / name for name in ("base", "merged", "exported", "untrained", "judge", "whole", "nf4")}

    def run(*words):
        assert main([str(word) for word in words]) == 0

    sizes = ("--hidden", 64, "--vocab", 400, "--positions", 512)
    run("base", "--family", "qwen2", "--battles", synthetic_file, "--output", made["base"], *sizes)
    train("judge", model_name_or_path=made["base"], max_steps=1)
    train("whole", model_name_or_path=made["base"], max_steps=1, use_peft="false", lora_r=None)
    run("merge", made["judge"], "--output", made["merged"], "--battles", synthetic_file)
    run("export", "--model", made["merged"], "--output", made["exported"])
    run("untrained", made["base"], "--output", made["untrained"], "--prompt-template", "compact")
    if find_spec("bitsandbytes"):
        words = ("--battles", synthetic_file, "--output", made["nf4"], "--scheme", "NF4")
        run("quantize", "--model", made["merged"], *words)
    else:
        del made["nf4"]
    assert {name: unreadable(folder) for name, folder in made.items()} == {name: [] for name in made}
    assert all(list(folder.glob("*.safetensors")) for folder in made.values())
