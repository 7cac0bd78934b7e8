"""What a training refuses: one line, status 2 or 3, and nothing left behind."""

import json

import pytest

from helpers.training_runs import (
    CLEAN,
    proof,
    refuses,
    soft_labels,
)
from sft_judge.core.files import content_hash
from sft_judge.data.battles import read_battles
from sft_judge.modeling.judge_spec import read_spec
from sft_judge.modeling.loading import load_model, load_tokenizer

unit, engine = pytest.mark.unit, pytest.mark.engine


@unit
def test_in_sample_labels_are_refused_with_status_3_and_taken_when_allowed(command, planted_file, tmp_path, capsys):
    labels = soft_labels(tmp_path / "labels.parquet", planted_file, proof({0: [0, 1], 1: [0, 2], 2: [0, 1]}))
    refuses(command(labels=labels), 3, "fold 0 was labelled by fold-0, which trained on it", tmp_path, capsys)


@unit
@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"distil_weight": 0.5}, "Did you mean 'distill_weight'?"),
        ({"learning_rte": 0.5}, "Did you mean 'learning_rate'?"),
        ({"max_length": 512}, "set total_budget instead"),
        ({"packing": "true"}, "packing is on"),
        ({"swap": "bothe"}, "Did you mean 'both'?"),
        ({"num_verdicts": 4}, "expected 2 or 3"),
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
        ({"total_budget": 20}, "Raise the total budget"),
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
def test_labels_that_miss_a_battle_name_it(command, planted_file, tmp_path, capsys):
    first = read_battles(planted_file)["id"][0].as_py()
    labels = soft_labels(tmp_path / "labels.parquet", planted_file, CLEAN, drop=1)
    refuses(command(labels=labels), 2, f"no row for battle {first}", tmp_path, capsys)


@unit
def test_an_adapter_is_no_base(command, bases, tmp_path, capsys):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(load_model(str(bases["qwen2"])), LoraConfig(r=2, target_modules="all-linear"))
    model.save_pretrained(tmp_path / "adapter")
    load_tokenizer(str(bases["qwen2"])).save_pretrained(tmp_path / "adapter")
    refuses(command(model_name_or_path=tmp_path / "adapter"), 2, "sft-judge merge", tmp_path, capsys)


@engine
def test_what_is_saved_says_what_it_was_trained_on(train, planted_file):
    folder = train(fold=0, holdout_fold=2)
    spec = read_spec(folder)
    assert spec.training["folds_seen"] == [1] and spec.training["rows"] == 20 and spec.num_verdicts == 3
    assert spec.training["battles_sha256"] == content_hash(planted_file)
    assert spec.training["recipe"]["learning_rate"] == 1e-3
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["rows"] == 20 and manifest["inputs"][str(planted_file)] == content_hash(planted_file)
    assert not (folder / "training_args.bin").exists()
