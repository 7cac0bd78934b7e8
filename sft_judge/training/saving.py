"""A finished training to a judge's folder, which appears when all is done, and to the hub where that was asked for."""

import json
import logging
import os
import shutil
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError

from sft_judge.core.files import replace_folder, write_json
from sft_judge.core.model_files import ADAPTER, BASE, REVISION
from sft_judge.modeling.judge_spec import JudgeSpec, write_spec
from sft_judge.training.adapters import save_on_base
from sft_judge.training.config import JudgeConfig
from sft_judge.training.model_card import write_card
from sft_judge.training.trainer import JudgeTrainer

logger = logging.getLogger(__name__)


def save_judge(
    trainer: JudgeTrainer, tokenizer, spec: JudgeSpec, output: Path, start: Path | None, sources: list
) -> None:
    """Write the finished judge whole at `output`, its adapter on the base as it was where `start` holds another."""
    config = trainer.args
    work = Path(config.output_dir)
    finished = work / "judge"
    trainer.save_model(str(finished))
    if trainer.is_world_process_zero():
        if start:
            save_on_base(trainer.model, start, finished)
        tokenizer.save_pretrained(finished)
        write_card(finished, output.name, spec, config, sources)
        write_json(finished / "trainer_log.json", drop_timings(trainer.state.log_history))
        _finish_adapter_config(finished / ADAPTER, spec, output)
        write_spec(finished, spec, bind=True)
        (finished / "training_args.bin").unlink(missing_ok=True)  # pickled, and judge.json holds the same as text
        replace_folder(finished, output)
        shutil.rmtree(work, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()


def push_judge(folder: Path, config: JudgeConfig) -> None:
    """
    Upload the finished judge to `hub_model_id`, by default its folder's name in the user's own space.

    A hub that cannot be reached, or refuses, costs no training: it is said, with the command that tries again.
    """
    name, hub = config.hub_model_id or folder.name, HfApi(token=config.hub_token)
    try:
        repo = hub.create_repo(name, private=config.hub_private_repo, exist_ok=True)
        hub.upload_folder(repo_id=repo.repo_id, folder_path=folder, commit_message="A judge trained by sft_judge")
    except (OSError, HTTPError) as error:
        why = " ".join(str(error).split())
        logger.warning(f"not pushed ({why}). Again: hf upload {name} {folder}")
    else:
        logger.info(f"pushed to {repo}")


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
