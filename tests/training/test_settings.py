"""Each key of a recipe is used, passed on or refused before the model is loaded, and the page of settings says so."""

import importlib.util
import json
import re
import shutil
from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import pytest
import torch
from trl import ModelConfig, SFTConfig

from helpers.training_runs import losses, refuses, trained_models
from sft_judge.cli import main
from sft_judge.core.errors import InputError
from sft_judge.training import preparation
from sft_judge.training import train as training
from sft_judge.training.config import JudgeConfig, JudgeModelConfig
from sft_judge.training.settings_table import GREATER_IS_BETTER, MODEL, RANGES, REFUSED, TRAINING

ROOT = Path(__file__).parents[2]
unit, engine = pytest.mark.unit, pytest.mark.engine
EVALUATED = {"fold": 0, "eval_strategy": "steps", "eval_steps": 2}

# what once failed after the model was loaded, or changed nothing without a word: settings, and a part of the line
LATE = [
    ({"report_to": "wandb"}, "report_to is wandb, which is not installed"),
    ({"report_to": "wandbb"}, "Did you mean 'wandb'?"),
    ({"lr_scheduler_type": "cosine_with_min_lr"}, "min_lr"),
    ({"lr_scheduler_type": "warmup_stable_decay"}, "num_decay_steps"),
    ({"lr_scheduler_kwargs": '{"num_cycle": 1}'}, "lr_scheduler_type linear with"),
    ({"lr_scheduler_kwargs": "{num_cycle: 1}"}, "expected a mapping as JSON"),
    ({"lr_scheduler_type": "constant", "warmup_steps": 2}, "warmup_steps is 2"),
    ({"optim": "galore_adamw"}, "galore_torch"),
    ({"optim_args": "momentum=0.9"}, "optim_args is 'momentum=0.9', but adamw_torch_fused does not use it"),
    ({"optim": "sgd", "adam_beta1": 0.8}, "adam_beta1 is 0.8, but sgd does not use it"),
    ({"use_kernels": "true"}, "use_kernels is set, but kernels>="),
    ({"use_liger_kernel": "true"}, "liger-kernel is not installed or there is no GPU: pip install liger-kernel"),
    ({"activation_offloading": "true"}, "activation_offloading needs a GPU"),
    ({"fp16": "true"}, "fp16 needs a GPU"),
    ({"torch_compile_backend": "none"}, "torch_compile_backend is 'none', expected one of"),
    ({"gradient_checkpointing_kwargs": '{"reentrant": true}'}, "Did you mean 'use_reentrant'?"),
    ({"deepspeed": "nowhere.json"}, "deepspeed is 'nowhere.json', but there is no such file"),
    ({"ddp_backend": "gloom"}, "Did you mean 'gloo'?"),
    ({"ddp_backend": "gloo"}, "ddp_backend is gloo, but this is a single process"),
    ({"agreement_weight": 1, "swap": "random"}, "agreement_weight needs both orders of a battle"),
    ({"load_best_model_at_end": "true"}, "load_best_model_at_end needs an evaluation"),
    ({"eval_on_start": "true"}, "eval_on_start needs an evaluation"),
    ({**EVALUATED, "metric_for_best_model": "nonsense"}, "metric_for_best_model is 'nonsense', expected one of loss"),
    ({**EVALUATED, "metric_for_best_model": "accuracy"}, "metric_for_best_model has no effect"),
    ({**EVALUATED, "dataloader_drop_last": "true"}, "would drop battles from the evaluation"),
    ({"save_only_model": "true"}, "save_only_model applies to checkpoints, but save_strategy is no"),
    ({"dataloader_persistent_workers": "true"}, "there are no workers"),
    ({"train_sampling_strategy": "sequential", "battle_order": "by_length"}, "each choose the batches"),
    ({"lora_target_modules": "lm_head"}, "lora_target_modules names the LM head"),
    ({"lora_target_modules": ".*"}, "no adapter for lora_target_modules"),
    ({"lora_modules_to_save": "lm_heads"}, "lora_modules_to_save names 'lm_heads'"),
    ({"lora_init": "loftq"}, "lora_init is 'loftq'"),
    ({"lora_init": "orthogonal", "lora_r": 3}, "lora_r is 3, but lora_init orthogonal needs an even rank"),
    ({"lora_init": "pissa", "lora_r": 33}, "lora_r is 33, but lora_init pissa takes at most 32, the smallest"),
    ({"lora_init": "pissa", "use_dora": "true"}, "use_dora is set, but an adapter initialised by pissa is saved as"),
    (
        {"lora_init": "olora", "lora_modules_to_save": "norm"},
        "lora_modules_to_save is set, but an adapter",
    ),
    ({"load_in_4bit": "true", "use_peft": "false"}, "load_in_4bit is set without use_peft"),
    ({"attn_implementation": "nonsense"}, "attn_implementation nonsense"),
    ({"attn_implementation": "paged|eager"}, "which is for generation"),
    ({"router_aux_loss_coef": 0.1}, "is not a mixture of experts"),
    ({"margin_scale": 1}, "margin_scale is set, but no battle has a `margin`"),
    ({"optim": "sgd", "optim_args": "weight_decay=0.1"}, "optim_args has weight_decay"),
    ({"loss_type": "dft"}, "loss_type is 'dft', but the loss is over the verdicts"),
    ({"assistant_only_loss": "true"}, "the loss is on the verdict only"),
    ({"model_init_kwargs": '{"dtype": "bfloat16"}'}, "model_init_kwargs is for JudgeTrainer"),
    ({"resume_from_checkpoint": "false"}, "a run resumes from its last checkpoint automatically"),
    ({"dataloader_drop_last": "true", "per_device_train_batch_size": 300}, "60 battles are fewer than the 300"),
]


