"""
What a run will take, before a weight is loaded: tokens, steps, memory by part, GPUs that it fits, hours.

The step's cost is that of step_cost.py at the longest micro-batch. How it is divided among N processes follows the
launchers: ZeRO-1 divides the optimizer's state, ZeRO-2 the gradients too, ZeRO-3 and FSDP the weights too (Rajbhandari
et al. 2020, figure 1, https://arxiv.org/abs/1910.02054).
"""

import copy
import math
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.battles import FIELDS, has_label
from sft_judge.modeling.architectures import model_config_of, tokenizer_at_hand
from sft_judge.modeling.hub import model_folder
from sft_judge.pipelines.planning.step_cost import StepCost, deep_step_cost
from sft_judge.prompts.identity import check_vocabulary
from sft_judge.prompts.prompt import JudgePrompt
from sft_judge.training.config import JudgeConfig, JudgeModelConfig
from sft_judge.training.dataset import verdict_dataset
from sft_judge.training.preparation import judge_prompt, read_rows
from sft_judge.training.samplers import num_micro_batches
from sft_judge.training.tokenizer import set_tokens

# name: memory in GB as published, bfloat16 TFLOP/s without sparsity (float16 for the T4, which has no bfloat16)
GPUS = {
    "T4": (16, 65),
    "L4": (24, 121),
    "RTX 4090": (24, 165),
    "A100 40 GB": (40, 312),
    "L40S": (48, 362),
    "A100 80 GB": (80, 312),
    "H100": (80, 989),
    "H200": (141, 989),
}
RESERVE, SLACK = 1.0, 1.05  # GB of the CUDA context; what the allocator cannot use
UTILISATION = 0.4  # of the peak rate: the stated assumption behind the hours
LAUNCHERS = ("ddp", "zero1", "zero2", "zero3")
PARTS = ("weights", "head", "gradients", "optimizer", "activations")
CHARACTERS_A_TOKEN, FRAME = 3.5, 120  # of a row, where no tokenizer can count


@dataclass(frozen=True)
class Load:
    """An epoch: battles, and the tokens [rows] of their rows; `counted` by the tokenizer, or estimated."""

    battles: int
    lengths: np.ndarray
    counted: bool = True

    @property
    def longest(self) -> int:
        """Tokens of the longest row, which decides what fits."""
        return int(self.lengths.max())


@dataclass(frozen=True)
class RunPlan:
    """A run in numbers: `parts` by launcher, on each GPU; `flops` of each GPU, None where the load is not known."""

    cost: StepCost  # of a micro-batch of `rows` rows
    rows: int
    longest: int
    parts: dict[str, StepCost]
    flops: float | None

    @property
    def gpus(self) -> list[str]:
        """Those that hold it under the launcher that needs least."""
        return find_gpus(min(part.peak for part in self.parts.values()))


def load_of(battles: pa.Table, config: JudgeConfig, prompt: JudgePrompt | None) -> Load:
    """What a run would train on; without a tokenizer (`prompt`), tokens are estimated from characters."""
    if prompt is not None:
        dataset, _ = verdict_dataset(battles, prompt, config.swap, config.seed, cached=True)
        rows = pc.list_flatten(dataset.data["input_ids"])
        return Load(len(dataset), np.array(pc.list_value_length(rows)))
    kept = battles.filter(pa.array(has_label(battles))).select(list(FIELDS)).to_pylist()
    characters = np.array([sum(len(turn) for name in FIELDS for turn in row[name]) for row in kept])
    lengths = np.minimum(characters / CHARACTERS_A_TOKEN + FRAME, config.total_budget).astype(int)
    return Load(len(kept), np.repeat(lengths, views_of(config)), counted=False)


def views_of(config: JudgeConfig) -> int:
    """Rows a battle."""
    return 2 if config.swap == "both" else 1


def passes_of(config: JudgeConfig) -> int:
    """How often a step's rows go through the model: twice with R-Drop."""
    return 2 if config.rdrop_weight > 0 else 1


def steps_of(load: Load, config: JudgeConfig, gpus: int) -> int:
    """Optimizer steps of the run, as Trainer counts them."""
    if config.max_steps > 0:
        return config.max_steps
    return math.ceil(_steps_an_epoch(load, config, gpus) * config.num_train_epochs)


def _steps_an_epoch(load: Load, config: JudgeConfig, gpus: int) -> int:
    accumulated = config.gradient_accumulation_steps
    if config.token_budget:
        of_battles = load.lengths.reshape(load.battles, -1).sum(axis=1)
        return num_micro_batches(of_battles, config.token_budget, gpus * accumulated) // (gpus * accumulated)
    batches = math.ceil(load.battles / (config.per_device_train_batch_size * gpus))
    return math.ceil(batches / accumulated)


