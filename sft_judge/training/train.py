"""
Train a judge from a recipe: read the rows, load the model, train, and write the folder atomically.

Unfinished work is kept beside the output in `.NAME.partial`, with the fingerprint of its settings. A run with the same
settings resumes from the last checkpoint; other settings start from step 0. See resume.py.
"""

import copy
import logging
import shutil
from pathlib import Path

from sft_judge.core.errors import GateError, InputError
from sft_judge.core.files import check_folder, partial_path, replace_folder, write_json
from sft_judge.core.write_errors import NamedOutput
from sft_judge.modeling.loading import load_config, load_tokenizer
from sft_judge.training.adapters import adapter_config, describe_adapter, question_tied_weights
from sft_judge.training.base_model import load_base
from sft_judge.training.config import JudgeConfig, JudgeModelConfig
from sft_judge.training.from_python import check_push, locate
from sft_judge.training.learning_rates import question_learning_rate
from sft_judge.training.preparation import read_data
from sft_judge.training.resume import check_same_launch, open_work
from sft_judge.training.run_checks import check_evaluation, check_run, warn_of_unused
from sft_judge.training.saving import drop_timings, push_judge, save_judge
from sft_judge.training.summary import announce_data, measure_costs, plain_values, summarise_training
from sft_judge.training.tokenizer import set_tokens
from sft_judge.training.trainer import JudgeTrainer

logger = logging.getLogger(__name__)

TENSORBOARD_LOGS = "runs"  # folder that Trainer writes into its output folder


def train_judge(config: JudgeConfig, model_config: JudgeModelConfig, fingerprint: str) -> dict:
    """
    Train a judge and write its folder to `config.output_dir`.

    Args:
        config: settings of the training and of the judge; not changed.
        model_config: settings of the base model and of its adapter.
        fingerprint: hash of everything that the result depends on. Unfinished work with another one is deleted.

    Returns:
        Facts for the manifest.

    Raises:
        InputError: settings, battles, labels or model do not fit together.
        GateError: a guard stopped the run, or labels are not proven out of fold.
    """
    output = Path(config.output_dir)
    check_folder(output)
    start = locate(model_config.model_name_or_path, model_config.model_revision, model_config.gguf_file)
    located = copy.copy(model_config)  # names the downloaded folder instead of the Hub id
    located.model_name_or_path = start.folder
    _check_recipe(config)
    check_push(config, start, model_config.use_peft)
    check_run(config, located)
    tokenizer = load_tokenizer(start.folder)
    set_tokens(tokenizer, config)
    data = read_data(config, tokenizer, load_config(start.folder).get_text_config().vocab_size)
    work = partial_path(output)
    check_same_launch(work, fingerprint, config, start.weights)
    if config.process_index == 0:
        warn_of_unused(config, model_config)
    announce_data(config, data)

    model = load_base(located, config)
    lora = adapter_config(model_config, model)
    checkpoint = open_work(work, fingerprint, config, start.weights)
    trainer = JudgeTrainer(
        model=model,
        args=config.with_changes(
            output_dir=str(work),
            push_to_hub=False,
            run_name=config.run_name or f"{output.name}-{fingerprint[:8]}",  # the same when resumed
        ),
        processing_class=tokenizer,
        train_dataset=data,
        peft_config=lora,
        start=start,
    )
    if config.process_index == 0:
        _log_trained_parameters(trainer, lora)
    trained = _fit(trainer, checkpoint)
    result = summarise_training(trainer)
    _finish(trainer, config, output)
    # Only a run that was not resumed measures the cost of the whole training.
    costs = measure_costs(trainer, data, trained) if checkpoint is None else {}
    return (
        result | costs | {"config": plain_values(config.to_dict()), "model_config": plain_values(vars(model_config))}
    )


def _check_recipe(config: JudgeConfig) -> None:
    check_evaluation(config, config.fold is not None or config.dataset_name is not None)
    if config.model_init_kwargs:
        raise InputError(
            "model_init_kwargs is for JudgeTrainer in Python; in a recipe use dtype, attn_implementation, "
            "model_revision and load_in_4bit."
        )


def _finish(trainer: JudgeTrainer, config: JudgeConfig, output: Path) -> None:
    """
    Move the finished judge into place atomically, and push it if asked for. A failed push does not lose the training.
    """
    work = Path(trainer.args.output_dir)
    with NamedOutput(output, work / "judge"):
        save_judge(trainer, work / "judge", output)
    if trainer.is_world_process_zero():
        if (work / TENSORBOARD_LOGS).is_dir():
            (work / TENSORBOARD_LOGS).rename(work / "judge" / TENSORBOARD_LOGS)
        replace_folder(work / "judge", output)
        shutil.rmtree(work, ignore_errors=True)
        if config.push_to_hub:
            try:
                logger.info(f"pushed to {push_judge(output, config).repo_url}")
            except InputError as error:
                name = config.hub_model_id or output.name
                logger.warning(f"{error} To try again: sft-judge push {output} --repo {name}")
    trainer.accelerator.wait_for_everyone()


def _log_trained_parameters(trainer: JudgeTrainer, lora) -> None:
    if lora:
        logger.info(describe_adapter(lora, trainer.model))
    rate, size = trainer.args.learning_rate, trainer.model.num_parameters()
    for doubt in (question_learning_rate(rate, size, lora is not None), lora and question_tied_weights(trainer.model)):
        if doubt:
            logger.warning(doubt)


def _fit(trainer: JudgeTrainer, checkpoint: str | None):
    """Train, from a checkpoint if there is one. If a guard stops the run, its log is written to `stopped.json`."""
    try:
        trained = trainer.train(resume_from_checkpoint=checkpoint)
        if trainer.state.global_step == 0:
            raise GateError("No training step was run: there are too few battles for one batch on all processes.")
        return trained
    except GateError as error:
        if trainer.is_world_process_zero():
            log = drop_timings(trainer.state.log_history)
            stopped = {"status": trainer.status, "why": str(error), "log": log}
            write_json(Path(trainer.args.output_dir) / "stopped.json", stopped)
        raise
