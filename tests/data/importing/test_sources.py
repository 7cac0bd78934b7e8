"""Folders, patterns and ids of the hub: each is its files, or one line that says what to do."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from helpers.hub import FakeHub
from helpers.importing import PREFERENCE, refused, votes
from helpers.training_runs import refuses
from sft_judge.cli import main
from sft_judge.data.battles import battle_table, read_battles, write_battles

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[3]


def test_a_folder_and_a_pattern_are_their_files(tmp_path):
    folder = tmp_path / "set"
    (folder / "deep").mkdir(parents=True)
    for number, file in enumerate(("a.jsonl", "deep/b.jsonl")):
        (folder / file).write_text(json.dumps({**PREFERENCE, "prompt": f"p{number}"}) + "\n")
    (folder / "notes.txt").write_text("no data")
    write_battles(folder / "c.parquet", battle_table([{**votes("a")[0], "id": "7"}]))
    (folder / "c.parquet.manifest.json").write_text("{}")
    for source, ids in ((folder, ["a-1", "7", "b-1"]), (f"{folder}/*.jsonl", ["a-1"])):
        output = tmp_path / "battles.parquet"
        assert main(["import", str(source), "--output", str(output)]) == 0
        assert read_battles(output)["id"].to_pylist() == ids


def test_files_of_one_name_are_told_apart(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text(json.dumps(PREFERENCE) + "\n")
    output = tmp_path / "battles.parquet"
    assert main(["import", str(tmp_path / "one"), str(tmp_path / "two"), "--output", str(output)]) == 0
    assert read_battles(output)["id"].to_pylist() == ["one/train-1", "two/train-1"]


def test_a_link_out_of_a_folder_is_refused(tmp_path, capsys):
    (tmp_path / "secret.jsonl").write_text(json.dumps(PREFERENCE) + "\n")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "x.jsonl").symlink_to(tmp_path / "secret.jsonl")
    refused(capsys, tmp_path, tmp_path / "set", "x.jsonl", "leads out of")


def test_a_pattern_that_matches_nothing_is_one_clear_line(tmp_path, capsys):
    refused(capsys, tmp_path, tmp_path / "*.csv", "*.csv: no such file")


def test_a_hub_id_without_a_network_names_the_local_way(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    refused(capsys, tmp_path, "nobody/no-such-set", "cannot be loaded from the Hub", "--local-dir DIR")


@pytest.fixture
def import_from_hub(tmp_path):
    """A function that imports `me/set` from a fake hub, in a process of its own: its status, prompts and errors."""

    def run(*more):
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **hub.environment(tmp_path / "cache")}
        words = [sys.executable, "-m", "sft_judge", "import", "me/set", "--output", "b.jsonl", *more]
        done = subprocess.run(words, capture_output=True, text=True, env=env, cwd=tmp_path)
        read = (
            [row["prompt"][0] for row in read_battles(tmp_path / "b.jsonl").to_pylist()] if not done.returncode else []
        )
        return done.returncode, read, [line for line in done.stderr.splitlines() if line.startswith("sft-judge: ")]

    with FakeHub() as hub:
        for branch, name in (("main", "new"), ("v1", "old")):
            files = {
                f"{split}__jsonl": json.dumps({**PREFERENCE, "prompt": f"{name} {split}"})
                for split in ("train", "test")
            }
            hub.put("me/set", branch, **files)
        run.hub = hub
        yield run


def test_a_hub_set_is_read_at_a_revision_whole_or_streamed(import_from_hub, tmp_path):
    assert import_from_hub("--revision", "v1") == (0, ["old train"], [])
    assert import_from_hub("--revision", "v1", "--streaming", "--split", "test+train") == (
        0,
        ["old test", "old train"],
        [],
    )


def test_a_hub_set_that_cannot_be_had_is_one_line(import_from_hub):
    for more in ((), ("--streaming",)):
        status, _, (line,) = import_from_hub("--revision", "v9", *more)
        assert status == 2 and "me/set at revision v9" in line and "Revision 'v9' doesn't exist" in line
    import_from_hub.hub.repos["me/set"].gated = True
    status, _, (line,) = import_from_hub()
    assert status == 2 and "gated" in line


def test_what_is_of_the_hub_alone_is_refused_for_files(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text(json.dumps(PREFERENCE))
    words = ["import", str(tmp_path / "a.jsonl"), "--output", str(tmp_path / "b.parquet")]
    for more in (["--revision", "v1"], ["--streaming"]):
        refuses([*words, *more], 2, f"{more[0]} is for a data set on the Hub", tmp_path, capsys)


# Data sets as folders


def preference(number):
    return {**PREFERENCE, "prompt": f"p{number}"}


@pytest.fixture
def downloaded(tmp_path):
    """A data set as `hf download --local-dir` leaves it: three splits of one form, zipped."""
    folder = tmp_path / "hub"
    (folder / "data").mkdir(parents=True)
    for place, split in enumerate(("train", "test", "train_sft")):
        with gzip.open(folder / "data" / f"{split}-00000-of-00001.jsonl.gz", "wt") as file:
            file.write("".join(json.dumps(preference(10 * place + n)) + "\n" for n in range(3)))
    (folder / "dataset_infos.json").write_text("[1]")
    return folder


def prompts(folder, tmp_path, *more):
    assert main(["import", str(folder), "--output", str(tmp_path / "b.parquet"), *more]) == 0
    return [row["prompt"][0] for row in read_battles(tmp_path / "b.parquet").to_pylist()]


def test_of_a_downloaded_set_the_train_split_alone_is_read_and_the_rest_named(downloaded, tmp_path, capsys):
    assert prompts(downloaded, tmp_path) == ["p0", "p1", "p2"]
    said = capsys.readouterr().out
    assert "left out: test-00000-of-00001.jsonl.gz (test), train_sft-00000-of-00001.jsonl.gz (train_sft)" in said
    assert prompts(downloaded, tmp_path, "--split", "test+train_sft") == ["p10", "p11", "p12", "p20", "p21", "p22"]


def test_splits_that_cannot_be_told_are_refused(downloaded, tmp_path, capsys):
    assert main(["import", str(downloaded), "--output", str(tmp_path / "b.parquet"), "--split", "trian"]) == 2
    assert "no split 'trian'; it has" in capsys.readouterr().err
    (downloaded / "data" / "train-00000-of-00001.jsonl.gz").unlink()
    refused(capsys, tmp_path, downloaded, "its splits are test, train_sft", "--split")


def test_a_cards_configs_say_which_files_are_of_which_split(tmp_path, capsys):
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("x", "y", "z"):
        (folder / f"{name}.jsonl").write_text(json.dumps({**PREFERENCE, "prompt": name}) + "\n")
    files = "  - {split: train, path: x.jsonl}\n  - {split: test, path: y.jsonl}\n"
    other = "- config_name: other\n  data_files: z.jsonl\n"
    card = f"---\nconfigs:\n- config_name: first\n  data_files:\n{files}{other}---\n"
    (folder / "README.md").write_text(card)
    refused(capsys, tmp_path, folder, "its configs are first, other", "--config")
    assert prompts(folder, tmp_path, "--config", "first") == ["x"]
    assert prompts(folder, tmp_path, "--config", "other") == ["z"]
    assert main(["import", str(folder), "--output", str(tmp_path / "b.parquet"), "--config", "third"]) == 2
    assert "no config 'third'; its card has first, other" in capsys.readouterr().err


def test_a_folder_of_save_to_disk_is_its_rows(tmp_path, capsys):
    rows = {name: [preference(number)[name] for number in range(3)] for name in PREFERENCE}
    whole = datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows)})
    whole["validation"] = whole["train"].select([0])
    whole.save_to_disk(tmp_path / "saved")
    assert prompts(tmp_path / "saved", tmp_path) == ["p0", "p1", "p2"]
    assert prompts(tmp_path / "saved", tmp_path, "--split", "validation") == ["p0"]
    whole["train"].save_to_disk(tmp_path / "one")
    assert prompts(tmp_path / "one", tmp_path) == ["p0", "p1", "p2"]
    (tmp_path / "saved" / "dataset_dict.json").write_text("{")
    capsys.readouterr()
    refused(capsys, tmp_path, tmp_path / "saved", "not a data set of save_to_disk")


def test_a_gzip_that_is_cut_off_is_one_line(tmp_path, capsys):
    lines = "".join(json.dumps({**preference(n), "chosen": os.urandom(200).hex()}) + "\n" for n in range(2000))
    zipped = gzip.compress(lines.encode())
    (tmp_path / "x.jsonl.gz").write_bytes(zipped[: len(zipped) // 2])
    refused(capsys, tmp_path, tmp_path / "x.jsonl.gz", "x.jsonl.gz: a gzip file that cannot be unpacked")
