"""A full disk is one line that names the output, in every library's words; nothing half-written is left."""

import errno
import json
import os
import subprocess

import numpy as np
import pytest

from sft_judge.cli import main
from sft_judge.core.errors import InputError, WriteError
from sft_judge.core.files import whole_file, whole_folder
from sft_judge.core.logs import show_messages
from sft_judge.core.write_errors import final_path

pytestmark = pytest.mark.unit


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a disk of some bytes; skips where mounting is not allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(size: str):
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], capture_output=True)
        if made.returncode:
            pytest.skip(f"mounting a small disk is not allowed here: {made.stderr.decode().strip()}")
        return disk

    yield mount
    subprocess.run(["umount", "-l", disk], capture_output=True)


COMMANDS = {
    "synth": ("8k", "synth --output {disk}/out --rows 60 --test-rows 20 --shifted-rows 20", "out"),
    "import, Parquet": ("8k", "import {battles} --output {disk}/out.parquet", "out.parquet"),
    "import, votes": ("8k", "import {battles} --output {disk}/out.parquet --votes soft", "out.parquet"),
    "import, JSONL": ("8k", "import {battles} --output {disk}/out.jsonl", "out.jsonl"),
    "prepare": ("8k", "prepare {battles} --output {disk}/out.parquet --order balanced", "out.parquet"),
    "base": ("80k", "base --family qwen2 --battles {battles} --output {disk}/out --vocab 400 --hidden 32", "out"),
    "train": ("40k", "train --config tiny/train --model_name_or_path {base} --battles {battles} --max_steps 1 "
              "--output_dir {disk}/out", "out"),
    "untrained": ("40k", "untrained {base} --output {disk}/out --total-budget 480", "out/tokenizer.json"),
    "predict, shards": ("8k", "predict --model {judge} --battles {battles} --output {disk}/out.parquet",
                        "out.parquet"),
    "predict, in time": ("12k", "predict --model {judge} --battles {battles} --output {disk}/out.parquet "
                         "--time-budget 60s", "out.parquet"),
    "merge": ("80k", "merge {judge} {judge} --output {disk}/out", "out"),
    "export": ("80k", "export --model {judge} --output {disk}/out", "out"),
    "evaluate": ("8k", "evaluate --probs {probs} --battles {battles} --output {disk}/out", "out/metrics.json"),
    "audit": ("8k", "audit {battles} --output {disk}/out", "out/audit.json"),
    "best-of-n": ("4k", "best-of-n {candidates} --model {judge} --output {disk}/out.jsonl", "out.jsonl"),
}  # fmt: skip


@pytest.fixture(scope="module")
def files(judge, bases, synthetic_file, tmp_path_factory):
    """What the commands read."""
    folder = tmp_path_factory.mktemp("files")
    rows = [{"prompt": [f"p {row}"], "candidates": ["a", "b", "c"]} for row in range(30)]
    (folder / "candidates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--model", str(judge), "--battles", str(synthetic_file), "--output", str(folder / "probs.parquet")]
    assert main(["predict", *words]) == 0
    named = {"candidates": folder / "candidates.jsonl", "probs": folder / "probs.parquet"}
    return named | {"judge": judge, "base": bases["qwen2"], "battles": synthetic_file}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_one_line_that_names_the_output(command, small_disk, files, capfd):
    size, line, named = COMMANDS[command]
    disk = small_disk(size)
    capfd.readouterr()
    assert main(line.format(disk=disk, **files).split()) == 2
    said = [text for text in capfd.readouterr().err.splitlines() if text.startswith("sft-judge: ")]
    assert len(said) == 1 and said[0].startswith(f"sft-judge: {disk}/{named}"), said
    assert "is the disk full?" in said[0] and "partial" not in said[0]
    left = [path for path in disk.rglob("*") if path.is_file() and ".partial/" not in str(path)]
    assert all(path.name.endswith(".lock.partial") or command == "predict, in time" for path in left), left


ERRORS = {
    "numpy": OSError("1800 requested and 496 written"),
    "pyarrow": OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left on device"),
    "torch.save": RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
    "tokenizers": Exception("No space left on device (os error 28)"),
    "shutil": OSError(errno.ENOSPC, "No space left on device", "source", None, "{aside}"),
    "too large": OSError(errno.EFBIG, "File too large"),
}


@pytest.mark.parametrize("library", ERRORS)
def test_each_librarys_error_names_the_output(library, tmp_path):
    error = ERRORS[library]
    with pytest.raises(WriteError) as raised, whole_file(tmp_path / "out") as aside:
        if getattr(error, "filename2", None):
            error.filename2 = str(aside)
        raise error
    assert str(raised.value).startswith(f"{tmp_path / 'out'}: could not be written, is the disk full?")
    assert not list(tmp_path.iterdir())


def test_other_errors_of_a_block_stay_what_they_are(tmp_path):
    for error in (RuntimeError("shapes"), KeyError("x"), OSError(errno.EIO, "Input/output error"), OSError("thrift")):
        with pytest.raises(type(error)) as raised, whole_folder(tmp_path / "out"):
            raise error
        assert raised.value is error


def test_errors_and_messages_name_the_output_and_not_its_temporary_path(tmp_path, capsys):
    out = tmp_path / "out"
    with pytest.raises(InputError) as raised, whole_folder(out) as aside:
        raise InputError(f"{aside / 'config.json'}: no such file.")
    assert str(raised.value) == f"{out / 'config.json'}: no such file."
    with pytest.raises(OSError) as raised, whole_folder(out) as folder, whole_file(folder / "a.json") as aside:
        (aside / "below").mkdir()
    assert raised.value.filename == str(out / "a.json" / "below")
    show_messages()
    with whole_folder(out) as aside:
        import logging

        logging.getLogger("sft_judge.test").warning(f"{aside} is written")
    assert capsys.readouterr().err == f"warning: {out} is written\n"


def test_a_file_that_cannot_be_opened_by_pyarrow_is_named(small_disk):
    disk = small_disk("40k")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(OSError) as raised, whole_file(disk / "out.parquet") as aside:
        import pyarrow.parquet as pq
        from pyarrow import table

        pq.write_table(table({"id": np.arange(3)}), aside)
    assert raised.value.filename == str(disk / "out.parquet") and ".partial" not in raised.value.strerror


@pytest.mark.parametrize(
    "path, output",
    [
        ("runs/.judge.partial/checkpoint-2/README.md", "runs/judge/checkpoint-2/README.md"),
        ("runs/.p.parquet.shards.partial/judge-0/.000.npy.partial", "runs/p.parquet"),
        ("/a/.o.partial/.judge.json.partial", "/a/o/judge.json"),
        ("runs/partial/x.partial", "runs/partial/x.partial"),
    ],
)
def test_the_output_of_a_temporary_path(path, output):
    assert final_path(path) == output


def test_a_full_cache_of_rows_names_the_cache(small_disk, files, tmp_path, capfd, monkeypatch):
    import datasets

    disk = small_disk("8k")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", disk / "cache")
    line = "train --config tiny/train --model_name_or_path {base} --battles {battles} --output_dir {out}"
    assert main(line.format(out=tmp_path / "out", **files).split()) == 2
    assert f"sft-judge: {disk}/cache: could not be written, is the disk full?" in capfd.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["disk"]
