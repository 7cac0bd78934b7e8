"""A run's work in progress: whose it is, and the checkpoint that it goes on from."""

import json
import logging
import shutil
import zipfile
from pathlib import Path

from sft_judge.modeling.loading import check_weights
from sft_judge.training.config import JudgeConfig

logger = logging.getLogger(__name__)


def open_work(work: Path, fingerprint: str, config: JudgeConfig) -> str | None:
    """The checkpoint to go on from, or None for a fresh start; stale work is cleared away."""
    stamp = work / "fingerprint"
    is_same_run = stamp.is_file() and stamp.read_text() == fingerprint
    config.distributed_state.wait_for_everyone()  # every process has looked before one clears and writes
    if not is_same_run and config.process_index == 0:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        stamp.write_text(fingerprint)
    config.distributed_state.wait_for_everyone()
    for checkpoint in _checkpoints(work) if is_same_run else []:
        damage = _damage(checkpoint)
        if config.process_index == 0:
            logger.info(f"{checkpoint} is left out: {damage}." if damage else f"Going on from {checkpoint}.")
        if not damage:
            return str(checkpoint)
    return None


def _checkpoints(work: Path) -> list[Path]:
    """The newest first."""
    return sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.removeprefix("checkpoint-")), reverse=True)


def _damage(checkpoint: Path) -> str | None:
    """What a kill or a full disk has left undone in a checkpoint; None where it can be gone on from."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))  # Trainer writes it last
        check_weights(checkpoint.rglob("*.safetensors"))
    except (OSError, ValueError) as error:  # an InputError is a ValueError
        return " ".join(str(error).split())
    # torch's files are zip archives, whose directory stands at the end
    cut = [file.name for file in checkpoint.rglob("*.pt*") if not zipfile.is_zipfile(file)]
    return f"{cut[0]} is cut short" if cut else None
