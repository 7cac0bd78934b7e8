"""Save a trained judge atomically and optionally push it to the Hub."""

import json
import os
from pathlib import Path

from huggingface_hub import CommitInfo
from transformers import Trainer

from sft_judge.core.files import write_json
from sft_judge.core.model_files import ADAPTER, BASE, REVISION, TRAINING_LOG
from sft_judge.modeling.hub import push_folder
from sft_judge.modeling.judge_spec import JudgeSpec, write_spec
from sft_judge.training.adapters import save_on_base
from sft_judge.training.config import JudgeConfig
from sft_judge.training.model_card import write_card
from sft_judge.training.summary import trained_spec


def save_judge(trainer: Trainer, folder: Path, output: Path | None = None) -> None:
    """
    Write a judge's folder: weights, tokenizer, model card, training log and judge.json.

    Args:
        trainer: the `JudgeTrainer`.
        folder: folder to write into. An adapter whose initialisation changed the base is saved for the unchanged base.
        output: final place of the folder, from which an adapter's base is found; by default `folder`.
    """
    output = output or folder
    trainer.save_model(str(folder), _internal_call=True)
    if trainer.is_world_process_zero():
        spec = trained_spec(trainer, output)
        if trainer.adapter_start:
            save_on_base(trainer.model, trainer.adapter_start, folder)
        trainer.processing_class.save_pretrained(folder)
        write_card(folder, output.name, spec, trainer.args, trainer.data.sources())
        write_json(folder / TRAINING_LOG, drop_timings(trainer.state.log_history))
        _finish_adapter_config(folder / ADAPTER, spec, output)
        write_spec(folder, spec, bind=True)
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle; judge.json holds the settings as text
    trainer.accelerator.wait_for_everyone()


def push_judge(folder: Path, config: JudgeConfig, message: str | None = None, token: str | None = None) -> CommitInfo:
    """
    Push a judge to `hub_model_id`, by default its folder's name in the user's namespace.

    Args:
        folder: the judge's folder.
        config: settings with the `hub_*` fields.
        message: commit message; see `push_folder` for the default.
        token: Hub token; by default `config.hub_token`.
    """
    name, token = config.hub_model_id or folder.name, token or config.hub_token
    options = {"message": message} if message else {}
    return push_folder(folder, name, private=config.hub_private_repo, token=token, **options)


def drop_timings(history: list[dict]) -> list[dict]:
    """
    Remove times and rates from the log, so that the same training writes the same folder. The manifest has the times.
    """
    return [
        {key: value for key, value in entry.items() if not key.endswith(("_runtime", "_per_second"))}
        for entry in history
    ]


def _finish_adapter_config(file: Path, spec: JudgeSpec, output: Path) -> None:
    """Write a path of the base that works from any folder, and sort the target modules, which PEFT saves as a set."""
    if not file.is_file():
        return
    fields = json.loads(file.read_text(encoding="utf-8"))
    if isinstance(fields.get("target_modules"), list):
        fields["target_modules"] = sorted(fields["target_modules"])
    if spec.base.get("commit"):
        fields |= {BASE: spec.training["base"], REVISION: spec.base["commit"]}
    else:
        fields[BASE] = os.path.normpath(output.resolve() / spec.base["relative"])
    write_json(file, fields)
