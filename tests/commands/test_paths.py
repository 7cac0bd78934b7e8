"""An output never takes the place of an input or of another output, in any stage; nothing is written before."""

import os
import shutil

import pytest

from helpers.training_runs import refuses
from sft_judge.core import registry

pytestmark = pytest.mark.unit


@pytest.fixture
def files(tmp_path, judge, synthetic_file):
    """A judge's folder, battles and a sample, each a copy that may be lost."""
    shutil.copytree(judge, tmp_path / "runs" / "judge")
    shutil.copy(synthetic_file, tmp_path / "b.parquet")
    (tmp_path / "sample.csv").write_text("id,winner\n1,model_a\n")
    (tmp_path / "recipe.yaml").write_text("dtype: float32\n")
    os.link(tmp_path / "b.parquet", tmp_path / "linked.parquet")
    (tmp_path / "symlinked.parquet").symlink_to(tmp_path / "b.parquet")
    return tmp_path


PREDICT = "predict --model {0}/runs/judge --battles {0}/b.parquet --output"
TRAIN = "train --config {0}/recipe.yaml --model_name_or_path {0}/runs/judge --battles {0}/b.parquet --output_dir"
SAME = {
    "predict": f"{PREDICT} {{0}}/b.parquet",
    "predict by another way": f"{PREDICT} {{0}}/runs/../b.parquet",
    "predict by a link": f"{PREDICT} {{0}}/linked.parquet",
    "predict by a symbolic link": f"{PREDICT} {{0}}/symlinked.parquet",
    "the sample": f"{PREDICT} {{0}}/p.parquet --time-budget 9s --sample {{0}}/sample.csv "
    "--submission {0}/sample.csv",
    "prepare": "prepare {0}/b.parquet --output {0}/b.parquet",
    "prepare's rejects": "prepare {0}/b.parquet --output {0}/c.parquet --rejects {0}/b.parquet",
    "import": "import {0}/b.parquet --output {0}/b.parquet",
    "merge": "merge {0}/runs/judge --output {0}/runs/judge",
    "train onto its base": f"{TRAIN} {{0}}/runs/judge",
    "train onto its battles": f"{TRAIN} {{0}}/b.parquet",
    "submit": "submit --probs {0}/b.parquet --sample {0}/sample.csv --output {0}/sample.csv",
}


@pytest.mark.parametrize("command", SAME)
def test_an_output_that_is_an_input_is_refused(files, command, tmp_path, capsys):
    refuses(SAME[command].format(files).split(), 2, "is an input and would be replaced", tmp_path, capsys)


@pytest.mark.parametrize("command", ["merge {0}/runs/judge --output {0}/runs", f"{TRAIN} {{0}}"])
def test_a_folder_that_holds_an_input_is_refused(files, command, tmp_path, capsys):
    refuses(command.format(files).split(), 2, "would be replaced; choose another output", tmp_path, capsys)


def test_one_file_for_two_outputs_is_refused(files, tmp_path, capsys):
    words = "--model {0}/runs/judge --battles {0}/b.parquet {0}/b.parquet --output {0}/p.parquet {0}/./p.parquet"
    refuses(["predict", *words.format(files).split()], 2, "as an output twice", tmp_path, capsys)


def test_every_stage_that_writes_is_asked(monkeypatch):
    """The check stands before all else that a stage does, its `before` included."""
    asked = []
    monkeypatch.setattr(registry, "check_paths", lambda module, args: asked.append(module) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        registry.run_stage("doctor", [])
    assert [module.__name__ for module in asked] == ["sft_judge.commands.doctor"]
