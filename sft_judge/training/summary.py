"""Summarise a finished training for judge.json and the manifest, and describe its data before it starts."""

import json
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch
from peft import PeftModel
from transformers import Trainer

from sft_judge.core.files import content_hash
from sft_judge.core.model_files import describe_base
from sft_judge.modeling.judge_spec import FILE, JudgeSpec, read_spec
from sft_judge.prompts.identity import record_prompt
from sft_judge.prompts.templates import read_template
from sft_judge.prompts.verdict_tokens import describe_thought, opened_thought
from sft_judge.training.base_model import describe_quantization
from sft_judge.training.config import JudgeConfig
from sft_judge.training.dataset import TrainingData, verdict_shares
from sft_judge.training.machine_defaults import DEFAULTS
from sft_judge.training.preparation import describe_counts

logger = logging.getLogger(__name__)


def summarise_training(trainer: Trainer) -> dict:
    """Summarise what a `JudgeTrainer`'s run trained on and how it ended, for judge.json and the manifest."""
    data, config, base = trainer.data, trainer.args, trainer.start.name
    battles = config.battles_file
    return {
        **data.counts,
        "battles_sha256": battles and content_hash(battles),
        "folds_seen": sorted({*_folds(data.rows), *(_folds_of_base(base, battles) if battles else ())}),
        "verdict_shares": verdict_shares(data.rows, len(data.prompt.words)),
        "base": base,
        **describe_quantization(trainer.model),
        "steps": trainer.state.global_step,
        "status": trainer.status,
        **({"batches_left_out": trainer.skipped} if trainer.skipped else {}),
        "eval": _final_evaluation(trainer),
    }


def trained_spec(trainer: Trainer, output: Path) -> JudgeSpec:
    """
    Build the judge.json of a judge that a `JudgeTrainer` has trained.

    Args:
        trainer: the `JudgeTrainer`.
        output: final folder of the judge.
    """
    config, prompt, start = trainer.args, trainer.data.prompt, trainer.start
    spec = JudgeSpec(
        prompt.words, prompt.verdict_ids, read_template(config.prompt_template), config.budget, config.show_language
    )
    spec.training = {**summarise_training(trainer), "seed": config.seed, "recipe": _recipe(config)}
    spec.frame = record_prompt(prompt)
    if isinstance(trainer.model, PeftModel):
        spec.base = describe_base(start.folder, output, start.weights, start.commit)
    return spec


def announce_data(config: JudgeConfig, data: TrainingData) -> None:
    """
    Log the data of a training and the size of a step on the first process, and warn of an odd prompt end.

    Args:
        config: settings of the training.
        data: the data of the training.
    """
    if config.process_index == 0:
        logger.info(describe_counts(data.counts, config.total_budget))
        logger.info(describe_batch(config, data))
        thought = opened_thought(data.prompt.tail)
        if thought:
            logger.warning(describe_thought(thought))


def describe_batch(config: JudgeConfig, data: TrainingData) -> str:
    """
    Describe in one line how many battles a step has, and how to keep this number with other processes.

    Args:
        config: settings of the training.
        data: the data of the training.
    """
    each, accumulated, processes = config.train_batch_size, config.gradient_accumulation_steps, config.world_size
    battles = each * accumulated * processes
    orders = " in both orders" if config.swap == "both" else ""
    size = "as many battles as token_budget holds" if config.token_budget else f"{battles} battles"
    several = "process" if processes == 1 else "processes"
    return (
        f"a step is {size}{orders}: {each} per batch x {accumulated} accumulated x {processes} {several}, "
        f"{len(data.train_set) / battles:,.0f} steps per epoch. On N processes, keep per_device_train_batch_size x "
        f"gradient_accumulation_steps x N at {battles}"
    )


def measure_costs(trainer: Trainer, data: TrainingData, trained) -> dict:
    """
    Compute a run's training time in seconds, its tokens per second, and its peak GPU memory.

    Args:
        trainer: the `JudgeTrainer`.
        data: the data of the training.
        trained: what `train` returned; the run must not have been resumed.
    """
    tokens, seconds = sum(data.train_set["length"]) * trainer.state.epoch, trained.metrics["train_runtime"]
    costs = {"train_seconds": round(seconds, 1), "tokens_per_second": round(tokens / seconds)}
    if torch.cuda.is_available():
        costs["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return costs


def _recipe(config: JudgeConfig) -> dict:
    """Return the judge's own settings and those of the optimiser as plain values."""
    own = [name for name in JudgeConfig.__annotations__ if name not in DEFAULTS]
    optimiser = ("learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "num_train_epochs", "max_steps")
    batch = ("per_device_train_batch_size", "gradient_accumulation_steps", "max_grad_norm", "optim")
    return plain_values({name: getattr(config, name) for name in (*own, *optimiser, *batch)})


def plain_values(values: dict) -> dict:
    """Convert settings to values that JSON can hold; any other type becomes text."""
    return json.loads(json.dumps(values, default=str))


def _folds(rows: pa.Table) -> list[int]:
    return sorted(set(pc.unique(rows["fold"]).to_pylist()) - {None}) if "fold" in rows.column_names else []


def _folds_of_base(model: str, battles: Path) -> list[int]:
    """Return the folds that the base was already trained on, if it was trained on the same battles file."""
    if not (Path(model) / FILE).is_file():
        return []
    seen = read_spec(model).training
    return seen.get("folds_seen", []) if seen.get("battles_sha256") == content_hash(battles) else []


def _final_evaluation(trainer: Trainer) -> dict:
    """
    Return the evaluation of the saved weights: of the best checkpoint if it is loaded at the end, else the last one.
    """
    logged = [entry for entry in trainer.state.log_history if any(key.startswith("eval_") for key in entry)]
    best = trainer.state.best_global_step if trainer.args.load_best_model_at_end else None
    entries = [entry for entry in logged if best in (None, entry["step"])]
    return {key: value for key, value in entries[-1].items() if key.startswith("eval_")} if entries else {}
