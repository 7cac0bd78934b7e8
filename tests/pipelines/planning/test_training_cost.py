"""What `--plan` says: against real tensors, closed forms and Trainer's own count."""

import json
import re

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from helpers.training_runs import losses
from sft_judge.cli import main
from sft_judge.data.battles import battle_table
from sft_judge.modeling.architectures import KNOWN_ARCHITECTURES, model_config_of
from sft_judge.modeling.loading import load_model
from sft_judge.modeling.tiny_models import shrink_config
from sft_judge.modeling.tiny_tokenizers import tokenizer_of
from sft_judge.modeling.verdict_head import VerdictHead
from sft_judge.pipelines.planning.step_cost import Ledger, StepCost, step_cost
from sft_judge.pipelines.planning.training_cost import Load, divide_cost, find_gpus, load_of, total_flops
from sft_judge.training.config import JudgeConfig, JudgeModelConfig
from sft_judge.training.losses import verdict_loss

unit, engine = pytest.mark.unit, pytest.mark.engine
R_DROP = {"num_train_epochs": 1, "rdrop_weight": 1.0}
COST = StepCost(100, 10, 800, 200, 40, 80, 300, 50, 600, 60)


def recipe(tmp_path, **changes) -> JudgeConfig:
    return JudgeConfig(output_dir=str(tmp_path), **{"gradient_checkpointing": False, **changes})


def small(model: str):
    return shrink_config(model_config_of(model), tokenizer_of(KNOWN_ARCHITECTURES[model].tokenizer))


@unit
@pytest.mark.parametrize("model", ["Qwen/Qwen2.5-14B-Instruct", "google/gemma-2-9b-it", "microsoft/phi-4"])
def test_the_peak_on_fake_tensors_is_that_on_real_ones(model, tmp_path):
    """The same ledger over a step of a real model with real memory; all parameters trained, plain SGD."""
    from transformers import AutoModelForCausalLM

    config, rows, tokens = small(model), 4, 96
    adapters = JudgeModelConfig(model_name_or_path=model, use_peft=False, dtype="float32")
    cost = step_cost(config, recipe(tmp_path, optim="sgd"), adapters, rows, tokens)
    attention = "eager" if config.model_type == "gemma2" else "sdpa"
    real = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention)
    head = VerdictHead(real, [0, 1], scatter=True)
    ids = torch.zeros(rows, tokens, dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[0, -9:] = 0  # a batch with padding is what is planned for
    ledger = Ledger([*real.parameters(), *real.buffers(), ids, mask])
    with ledger:
        logits = head(real, {"input_ids": ids, "attention_mask": mask}, torch.full((rows,), tokens - 12)).logits
        verdict_loss(logits, torch.ones(rows, 2)).sum().backward()
    gradients = sum(weight.numel() * 4 for weight in real.parameters())
    assert cost.gradients == gradients and cost.optimizer == 0
    assert cost.weights + cost.head == gradients + sum(buffer.numel() * 4 for buffer in real.buffers())
    assert cost.gradients + cost.activations == pytest.approx(ledger.peak, rel=0.02)


@unit
def test_battles_with_soft_labels_alone_are_counted_without_a_tokenizer_too(tmp_path, synthetic_table):
    rows = [{**row, "verdict": None} for row in synthetic_table.slice(0, 5).to_pylist()]
    rows[:3] = [{**row, "soft_a": 0.5, "soft_b": 0.5} for row in rows[:3]]
    load = load_of(battle_table(rows), recipe(tmp_path, swap="both"), None)
    assert (load.battles, len(load.lengths)) == (3, 6)


@unit
def test_flops_are_those_that_torch_counts_and_grow_as_they_should(tmp_path, bases):
    base = str(bases["qwen2"])
    adapters = JudgeModelConfig(model_name_or_path=base, use_peft=False, dtype="float32")
    costs = [step_cost(model_config_of(base), recipe(tmp_path), adapters, 2, tokens) for tokens in (64, 128)]
    assert costs[1].linear_flops == pytest.approx(2 * costs[0].linear_flops, rel=0.01)
    assert costs[1].attention_flops == 4 * costs[0].attention_flops
    model = load_model(base, "float32", attn_implementation="eager")
    with FlopCounterMode(display=False) as counter:
        ids = torch.zeros(2, 64, dtype=torch.long)
        model.model(input_ids=ids, use_cache=False).last_hidden_state[:, -2].sum().backward()
    assert costs[0].linear_flops + costs[0].attention_flops == pytest.approx(counter.get_total_flops(), rel=0.05)


@unit
def test_checkpointing_holds_less_and_computes_more_and_adapters_need_less_state(tmp_path, bases):
    base = str(bases["qwen2"])

    def cost(peft=True, **changes):
        adapters = JudgeModelConfig(model_name_or_path=base, use_peft=peft, lora_r=4, dtype="float32")
        return step_cost(model_config_of(base), recipe(tmp_path, **changes), adapters, 4, 256)

    plain, saved, whole = cost(), cost(gradient_checkpointing=True), cost(peft=False)
    assert saved.activations < 0.8 * plain.activations and saved.linear_flops > 1.2 * plain.linear_flops
    assert plain.trained < whole.trained == whole.parameters == plain.parameters
    assert plain.optimizer == pytest.approx(8 * plain.trained, rel=0.01)
    assert cost(optim="paged_adamw_8bit").optimizer == pytest.approx(2 * plain.trained, rel=0.02)


@unit
def test_packed_weights_are_those_of_bitsandbytes(bases, tmp_path):
    from transformers import BitsAndBytesConfig

    base = str(bases["qwen2"])
    adapters = JudgeModelConfig(
        model_name_or_path=base, use_peft=True, load_in_4bit=True, use_bnb_nested_quant=True, dtype="float32"
    )
    packed = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_use_double_quant=True, bnb_4bit_quant_type="nf4")
    model = load_model(base, "float32", quantization_config=packed)
    real = sum(weight.numel() * weight.element_size() for weight in [*model.parameters(), *model.buffers()])
    scales = sum(
        state.absmax.numel() + 4 * state.state2.absmax.numel()
        for state in (getattr(weight, "quant_state", None) for weight in model.parameters())
        if state is not None
    )
    cost = step_cost(model_config_of(base), recipe(tmp_path), adapters, 2, 64)
    adapter_bytes = 2 * cost.trained  # bfloat16 on packed weights
    assert cost.weights + cost.head - adapter_bytes == pytest.approx(real + scales, rel=0.01)