def divide_cost(cost: StepCost, launcher: str, gpus: int) -> StepCost:
    """The cost on each of so many GPUs."""
    if gpus == 1:
        return cost
    if launcher == "ddp":
        return replace(cost, gradients=2 * cost.gradients)  # once more in the buckets that are exchanged
    shares = {"optimizer": cost.optimizer // gpus}
    if launcher in ("zero2", "zero3"):
        shares["gradients"] = cost.gradients // gpus
    if launcher == "zero3":
        shares |= {"weights": cost.weights // gpus, "head": cost.head // gpus}
        shares["activations"] = cost.activations + 2 * cost.largest_layer  # gathered: one in use, one on its way
    return replace(cost, **shares)


def find_gpus(peak: int) -> list[str]:
    """The GPUs that hold so many bytes, smallest first."""
    return [name for name, (size, _) in GPUS.items() if peak / 1e9 * SLACK + RESERVE <= size]


def total_flops(cost: StepCost, load: Load, config: JudgeConfig, rows: int, gpus: int) -> float:
    """Of the whole run, from the cost of a micro-batch of `rows` rows as long as the longest."""
    epoch = flops_of(cost, load.lengths, rows, load.longest) * passes_of(config)
    return epoch * epochs_of(load, config, gpus)


def flops_of(cost, lengths: np.ndarray, rows: int, longest: int) -> float:
    """Of rows of these lengths, from the cost of `rows` rows of `longest` tokens."""
    linear = cost.linear_flops / (rows * longest) * lengths.sum()
    return linear + cost.attention_flops / (rows * longest**2) * (lengths.astype(float) ** 2).sum()


def epochs_of(load: Load, config: JudgeConfig, gpus: int) -> float:
    """How often the run sees its rows."""
    return config.max_steps / _steps_an_epoch(load, config, gpus) if config.max_steps > 0 else config.num_train_epochs


def hours(flops: float, gpu: str) -> float:
    """An estimate: at UTILISATION of the published rate."""
    return flops / (GPUS[gpu][1] * 1e12 * UTILISATION) / 3600


def cost_of_run(config: JudgeConfig, adapters: JudgeModelConfig, load: Load | None, gpus: int) -> RunPlan:
    """The numbers of a run. Without battles (`load`) rows are as long as the budget allows."""
    longest = config.total_budget if load is None else load.longest
    if config.pad_to_multiple_of and not config.padding_free:
        longest += -longest % config.pad_to_multiple_of
    rows = views_of(config) * config.per_device_train_batch_size
    if config.token_budget:
        rows = max(1, config.token_budget // longest)
    rows *= passes_of(config)
    cost = deep_step_cost(
        model_config_of(adapters.model_name_or_path, adapters.model_revision), config, adapters, rows, longest
    )
    packed = adapters.load_in_4bit or adapters.load_in_8bit  # which ZeRO-3 does not bear
    parts = {name: divide_cost(cost, name, gpus) for name in LAUNCHERS[: 1 if gpus == 1 else len(LAUNCHERS) - packed]}
    flops = None if load is None else total_flops(cost, load, config, rows, gpus) / gpus
    return RunPlan(cost, rows, longest, parts, flops)


def describe_plan(config: JudgeConfig, adapters: JudgeModelConfig, load: Load | None, gpus: int) -> str:
    """The plan in words, for the terminal."""
    run = cost_of_run(config, adapters, load, gpus)
    lines = [f"{adapters.model_name_or_path}: {run.cost.parameters:,} parameters, {run.cost.trained:,} trained"]
    if load is not None:
        how = "" if load.counted else " (by characters: the tokenizer is not here)"
        lines += [
            f"{load.battles:,} battles, {load.lengths.sum():,} tokens an epoch{how}; "
            f"{steps_of(load, config, gpus):,} steps, {_steps_an_epoch(load, config, gpus):,} an epoch"
        ]
    flops = (run.cost.linear_flops + run.cost.attention_flops) / 1e12
    lines += [f"a micro-batch: {run.rows} rows of up to {run.longest:,} tokens, {flops:,.1f} TFLOP", ""]
    lines += _table(run.parts, gpus)
    if run.flops is not None:
        lines += ["", _times(run.flops, run.gpus)]
    return "\n".join(lines)


def _table(parts: dict[str, StepCost], gpus: int) -> list[str]:
    """A line for each launcher: GB on each GPU."""
    lines = [f"GB on each GPU  {''.join(f'{name:>12}' for name in PARTS)}{'peak':>12}  fits"]
    for launcher, part in parts.items():
        sizes = "".join(f"{getattr(part, name) / 1e9:>12.2f}" for name in (*PARTS, "peak"))
        label = "one GPU" if gpus == 1 else f"{launcher}, {gpus} GPUs"
        lines.append(f"{label:<16}{sizes}  {', '.join(find_gpus(part.peak)) or 'none of these'}")
    return lines


def _times(flops: float, gpus: list[str]) -> str:
    shown = ", ".join(f"{name} {hours(flops, name):.1f} h" for name in gpus) or "no GPU holds it"
    return f"time, an estimate: {flops:.2e} FLOP a GPU at {UTILISATION:.0%} of its published rate: {shown}"


def read_load(config: JudgeConfig, model_config: JudgeModelConfig) -> Load | None:
    """The load of a run, None where it names no battles; nothing else but the tokenizer is read, and checked."""
    battles = read_rows(config)[0] if config.battles or config.dataset_name else None
    model, prompt = (model_config.model_name_or_path, model_config.model_revision), None
    tokenizer = tokenizer_at_hand(*model)
    if tokenizer:
        set_tokens(tokenizer, config)
        if battles is None:
            config = config.with_changes(num_verdicts=config.num_verdicts or len(VERDICTS))
        prompt = judge_prompt(config, tokenizer, battles)
        check_vocabulary(prompt, model_config_of(*model).get_text_config().vocab_size)
    return None if battles is None else load_of(battles, config, prompt)


def plan_training(config: JudgeConfig, model_config: JudgeModelConfig, gpus: int) -> str:
    """What the run would take, in words; nothing is loaded but the battles and the tokenizer, and a GGUF file."""
    if model_config.gguf_file:
        model_config = copy.copy(model_config)
        place = (model_config.model_name_or_path, model_config.model_revision, model_config.gguf_file)
        model_config.model_name_or_path = model_folder(*place)[0]
    return describe_plan(config, model_config, read_load(config, model_config), gpus)
