"""
Estimate of a training run before any weight is loaded: tokens, steps, memory by part, suitable GPUs, hours.

The cost of a step is that of step_cost.py at the longest micro-batch. Its division among N processes follows the
launchers: ZeRO-1 divides the optimizer's state, ZeRO-2 also the gradients, ZeRO-3 and FSDP also the weights
(Rajbhandari et al. 2020, figure 1, https://arxiv.org/abs/1910.02054).
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

# published memory in GB, and bfloat16 TFLOP/s without sparsity (float16 for the T4, which has no bfloat16)
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
WITHOUT_BFLOAT16 = ("T4",)
RESERVE, SLACK = 1.0, 1.05  # GB of the CUDA context; factor for memory that the allocator cannot use
UTILISATION = 0.4  # share of the published rate, assumed for the hours and stated with them
LAUNCHERS = ("ddp", "zero1", "zero2", "zero3")
PARTS = ("weights", "head", "gradients", "optimizer", "activations")
CHARACTERS_A_TOKEN, FRAME = 3.5, 120  # to estimate the tokens of a row without a tokenizer; tokens of the template


@dataclass(frozen=True)
class Load:
    """
    Data of one epoch.

    Attributes:
        battles: number of battles.
        lengths: tokens of each row `[rows]`.
        counted: True if the tokenizer counted the tokens, False if they are estimated.
    """

    battles: int
    lengths: np.ndarray
    counted: bool = True

    @property
    def longest(self) -> int:
        """Return the tokens of the longest row, which determines the peak memory."""
        return int(self.lengths.max())


@dataclass(frozen=True)
class RunPlan:
    """
    Estimate of a run.

    Attributes:
        cost: cost of a micro-batch of `rows` rows.
        rows: rows of a micro-batch.
        longest: tokens of the longest row.
        parts: cost on each GPU, by launcher.
        flops: FLOPs of each GPU in the whole run, None if the data are unknown.
        bfloat16: the weights are in bfloat16.
    """

    cost: StepCost
    rows: int
    longest: int
    parts: dict[str, StepCost]
    flops: float | None
    bfloat16: bool

    @property
    def gpus(self) -> list[str]:
        """Return the GPUs that hold the run under the launcher with the lowest peak."""
        return find_gpus(min(part.peak for part in self.parts.values()), self.bfloat16)


def load_of(battles: pa.Table, config: JudgeConfig, prompt: JudgePrompt | None) -> Load:
    """
    Compute the data of one epoch.

    Args:
        battles: the battles.
        config: settings of the training.
        prompt: the judge's prompt; None estimates tokens from characters.
    """
    if prompt is not None:
        dataset, _ = verdict_dataset(battles, prompt, config.swap, config.seed, cached=True)
        rows = pc.list_flatten(dataset.data["input_ids"])
        return Load(len(dataset), np.array(pc.list_value_length(rows)))
    kept = battles.filter(pa.array(has_label(battles))).select(list(FIELDS)).to_pylist()
    characters = np.array([sum(len(turn) for name in FIELDS for turn in row[name]) for row in kept])
    lengths = np.minimum(characters / CHARACTERS_A_TOKEN + FRAME, config.total_budget).astype(int)
    return Load(len(kept), np.repeat(lengths, views_of(config)), counted=False)


def views_of(config: JudgeConfig) -> int:
    """Return the number of rows per battle."""
    return 2 if config.swap == "both" else 1


def passes_of(config: JudgeConfig) -> int:
    """Return how often a step's rows go through the model: twice with R-Drop."""
    return 2 if config.rdrop_weight > 0 else 1


