"""Folders, patterns and ids of the hub: each is its files, or one line that says what to do."""

import json

import pytest

from helpers.importing import PREFERENCE, refused, votes
from sft_judge.cli import main
from sft_judge.data.battles import battle_table, read_battles, write_battles

pytestmark = pytest.mark.unit


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
    refused(capsys, tmp_path, "nobody/no-such-set", "not to be had from the hub", "--local-dir DIR")
