"""Runs that cannot be right: bad values, damaged weights and checkpoints, adapters of other bases, a port in use."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from helpers.training_runs import ADAPTER_WEIGHTS, losses, refuses, weights
from sft_judge.cli import main
from sft_judge.core.resources import find
from sft_judge.modeling.tiny_models import make_base
from sft_judge.training.trainer import JudgeTrainer

unit, engine = pytest.mark.unit, pytest.mark.engine
ROOT = Path(__file__).parents[2]


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


# settings


@unit
@pytest.mark.parametrize(
    "old, new, reason",
    [
        ("in response_b", "in []", "shows turn 1 of 'response_b' 0 times"),
        ("response_b", "response_a", "shows turn 1 of 'response_a' 2 times"),
        ("in response_b", "in respons_b", "'respons_b' is undefined"),
        ("block user", "block usr", "no block 'user'"),
    ],
)
def test_a_template_that_does_not_show_each_answer_once_is_refused(old, new, reason, command, tmp_path, capsys):
    text = find("prompts", "compact").read_text(encoding="utf-8")
    words = command(prompt_template=tmp_path / "own.jinja")
    (tmp_path / "own.jinja").write_text(text.replace(old, new))
    refuses(words, 2, reason, tmp_path, capsys)


@unit
def test_a_verdict_of_two_tokens_is_refused_with_its_tokens(command, tmp_path, capsys):
    words = command(verdict_words=["A", "B", "undecided"])
    refuses(words, 2, "but the loss looks at one answer token", tmp_path, capsys)


@unit
@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": -1},
        {"per_device_train_batch_size": 0},
        {"gradient_accumulation_steps": 0},
        {"max_steps": 0},
        {"lora_r": 0},
        {"lora_dropout": 1.5},
        {"warmup_steps": -1},
        {"logging_steps": 0},
        {"seed": -1},
        {"lora_init": "pisa"},
        {"lora_target_modules": "foo"},
        {"lr_scheduler_type": "cosin"},
        {"eval_strategy": "steps"},
        {"bf16": "maybe"},
        {"limit": -2},
        {"num_train_epochs": 0},
        {"adam_beta1": 2},
        {"prompt_budget": 0},
        {"mix": "arena"},
    ],
    ids=str,
)
def test_a_value_that_no_training_can_have_is_one_line(changes, command, tmp_path, capsys):
    words = command(**changes)
    before = {path.name for path in tmp_path.iterdir()}
    assert main(words) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.strip() and "Loading weights" not in line]
    assert len(said) == 1 and said[0].startswith("sft-judge:") and next(iter(changes)) in said[0]
    assert {path.name for path in tmp_path.iterdir()} == before


@unit
def test_a_plan_for_no_gpu_is_refused(command, tmp_path, capsys):
    refuses([*command(), "--plan", "--gpus", "0"], 2, "--gpus is 0, expected 1 or more", tmp_path, capsys)


# weights


@pytest.fixture(scope="module")
def adapter(bases, planted_file, tmp_path_factory) -> Path:
    """A trained adapter on the Qwen2-style base."""
    folder = tmp_path_factory.mktemp("adapter") / "judge"
    words = ["--model_name_or_path", bases["qwen2"], "--battles", planted_file, "--output_dir", folder]
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
def test_adapter_weights_that_are_cut_short_are_refused_by_name(damaged, planted_file, tmp_path, capsys):
    cut_short(damaged / ADAPTER_WEIGHTS)
    merge, predict, _, verify, judge = every_use(damaged, planted_file, tmp_path)  # no adapter is quantised
    for words in (merge, predict, verify, judge):
        refuses(words, 2, f"{damaged / ADAPTER_WEIGHTS}: damaged or cut short", tmp_path, capsys)


@engine
@pytest.mark.parametrize("name", ["transformers", "vllm"])
def test_weights_that_are_cut_short_are_refused_by_name(name, adapter, planted_file, tmp_path, capsys):
    assert main(["merge", str(adapter), "--output", str(tmp_path / "whole")]) == 0
    cut_short(tmp_path / "whole" / "model.safetensors")
    reason = f"{tmp_path / 'whole' / 'model.safetensors'}: damaged or cut short"
    lines = every_use(tmp_path / "whole", planted_file, tmp_path)
    for words in lines if name == "transformers" else [[*lines[1], "--engine", "vllm"]]:
        refuses(words, 2, reason, tmp_path, capsys)


@engine
def test_an_adapter_on_a_base_of_other_shapes_is_refused_by_both_names(damaged, planted_file, tmp_path, capsys):
    make_base(tmp_path / "wide", "qwen2", ["a judge of other shapes"] * 50, hidden=96, vocab=400, positions=512)
    fields = json.loads((damaged / "adapter_config.json").read_text())
    fields["base_model_name_or_path"] = str(tmp_path / "wide")
    (damaged / "adapter_config.json").write_text(json.dumps(fields))
    reason = f"{damaged}: its adapter was not made for {tmp_path / 'wide'} (size mismatch for "
    for words in every_use(damaged, planted_file, tmp_path)[:2]:
        refuses(words, 2, reason, tmp_path, capsys)


@engine
def test_an_adapter_of_other_layers_is_refused_by_the_first_of_them(damaged, bases, planted_file, tmp_path, capsys):
    saved = load_file(damaged / ADAPTER_WEIGHTS)
    save_file({name.replace("layers.1.", "layers.7."): value for name, value in saved.items()}, damaged / "new")
    (damaged / "new").rename(damaged / ADAPTER_WEIGHTS)
    reason = f"was not made for {bases['qwen2']}: base_model.model.model.layers.1."
    for words in every_use(damaged, planted_file, tmp_path)[:2]:
        refuses(words, 2, reason, tmp_path, capsys)


# checkpoints


@pytest.fixture
def stopped(command, tmp_path, monkeypatch):
    """A run that was interrupted after its checkpoint-4: its words, and the folder of its work."""

    def interrupted(self, *args, **options):
        if self.state.global_step == 4:
            raise KeyboardInterrupt
        return compute_loss(self, *args, **options)

    compute_loss = JudgeTrainer.compute_loss
    words = command("judge", save_strategy="steps", save_steps=2)
    with monkeypatch.context() as patch:
        patch.setattr(JudgeTrainer, "compute_loss", interrupted)
        assert main(words) == 130
    work = tmp_path / ".judge.partial"
    assert (work / "checkpoint-2").is_dir() and (work / "checkpoint-4").is_dir()
    return words, work


def without_its_state(checkpoint):
    """As a kill leaves it: what Trainer writes last is not there."""
    (checkpoint / "trainer_state.json").unlink()


def empty(checkpoint):
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


def weights_cut_short(checkpoint):
    cut_short(checkpoint / ADAPTER_WEIGHTS)


def state_cut_short(checkpoint):
    cut_short(checkpoint / "trainer_state.json")


def optimizer_cut_short(checkpoint):
    cut_short(checkpoint / "optimizer.pt")


@engine
def test_the_checkpoint_of_another_run_is_not_gone_on_from(stopped, command, train, tmp_path, capsys):
    _, work = stopped
    fingerprint = (work / "fingerprint").read_text()
    other = {"save_strategy": "steps", "save_steps": 2, "lora_r": 8}
    capsys.readouterr()
    judge = train("judge", **other)
    assert "Going on from" not in capsys.readouterr().out and len(losses(judge)) == 6
    assert len(fingerprint) == 64 and not work.exists()
    afresh = weights(train("afresh", **other))
    assert all((afresh[name] == value).all() for name, value in weights(judge).items())


@engine
@pytest.mark.parametrize("damage", [without_its_state, empty, weights_cut_short, state_cut_short, optimizer_cut_short])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(damage, stopped, tmp_path, capsys):
    words, work = stopped
    damage(work / "checkpoint-4")
    capsys.readouterr()
    assert main(words) == 0
    assert f"Going on from {work / 'checkpoint-2'}" in capsys.readouterr().out
    assert len(losses(tmp_path / "judge")) == 6


# several processes


@engine
def test_a_port_in_use_gives_way_to_another_on_one_machine(command, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        line = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", str(taken.getsockname()[1])]
        line += ["--config_file", str(ROOT / "recipes/accelerate/ddp.yaml"), str(ROOT / "scripts/train.py")]
        told = {key: value for key, value in os.environ.items() if key != "PYTHONWARNINGS"}  # as in a user's shell
        options = {"cwd": tmp_path, "env": told, "capture_output": True, "text": True, "timeout": 300}
        finished = subprocess.run([*line, *command(max_steps=1)[1:]], **options)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert "is already in use" in finished.stderr and (tmp_path / "judge" / "judge.json").is_file()