@unit
@pytest.mark.parametrize(("kind", "table"), [(SFTConfig, TRAINING), (ModelConfig, MODEL)])
def test_every_key_of_trl_is_in_the_table_and_no_other(kind, table):
    assert {item.name for item in fields(kind)} == {*table}


@unit
def test_a_key_that_the_table_does_not_know_is_refused_where_it_is_set(tmp_path, monkeypatch):
    without = {name: setting for name, setting in TRAINING.items() if name != "weight_decay"}
    monkeypatch.setattr("sft_judge.training.config.TRAINING", without)
    JudgeConfig(output_dir=str(tmp_path))
    with pytest.raises(InputError, match="weight_decay is set, but sft_judge does not know this setting"):
        JudgeConfig(output_dir=str(tmp_path), weight_decay=0.1)


@unit
@pytest.mark.parametrize(("kind", "table"), [(JudgeConfig, TRAINING), (JudgeModelConfig, MODEL)])
def test_every_number_that_is_not_refused_has_a_range(kind, table):
    hints = get_type_hints(kind)
    parts = {name: [hint] if get_origin(hint) is list else [hint, *get_args(hint)] for name, hint in hints.items()}
    numbers = {name for name, kinds in parts.items() if int in kinds or float in kinds}
    assert numbers and not {
        name for name in numbers - {*RANGES} if name not in table or table[name].handling != REFUSED
    }


@unit
@pytest.mark.parametrize(
    ("key", "value"),
    [("learning_rate", None), ("max_steps", True), ("battles", 5), ("labels", {"a": 1}), ("seed", 1.5)]
    + [("save_steps", float("nan")), ("eval_accumulation_steps", -1), ("optim", ["sgd"]), ("output_dir", ["a"])],
)
def test_a_value_of_another_type_or_size_is_refused_by_its_name(key, value, tmp_path):
    with pytest.raises(InputError, match=f"^{key} is "):
        JudgeConfig(**{"output_dir": str(tmp_path), key: value})


@unit
@pytest.mark.parametrize(("kind", "table"), [(JudgeConfig, TRAINING), (JudgeModelConfig, MODEL)])
def test_a_refused_key_may_stand_with_its_default_alone(kind, table, tmp_path):
    some = {bool: True, str: "x", int: 7, float: 7.0, list: ["x"], dict: {"x": 1}}
    needed = {"output_dir": str(tmp_path)} if kind is JudgeConfig else {}
    for item in fields(kind):
        if item.name not in table or table[item.name].handling != REFUSED:
            continue
        default = item.default_factory() if item.default is MISSING else item.default
        kind(**needed, **{item.name: default})
        other = not default if isinstance(default, bool) else some.get(type(default), "x")
        if other in table[item.name].allowed:  # it asks for what is done anyway
            continue
        with pytest.raises(InputError, match=f"^{item.name} is .*, but "):
            kind(**needed, **{item.name: other})


