"""
A run's work in progress: whose it is, how it was launched, and the checkpoint that it goes on from.

A run that goes on is the same run: the same recipe, data and version, and the same battles in each step, so as many
processes, batches and the same precision. `run.json` in the work folder holds all of it.
"""

import json
import logging
import shutil
import zipfile
from pathlib import Path

from sft_judge.core.errors import InputError
from sft_judge.core.files import write_json
from sft_judge.core.manifest import versions
from sft_judge.modeling.loading import check_weights
from sft_judge.training.config import JudgeConfig
from sft_judge.training.machine_defaults import uses_fsdp

logger = logging.getLogger(__name__)

STAMP = "run.json"
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "deepspeed")


def describe_launch(config: JudgeConfig, base: str | None = None) -> dict:
    """
    What a launch adds to a recipe.

    Args:
        config: of the run.
        base: hash of the base's weights, as a hub id may mean other ones by now.

    Returns:
        Processes and their batches, who divides the model, the precision, and the versions of the libraries.
    """
    launcher = "DDP" if config.world_size > 1 else "one process"
    if config.deepspeed_plugin:
        launcher = f"DeepSpeed ZeRO-{config.deepspeed_plugin.zero_stage}"
    elif uses_fsdp():
        launcher = "FSDP"
    return {
        "processes": config.world_size,
        "per_device_train_batch_size": config.train_batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "launcher": launcher,
        "mixed precision": config.mixed_precision,
        "device": config.device.type,
        "base": base,
        **{name: number for name, number in versions().items() if name in LIBRARIES},
    }


def check_same_launch(work: Path, fingerprint: str, config: JudgeConfig, base: str | None = None) -> None:
    """Raise `InputError` where this very run was launched otherwise: its steps would hold other battles."""
    before, now = _read_stamp(work), describe_launch(config, base)
    if before.get("fingerprint") != fingerprint:
        return
    changes = [
        f"{name} was {before.get(name)} and is {value}" for name, value in now.items() if before.get(name) != value
    ]
    if changes:
        raise InputError(
            f"{work} holds this run, begun in another launch: {'; '.join(changes)}. Launch it as before, or delete "
            "that folder to start afresh."
        )


def open_work(work: Path, fingerprint: str, config: JudgeConfig, base: str | None = None) -> str | None:
    """The checkpoint to go on from, or None for a fresh start; stale work is cleared away."""
    check_same_launch(work, fingerprint, config, base)
    is_same_run = _read_stamp(work).get("fingerprint") == fingerprint
    config.distributed_state.wait_for_everyone()  # every process has looked before one clears and writes
    if not is_same_run and config.process_index == 0:
        if work.exists():
            logger.info(f"{work} is of another recipe, data or version: starting afresh.")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        write_json(work / STAMP, {"fingerprint": fingerprint, **describe_launch(config, base)})
    config.distributed_state.wait_for_everyone()
    for checkpoint in _checkpoints(work) if is_same_run else []:
        damage = _damage(checkpoint)
        if config.process_index == 0:
            logger.info(f"{checkpoint} is left out: {damage}." if damage else f"Going on from {checkpoint}.")
        if not damage:
            return str(checkpoint)
    return None


def _read_stamp(work: Path) -> dict:
    """What a work folder says of its run; empty where it says nothing that can be read."""
    try:
        stamp = json.loads((work / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def _checkpoints(work: Path) -> list[Path]:
    """The newest first."""
    return sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True)


def _damage(checkpoint: Path) -> str | None:
    """What a checkpoint lacks, by a kill, a full disk or its recipe; None where it can be gone on from."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))  # Trainer writes it last
        check_weights(checkpoint.rglob("*.safetensors"))
    except (OSError, ValueError) as error:  # an InputError is a ValueError
        return " ".join(str(error).split())
    # torch's files are zip archives, whose directory stands at the end
    cut = [file.name for file in checkpoint.rglob("*.pt*") if not zipfile.is_zipfile(file)]
    if cut:
        return f"{cut[0]} is cut short"
    # DeepSpeed keeps both in `global_step*`, FSDP the optimiser in the folder `optimizer_0`
    by_deepspeed = any(checkpoint.glob("global_step*"))
    if not by_deepspeed and not (any(checkpoint.glob("optimizer*")) and (checkpoint / "scheduler.pt").is_file()):
        return "it has no optimiser to go on with (save_only_model)"
    return None