def steps_of(load: Load, config: JudgeConfig, gpus: int) -> int:
    """
    Return the optimizer steps of the run, as counted by Trainer.

    Args:
        load: data of one epoch.
        config: settings of the training.
        gpus: number of GPUs.
    """
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
    """
    Compute the cost on each of several GPUs.

    Args:
        cost: cost on one GPU.
        launcher: one of LAUNCHERS.
        gpus: number of GPUs.
    """
    if gpus == 1:
        return cost
    if launcher == "ddp":
        return replace(cost, gradients=2 * cost.gradients)  # DDP copies the gradients into communication buckets
    shares = {"optimizer": cost.optimizer // gpus}
    if launcher in ("zero2", "zero3"):
        shares["gradients"] = cost.gradients // gpus
    if launcher == "zero3":
        shares |= {"weights": cost.weights // gpus, "head": cost.head // gpus}
        shares["activations"] = cost.activations + 2 * cost.largest_layer  # gathered: one in use, one prefetched
    return replace(cost, **shares)


def needed_memory(peak: int) -> float:
    """Return the GB that a GPU must have for a peak of so many bytes."""
    return peak / 1e9 * SLACK + RESERVE


def find_gpus(peak: int, bfloat16: bool = False) -> list[str]:
    """
    Return the GPUs that hold a run, smallest first.

    Args:
        peak: peak memory of the run in bytes.
        bfloat16: the run computes in bfloat16, so that a GPU must have it.
    """
    without = WITHOUT_BFLOAT16 if bfloat16 else ()
    return [name for name, (size, _) in GPUS.items() if needed_memory(peak) <= size and name not in without]


def total_flops(cost: StepCost, load: Load, config: JudgeConfig, rows: int, gpus: int) -> float:
    """
    Compute the FLOPs of the whole run.

    Args:
        cost: cost of a micro-batch of `rows` rows of the longest length.
        load: data of one epoch.
        config: settings of the training.
        rows: rows of the micro-batch.
        gpus: number of GPUs.
    """
    epoch = flops_of(cost, load.lengths, rows, load.longest) * passes_of(config)
    return epoch * epochs_of(load, config, gpus)


def flops_of(cost, lengths: np.ndarray, rows: int, longest: int) -> float:
    """
    Compute the FLOPs of rows of given lengths, scaled from a measured micro-batch.

    Args:
        cost: cost of `rows` rows of `longest` tokens.
        lengths: tokens of each row.
        rows: rows of the micro-batch.
        longest: tokens of each of its rows.
    """
    linear = cost.linear_flops / (rows * longest) * lengths.sum()
    return linear + cost.attention_flops / (rows * longest**2) * (lengths.astype(float) ** 2).sum()


def epochs_of(load: Load, config: JudgeConfig, gpus: int) -> float:
    """
    Return the number of epochs of the run.

    Args:
        load: data of one epoch.
        config: settings of the training.
        gpus: number of GPUs.
    """
    return config.max_steps / _steps_an_epoch(load, config, gpus) if config.max_steps > 0 else config.num_train_epochs


def hours(flops: float, gpu: str) -> float:
    """
    Estimate the hours on a GPU at UTILISATION of its published rate.

    Args:
        flops: FLOPs.
        gpu: one of GPUS.
    """
    return flops / (GPUS[gpu][1] * 1e12 * UTILISATION) / 3600


def describe_time(hours_taken: float) -> str:
    """Describe a duration in hours, or in minutes if it is below one hour."""
    if hours_taken >= 1:
        return f"{hours_taken:,.1f} h"
    return f"{60 * hours_taken:.0f} min" if hours_taken >= 1 / 60 else "below 1 min"


def cost_of_run(config: JudgeConfig, adapters: JudgeModelConfig, load: Load | None, gpus: int) -> RunPlan:
    """
    Estimate a run.

    Args:
        config: settings of the training.
        adapters: settings of the model and its adapter.
        load: data of one epoch; without data, rows are assumed as long as the budget allows.
        gpus: number of GPUs.
    """
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
    packed = adapters.load_in_4bit or adapters.load_in_8bit  # ZeRO-3 does not support quantised weights
    parts = {name: divide_cost(cost, name, gpus) for name in LAUNCHERS[: 1 if gpus == 1 else len(LAUNCHERS) - packed]}
    flops = None if load is None else total_flops(cost, load, config, rows, gpus) / gpus
    return RunPlan(cost, rows, longest, parts, flops, adapters.dtype == "bfloat16")


def describe_plan(config: JudgeConfig, adapters: JudgeModelConfig, load: Load | None, gpus: int) -> str:
    """
    Describe the estimate of a run in words, for the terminal.

    Args:
        config: settings of the training.
        adapters: settings of the model and its adapter.
        load: data of one epoch, if known.
        gpus: number of GPUs.
    """
    run = cost_of_run(config, adapters, load, gpus)
    lines = [f"{adapters.model_name_or_path}: {run.cost.parameters:,} parameters, {run.cost.trained:,} trained"]
    if load is not None:
        how = "" if load.counted else " (estimated from characters: the tokenizer is not available)"
        lines += [
            f"{load.battles:,} battles, {load.lengths.sum():,} tokens per epoch{how}; "
            f"{steps_of(load, config, gpus):,} steps, {_steps_an_epoch(load, config, gpus):,} per epoch"
        ]
    flops = (run.cost.linear_flops + run.cost.attention_flops) / 1e12
    lines += [f"micro-batch: {run.rows} rows of up to {run.longest:,} tokens, {flops:,.1f} TFLOP", ""]
    lines += _table(run, gpus)
    if run.flops is not None:
        lines += ["", _times(run.flops, run.gpus)]
    return "\n".join(lines)


def _table(run: RunPlan, gpus: int) -> list[str]:
    """Build a line for each launcher with GB on each GPU."""
    lines = [f"GB on each GPU  {''.join(f'{name:>12}' for name in PARTS)}{'peak':>12}  fits"]
    for launcher, part in run.parts.items():
        sizes = "".join(f"{getattr(part, name) / 1e9:>12.2f}" for name in (*PARTS, "peak"))
        label = "one GPU" if gpus == 1 else f"{launcher}, {gpus} GPUs"
        lines.append(f"{label:<16}{sizes}  {', '.join(find_gpus(part.peak, run.bfloat16)) or 'none of these'}")
    return lines


def _times(flops: float, gpus: list[str]) -> str:
    shown = ", ".join(f"{name} {describe_time(hours(flops, name))}" for name in gpus) or "no GPU holds it"
    return f"estimated time: {flops:.2e} FLOP per GPU at {UTILISATION:.0%} of its published rate: {shown}"


def read_load(config: JudgeConfig, model_config: JudgeModelConfig) -> Load | None:
    """
    Read and check the data of a run, or return None if it names no battles.

    Apart from the battles only the tokenizer is read.

    Args:
        config: settings of the training.
        model_config: settings of the model.
    """
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
    """
    Describe the estimate of a run in words; only the battles, the tokenizer and a GGUF file are loaded.

    Args:
        config: settings of the training.
        model_config: settings of the model.
        gpus: number of GPUs.
    """
    if model_config.gguf_file:
        model_config = copy.copy(model_config)
        place = (model_config.model_name_or_path, model_config.model_revision, model_config.gguf_file)
        model_config.model_name_or_path = model_folder(*place)[0]
    return describe_plan(config, model_config, read_load(config, model_config), gpus)