@unit
def test_the_better_metric_is_kept(tmp_path):
    evaluated = {"fold": 0, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    for metric, greater in GREATER_IS_BETTER.items():
        config = JudgeConfig(str(tmp_path), load_best_model_at_end=True, metric_for_best_model=metric, **evaluated)
        assert config.greater_is_better is greater
    assert JudgeConfig(str(tmp_path), load_best_model_at_end=True, **evaluated).greater_is_better is False


@pytest.fixture(scope="module")
def script():
    """scripts/settings_page.py as a module."""
    spec = importlib.util.spec_from_file_location("settings_page", ROOT / "scripts" / "settings_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@unit
def test_the_page_of_settings_and_the_help_are_current(script):
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), "run: python scripts/settings_page.py"
    assert script.HELP.read_text(encoding="utf-8") == script.help_text(), "run: python scripts/settings_page.py"


@unit
def test_the_help_lists_every_key_that_is_taken_once_in_a_group_with_its_default(script, capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = capsys.readouterr().out.split("\nsettings: ")[1]
    listed = re.findall(r"^  --(\w+)", shown, re.MULTILINE)
    taken = {item.name for kind in (JudgeConfig, JudgeModelConfig) for item in fields(kind)}
    refused = {name for name, setting in (TRAINING | MODEL).items() if setting.handling == REFUSED}
    assert len(listed) == len({*listed}) and {*listed} == taken - refused - {*script.IN_PYTHON_ALONE}
    assert re.findall(r"^([a-z ]+):$", shown, re.MULTILINE) == [*script.GROUPS]
    assert "--learning_rate X\n      The initial learning rate for AdamW (2e-05)\n" in shown
    assert "--swap both|random|none\n" in shown and "--use_peft\n" in shown and "(0.9)" in shown


@engine
@pytest.mark.parametrize(("settings", "line"), LATE, ids=lambda value: " ".join(value) if value is dict else None)
def test_what_fails_late_or_does_nothing_is_refused_before_the_model_is_loaded(
    settings, line, command, tmp_path, capsys, monkeypatch
):
    def load_base(*_):
        raise AssertionError("the model is loaded")

    monkeypatch.setattr(training, "load_base", load_base)
    refuses(command("refused", **settings), 2, line, tmp_path, capsys)


@engine
@pytest.mark.parametrize("use_peft", ["true", "false"])
def test_a_quantised_base_is_refused_before_its_weights_are_read(use_peft, command, bases, tmp_path, capsys):
    base = tmp_path / "base"
    shutil.copytree(bases["qwen2"], base)
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "auto-round", "bits": 4, "group_size": 128}
    (base / "config.json").write_text(json.dumps(config))
    (base / "model.safetensors").unlink()
    words = command("refused", model_name_or_path=base, use_peft=use_peft)
    refuses(words, 2, "is quantised (auto-round) and cannot be trained", tmp_path, capsys)


@engine
def test_keys_that_do_nothing_for_want_of_another_are_named(train, capsys):
    late = {"max_steps": 1, "warmup_steps": 5}
    train(run_name="mine", use_peft="false", ddp_static_graph="true", distill_kind="cosine", **late)
    said = capsys.readouterr()
    for named in ("run_name (report_to is off)", "distill_kind (labels is off)", "lora_r (use_peft is off)"):
        assert (
            f"; {named}" in said.out + said.err
            or f"settings without effect in this run: {named}" in said.out + said.err
        )
    assert "ddp_static_graph (this is one process)" in said.out + said.err
    assert "the learning rate starts at 0 and never reaches" in said.out + said.err


@engine
def test_data_seed_is_the_seed_of_the_order(train):
    one, same, other = (train(name, data_seed=seed) for name, seed in (("a", None), ("b", 42), ("c", 7)))
    assert losses(one) == losses(same) != losses(other)


@engine
def test_four_bits_take_the_precision_of_the_files(train):
    judge = train(load_in_4bit="true", dtype="auto", max_steps=1)
    recorded = json.loads((judge / "judge.json").read_text())["training"]["loaded_in_4bit"]["quantization_config"]
    assert recorded["bnb_4bit_compute_dtype"] == "float32"


@engine
def test_four_bits_are_of_the_kind_that_a_recipe_says(train, monkeypatch):
    bitsandbytes, models = pytest.importorskip("bitsandbytes"), trained_models(monkeypatch)
    kind = {"bnb_4bit_quant_type": "fp4", "use_bnb_nested_quant": "true", "bnb_4bit_quant_storage": "float32"}
    train(load_in_4bit="true", max_steps=1, **kind)
    weights = [each for each in models[0].parameters() if isinstance(each, bitsandbytes.nn.Params4bit)]
    assert len(weights) == 14 and {each.dtype for each in weights} == {torch.float32}
    assert {(each.quant_state.quant_type, each.quant_state.nested) for each in weights} == {("fp4", True)}


@engine
def test_a_training_that_makes_no_step_is_no_judge(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(preparation, "check_rows", lambda *_: None)
    words = command("none", dataloader_drop_last="true", per_device_train_batch_size=300)
    assert main(words) == 3 and not (tmp_path / "none").exists()
    assert "No training step was run" in capsys.readouterr().err