@unit
def test_launchers_divide_what_they_say():
    one = [divide_cost(COST, name, 1) for name in ("ddp", "zero1", "zero2", "zero3")]
    assert one == [COST] * 4
    ddp, zero1, zero2, zero3 = (divide_cost(COST, name, 4) for name in ("ddp", "zero1", "zero2", "zero3"))
    assert (ddp.optimizer, zero1.optimizer, zero2.gradients, zero3.weights) == (80, 20, 10, 200)
    assert ddp.peak > zero1.peak > zero2.peak > zero3.peak
    assert find_gpus(int(14.2e9))[0] == "T4" and "T4" not in find_gpus(int(14.4e9)) and find_gpus(int(500e9)) == []
    assert find_gpus(int(1e9), bfloat16=True)[0] == "L4"  # a T4 computes in float16 alone


@unit
@pytest.mark.parametrize("changes", [{"num_train_epochs": 1}, {"num_train_epochs": 2.5}, {"max_steps": 7}, R_DROP])
def test_a_runs_flops_are_those_of_its_rows(changes, tmp_path):
    config = recipe(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=3, **changes)
    lengths = np.array([10, 10, 40, 40] * 6)  # two rows a battle: twelve battles, two steps an epoch
    load, epochs = Load(12, lengths), changes.get("num_train_epochs", 3.5)
    epochs *= 2 if changes is R_DROP else 1  # every row goes through the model twice
    by_row = sum(600 / (4 * 40) * length + 60 / (4 * 40**2) * length**2 for length in lengths)
    assert total_flops(COST, load, config, 4, 1) == pytest.approx(epochs * by_row)


@engine
@pytest.mark.parametrize(
    "changes", [{}, {"gradient_accumulation_steps": 3}, {"padding_free": "true", "token_budget": 1500}]
)
def test_steps_are_as_many_as_trainer_makes(changes, train, command, capsys):
    folder = train(max_steps=-1, num_train_epochs=1, **changes)
    assert main([*command(max_steps=-1, num_train_epochs=1, **changes), "--plan"]) == 0
    said = re.search(r"(\d+) steps, \1 per epoch", capsys.readouterr().out)
    assert int(said[1]) == len(losses(folder)) > 3


@engine
def test_a_plan_says_what_fits_reads_no_weights_and_writes_nothing(command, bases, tmp_path, capsys):
    import shutil

    bare = shutil.copytree(bases["qwen2"], tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    before = sorted(tmp_path.rglob("*"))
    assert main([*command(model_name_or_path=bare, output_dir=None), "--plan", "--gpus", "2"]) == 0
    said = capsys.readouterr().out
    parameters = json.loads((tmp_path / "bare" / "config.json").read_text())
    assert parameters["model_type"] == "qwen2" and "parameters, " in said and "6 steps, 8 per epoch" in said
    for word in ("zero3, 2 GPUs", "activations", "T4", "estimated time"):
        assert word in said
    assert sorted(tmp_path.rglob("*")) == before


@engine
def test_a_real_recipe_is_planned_offline_without_battles(capsys):
    assert main(["train", "--config", "phi-4/teacher", "--plan", "--gpus", "8", "--total_budget", "512"]) == 0
    said = capsys.readouterr().out
    assert "14,659,507,200 parameters" in said and "zero2, 8 GPUs" in said
    assert "zero3" not in said  # it does not bear packed weights
