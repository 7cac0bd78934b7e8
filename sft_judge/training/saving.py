"""A finished training to a judge's folder, which appears when all is done, and to the hub where that was asked for."""

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
    Write a judge as a `JudgeTrainer` has it: weights, tokenizer, card, log and judge.json.

    Args:
        trainer: the `JudgeTrainer`.
        folder: to write into. An adapter is put on the base as it was, where its start had changed that.
        output: where the folder will stand in the end, from which an adapter's base is found; by default where it is.
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
        (folder / "training_args.bin").unlink(missing_ok=True)  # pickled, and judge.json holds the same as text
    trainer.accelerator.wait_for_everyone()


def push_judge(folder: Path, config: JudgeConfig, message: str | None = None, token: str | None = None) -> CommitInfo:
    """Push a judge to `hub_model_id`, by default its folder's name in the user's own space; see `push_folder`."""
    name, token = config.hub_model_id or folder.name, token or config.hub_token
    options = {"message": message} if message else {}
    return push_folder(folder, name, private=config.hub_private_repo, token=token, **options)


def drop_timings(history: list[dict]) -> list[dict]:
    """The log without times and rates: the same training makes the same folder. The manifest has the seconds."""
    return [
        {key: value for key, value in entry.items() if not key.endswith(("_runtime", "_per_second"))}
        for entry in history
    ]


def _finish_adapter_config(file: Path, spec: JudgeSpec, output: Path) -> None:
    """Name the base so that it is found from any folder, and sort the modules: PEFT writes a set."""
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
