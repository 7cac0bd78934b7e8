"""`sft-judge train`: what it refuses, each in a line with nothing left behind, and what it writes of itself."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.training_runs import (
    CLEAN,
    proof,
    refuses,
    soft_labels,
)
from sft_judge.cli import main
from sft_judge.core.files import content_hash
from sft_judge.core.resources import find_resource
from sft_judge.data.battles import read_battles
from sft_judge.modeling.judge_spec import read_spec
from sft_judge.modeling.loading import load_model, load_tokenizer

unit, engine = pytest.mark.unit, pytest.mark.engine
ROOT = Path(__file__).parents[2]


@unit
def test_in_sample_labels_are_refused_with_status_3_and_taken_when_allowed(command, synthetic_file, tmp_path, capsys):
    labels = soft_labels(tmp_path / "labels.parquet", synthetic_file, proof({0: [0, 1], 1: [0, 2], 2: [0, 1]}))
    refuses(command(labels=labels), 3, "fold 0 was labelled by fold-0, which trained on it", tmp_path, capsys)


@unit
@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"distil_weight": 0.5}, "Did you mean 'distill_weight'?"),
        ({"learning_rte": 0.5}, "Did you mean 'learning_rate'?"),
        ({"max_length": 512}, "set total_budget instead"),
        ({"packing": "true"}, "packing is True"),
        ({"swap": "bothe"}, "Did you mean 'both'?"),
        ({"num_verdicts": 4}, "expected 2 to 3"),
        ({"distill_weight": 1.5}, "expected 0 to 1"),
        ({"distill_temperature": 0}, "expected 0.01 to 1000"),
        ({"on_spike": "skipp"}, "Did you mean 'skip'?"),
        ({"agreement_weight": -1}, "expected 0 to 1000"),
        ({"learning_rate": "fast"}, "wrong type"),
        ({"fold": 9}, "No battle is in fold 9; the folds are [0, 1, 2]"),
        ({"holdout_fold": 9}, "No battle is in fold 9"),
        ({"num_verdicts": 2}, "is a tie, but the judge has two verdicts"),
        ({"verdict_words": ["A", "B"]}, "2 verdict_words ['A', 'B'] for 3 verdicts"),
        ({"total_budget": 4096}, "has 512 positions"),
        ({"total_budget": 20}, "Raise total_budget"),
        ({"prompt_template": "pairs"}, "Did you mean 'pair'?"),
        ({"dtype": "float8"}, "expected one of auto, float32"),
        ({"battles": None}, "no 'battles'"),
        ({"model_name_or_path": None}, "no 'model_name_or_path'"),
        ({"output_dir": None}, "no 'output_dir'"),
        ({"battles": "/no/such/file.parquet"}, "no such battles file"),
        ({"labels": "/no/such/labels.parquet"}, "no such probs file"),
    ],
)
def test_bad_settings_are_one_line_status_2_and_leave_nothing(changes, reason, command, tmp_path, capsys):
    refuses(command(**changes), 2, reason, tmp_path, capsys)


@unit
@pytest.mark.parametrize(
    "text, reason",
    [
        ("- a\n- b\n", "expected `key: value` lines"),
        ("a: [1\n", "not valid YAML"),
        ("", "expected `key: value` lines"),
        ("distil_temperature: 2\n", "Did you mean 'distill_temperature'?"),
    ],
)
def test_a_bad_recipe_is_one_line_status_2_and_leaves_nothing(text, reason, command, tmp_path, capsys):
    words = command()
    (tmp_path / "recipe.yaml").write_text(text)
    refuses(words, 2, reason, tmp_path, capsys)


@unit
def test_labels_that_miss_a_battle_name_it(command, synthetic_file, tmp_path, capsys):
    first = read_battles(synthetic_file)["id"][0].as_py()
    labels = soft_labels(tmp_path / "labels.parquet", synthetic_file, CLEAN, drop=1)
    refuses(command(labels=labels), 2, f"no row for battle {first}", tmp_path, capsys)


@unit
def test_an_adapter_is_no_base(command, bases, tmp_path, capsys):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(load_model(str(bases["qwen2"])), LoraConfig(r=2, target_modules="all-linear"))
    model.save_pretrained(tmp_path / "adapter")
    load_tokenizer(str(bases["qwen2"])).save_pretrained(tmp_path / "adapter")
    refuses(command(model_name_or_path=tmp_path / "adapter"), 2, "sft-judge merge", tmp_path, capsys)


@engine
def test_what_is_saved_says_what_it_was_trained_on(train, synthetic_file):
    folder = train(fold=0, holdout_fold=2)
    spec = read_spec(folder)
    assert spec.training["folds_seen"] == [1] and spec.training["rows"] == 20 and spec.num_verdicts == 3
    assert spec.training["battles_sha256"] == content_hash(synthetic_file)
    assert spec.training["recipe"]["learning_rate"] == 1e-3
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["rows"] == 20 and manifest["inputs"][str(synthetic_file)] == content_hash(synthetic_file)
    assert not (folder / "training_args.bin").exists()


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
    text = find_resource("prompts", "compact").read_text(encoding="utf-8")
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
        {"mix": '{"None": Infinity}'},  # as battles without a source are called
        {"mix": '{"None": NaN}'},
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
