"""
Resume a run: check that unfinished work belongs to the same run, and choose the checkpoint.

A resumed run must be the same run: the same recipe, data and version, and the same battles in each step, which needs
the same number of processes, the same batch sizes and the same precision. `run.json` in the work folder records them.
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
    Describe how a run was launched, besides its recipe.

    Args:
        config: settings of the run.
        base: hash of the base model's weights; a Hub id may refer to other weights later.

    Returns:
        Number of processes, batch sizes, launcher, precision, and versions of the libraries.
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
    """
    Raise `InputError` if the same run was launched differently before: resumed, it would not be the same run.

    Args:
        work: the work folder.
        fingerprint: hash of the recipe, the data and the version.
        config: settings of the run.
        base: hash of the base model's weights.
    """
    before, now = _read_stamp(work), describe_launch(config, base)
    if before.get("fingerprint") != fingerprint:
        return
    changes = [
        f"{name} was {before.get(name)} and is {value}" for name, value in now.items() if before.get(name) != value
    ]
    if changes:
        raise InputError(
            f"{work} holds this run, but it was launched differently: {'; '.join(changes)}. Launch it as before, or "
            "delete that folder to start again from step 0."
        )


def open_work(work: Path, fingerprint: str, config: JudgeConfig, base: str | None = None) -> str | None:
    """
    Prepare the work folder, and choose the checkpoint to resume from. Work of another run is deleted.

    Args:
        work: the work folder.
        fingerprint: hash of the recipe, the data and the version.
        config: settings of the run.
        base: hash of the base model's weights.

    Returns:
        The newest intact checkpoint, or None to start from step 0.
    """
    check_same_launch(work, fingerprint, config, base)
    is_same_run = _read_stamp(work).get("fingerprint") == fingerprint
    config.distributed_state.wait_for_everyone()  # every process reads the stamp before one of them replaces it
    if not is_same_run and config.process_index == 0:
        if work.exists():
            logger.info(f"{work} belongs to another recipe, data or version: starting from step 0.")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        write_json(work / STAMP, {"fingerprint": fingerprint, **describe_launch(config, base)})
    config.distributed_state.wait_for_everyone()
    for checkpoint in _checkpoints(work) if is_same_run else []:
        damage = _damage(checkpoint)
        if config.process_index == 0:
            logger.info(f"Skipping {checkpoint}: {damage}." if damage else f"Resuming from {checkpoint}.")
        if not damage:
            return str(checkpoint)
    return None


def _read_stamp(work: Path) -> dict:
    """Read the `run.json` of a work folder; empty if it is missing or invalid."""
    try:
        stamp = json.loads((work / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def _checkpoints(work: Path) -> list[Path]:
    """List the checkpoints, newest first."""
    return sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True)


def _damage(checkpoint: Path) -> str | None:
    """Describe why a checkpoint cannot be resumed from (truncated, or saved without the optimiser), or return None."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))  # Trainer writes it last
        check_weights(checkpoint.rglob("*.safetensors"))
    except (OSError, ValueError) as error:  # an InputError is a ValueError
        return " ".join(str(error).split())
    # torch's files are zip archives, whose directory is at the end of the file
    cut = [file.name for file in checkpoint.rglob("*.pt*") if not zipfile.is_zipfile(file)]
    if cut:
        return f"{cut[0]} is truncated"
    # DeepSpeed saves optimiser and schedule in `global_step*`, FSDP the optimiser in the folder `optimizer_0`
    by_deepspeed = any(checkpoint.glob("global_step*"))
    if not by_deepspeed and not (any(checkpoint.glob("optimizer*")) and (checkpoint / "scheduler.pt").is_file()):
        return "it has no optimiser state (save_only_model)"
    return None
