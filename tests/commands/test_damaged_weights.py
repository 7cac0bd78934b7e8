"""Weights cut short, and adapters on other bases: every command that loads a judge refuses them by name."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from helpers.training_runs import ADAPTER_WEIGHTS, cut_short, refuses
from sft_judge.cli import main
from sft_judge.modeling.judge_spec import read_spec, write_spec
from sft_judge.modeling.tiny_models import make_base

engine = pytest.mark.engine


@pytest.fixture(scope="module")
def adapter(bases, synthetic_file, tmp_path_factory) -> Path:
    """A trained adapter on the Qwen2-style base."""
    folder = tmp_path_factory.mktemp("adapter") / "judge"
    words = ["--model_name_or_path", bases["qwen2"], "--battles", synthetic_file, "--output_dir", folder]
    assert main(["train", "--config", "demo/student", "--max_steps", "1", *map(str, words)]) == 0
    return folder


@pytest.fixture
def damaged(adapter, tmp_path) -> Path:
    """A copy to damage."""
    return shutil.copytree(adapter, tmp_path / "damaged")


def every_use(model: Path, battles: Path, tmp_path: Path) -> list[list[str]]:
    """The commands that load a judge."""
    lines = [
        ["merge", model, "--output", tmp_path / "merged"],
        ["predict", "--model", model, "--battles", battles, "--output", tmp_path / "probs.parquet"],
        ["quantize", "--model", model, "--battles", battles, "--output", tmp_path / "quantized", "--seqlen", 64],
        ["verify", model, model, "--battles", battles, "--engines", "transformers"],
        ["judge", "--model", model, "--prompt", "p", "--response-a", "a", "--response-b", "b"],
    ]
    return [[str(word) for word in line] for line in lines]


@engine
def test_adapter_weights_that_are_cut_short_are_refused_by_name(damaged, synthetic_file, tmp_path, capsys):
    cut_short(damaged / ADAPTER_WEIGHTS)
    merge, predict, _, verify, judge = every_use(damaged, synthetic_file, tmp_path)  # no adapter is quantised
    for words in (merge, predict, verify, judge):
        refuses(words, 2, f"{damaged / ADAPTER_WEIGHTS}: damaged or truncated", tmp_path, capsys)


@engine
@pytest.mark.parametrize("name", ["transformers", "vllm"])
def test_weights_that_are_cut_short_are_refused_by_name(name, adapter, synthetic_file, tmp_path, capsys):
    assert main(["merge", str(adapter), "--output", str(tmp_path / "whole")]) == 0
    cut_short(tmp_path / "whole" / "model.safetensors")
    reason = f"{tmp_path / 'whole' / 'model.safetensors'}: damaged or truncated"
    lines = every_use(tmp_path / "whole", synthetic_file, tmp_path)
    for words in lines if name == "transformers" else [[*lines[1], "--engine", "vllm"]]:
        refuses(words, 2, reason, tmp_path, capsys)


@engine
def test_an_adapter_on_a_base_of_other_shapes_is_refused_by_both_names(damaged, synthetic_file, tmp_path, capsys):
    make_base(tmp_path / "wide", "qwen2", ["a judge of other shapes"] * 50, hidden=96, vocab=400, positions=512)
    fields = json.loads((damaged / "adapter_config.json").read_text())
    fields["base_model_name_or_path"] = str(tmp_path / "wide")
    (damaged / "adapter_config.json").write_text(json.dumps(fields))
    reason = f"{damaged}: its adapter was trained on another base than {tmp_path / 'wide'}"
    for words in every_use(damaged, synthetic_file, tmp_path)[:2]:
        refuses(words, 2, reason, tmp_path, capsys)


@engine
def test_an_adapter_of_other_layers_is_refused_by_the_first_of_them(damaged, bases, synthetic_file, tmp_path, capsys):
    saved = load_file(damaged / ADAPTER_WEIGHTS)
    save_file({name.replace("layers.1.", "layers.7."): value for name, value in saved.items()}, damaged / "new")
    (damaged / "new").rename(damaged / ADAPTER_WEIGHTS)
    write_spec(damaged, read_spec(damaged), bind=True)
    reason = f"was not made for {bases['qwen2']}: base_model.model.model.layers.1."
    for words in every_use(damaged, synthetic_file, tmp_path)[:2]:
        refuses(words, 2, reason, tmp_path, capsys)


@pytest.mark.unit
@pytest.mark.parametrize("what", ["link", "folder"])
def test_weights_that_are_a_link_to_nothing_or_a_folder_are_refused_by_name(
    what, judge, synthetic_file, tmp_path, capsys
):
    copied = shutil.copytree(judge, tmp_path / "copied")
    weights = copied / "model.safetensors"
    weights.unlink()
    weights.mkdir() if what == "folder" else weights.symlink_to("/nowhere/model.safetensors")
    said = f"{weights}: " + ("not a file" if what == "folder" else "a link to /nowhere/model.safetensors, which is")
    for words in every_use(copied, synthetic_file, tmp_path):
        refuses(words, 2, said, tmp_path, capsys)
    train = ["train", "--config", "tiny/train", "--model_name_or_path", str(copied), "--battles", str(synthetic_file)]
    refuses([*train, "--output_dir", str(tmp_path / "trained")], 2, said, tmp_path, capsys)
