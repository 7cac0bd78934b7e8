"""
A recipe to a judge: read the rows, load the model, train, and write a folder that appears when all is done.

Work in progress is kept beside the output in `.NAME.partial`, with the fingerprint of the settings that it belongs to:
the same settings go on from the last checkpoint, others start afresh. See resume.py.
"""

import copy
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from sft_judge.core.errors import GateError, InputError
from sft_judge.core.files import check_folder, partial_path, write_json
from sft_judge.core.model_files import describe_base, weights_hash
from sft_judge.data.battles import read_battles
from sft_judge.data.ties import verdicts_needed
from sft_judge.modeling.hub import model_folder
from sft_judge.modeling.loading import load_config, load_tokenizer
from sft_judge.prompts.identity import check_vocabulary
from sft_judge.prompts.prompt import JudgePrompt
from sft_judge.prompts.templates import read_template
from sft_judge.prompts.verdict_tokens import choose_verdict_words, describe_thought, opened_thought
from sft_judge.training.adapters import adapter_config, changes_base, describe_adapter, keep_start
from sft_judge.training.base_model import check_whole_weights, describe_quantization, load_base
from sft_judge.training.callbacks import EmaCallback
from sft_judge.training.compute_metrics import make_compute_metrics
from sft_judge.training.config import JudgeConfig, JudgeModelConfig
from sft_judge.training.dataset import TrainingData, mix_sources, split_folds, verdict_dataset
from sft_judge.training.learning_rates import question_learning_rate
from sft_judge.training.resume import check_same_launch, open_work
from sft_judge.training.run_checks import check_rows, check_run, warn_of_unused
from sft_judge.training.saving import drop_timings, push_judge, save_judge
from sft_judge.training.soft_labels import MIN_LABEL, floor_labels, read_teachers
from sft_judge.training.summary import judge_spec, measure_costs, plain_values, summarise_training
from sft_judge.training.tokenizer import set_tokens
from sft_judge.training.trainer import JudgeTrainer

logger = logging.getLogger(__name__)


def train_judge(config: JudgeConfig, model_config: JudgeModelConfig, fingerprint: str) -> dict:
    """
    Train a judge and put its folder at `config.output_dir`.

    Args:
        config: settings of the training and of the judge; left as they are.
        model_config: settings of the base model and of its adapter.
        fingerprint: identifies all that the result depends on; unfinished work of another one is thrown away.

    Returns:
        Facts for the manifest.

    Raises:
        InputError: settings, battles, labels or model do not go together.
        GateError: a guard stopped the run, or labels are not proven out of fold.
    """
    output = Path(config.output_dir)
    check_folder(output)
    folder, commit = model_folder(model_config.model_name_or_path, model_config.model_revision)
    located = copy.copy(model_config)  # by its folder, where it was downloaded
    located.model_name_or_path = folder
    check_run(config, located)
    tokenizer = load_tokenizer(folder)
    set_tokens(tokenizer, config)
    data = prepare_data(config, tokenizer)
    check_rows(config, data.rows, len(data.train_set))
    check_vocabulary(data.prompt, load_config(folder).get_text_config().vocab_size)
    work, weights = partial_path(output), weights_hash(folder)
    check_same_launch(work, fingerprint, config, weights)
    if config.process_index == 0:
        warn_of_unused(config, model_config)
        logger.info(describe_counts(data.counts, config.total_budget))
        thought = opened_thought(data.prompt.tail)
        if thought:
            logger.warning(describe_thought(thought))

    model = load_base(located, config)
    base = {"base": model_config.model_name_or_path, **describe_quantization(model)}
    lora = adapter_config(model_config, model)

    checkpoint = open_work(work, fingerprint, config, weights)
    # Trainer would push the work in progress, and SFTTrainer change the tokenizer after the rows were made with it
    changes = {"output_dir": str(work), "push_to_hub": False}
    changes |= dict.fromkeys(("chat_template_path", "eos_token", "pad_token"))
    trainer = make_trainer(config.with_changes(**changes), model, lora, tokenizer, data)
    start = _keep_start(trainer, model_config, config, work)
    trained = _fit(trainer, checkpoint)
    if config.ema_decay and data.eval_set is not None:
        trainer.evaluate()  # the averaged weights, which are those that are kept

    result = summarise_training(config, data, base, trainer)
    spec = judge_spec(config, data.prompt, result)
    if lora:
        spec.base = describe_base(folder, output, weights, commit)
    save_judge(trainer, tokenizer, spec, output, start, data.sources())
    if config.push_to_hub and trainer.is_world_process_zero():
        push_judge(output, config)
    # of a whole run, not of what was left of one
    costs = measure_costs(trainer, data, trained) if checkpoint is None else {}
    return (
        result | costs | {"config": plain_values(config.to_dict()), "model_config": plain_values(vars(model_config))}
    )


def prepare_data(config: JudgeConfig, tokenizer) -> TrainingData:
    """Read a recipe's battles and labels and tokenise them; rows of the same content are taken from disk."""
    train_rows, eval_rows = read_rows(config)
    prompt = judge_prompt(config, tokenizer, train_rows)
    teacher, num_floored = None, 0
    if config.labels:
        files = [Path(file) for file in config.labels]
        options = (config.teacher_ties, config.allow_in_sample, config.external_teacher)
        student = (len(prompt.words), Path(config.output_dir))
        teacher = read_teachers(files, Path(config.battles), train_rows, *student, *options)
        teacher, num_floored = floor_labels(teacher)
    train_set, counts = verdict_dataset(
        train_rows, prompt, config.swap, config.seed, teacher, config.correct_above, cached=True
    )
    data = TrainingData(train_rows, prompt, train_set, counts | {"labels_floored": num_floored})
    if eval_rows is not None:
        data.eval_set, _ = verdict_dataset(eval_rows, prompt, "both", config.seed, cached=True)
        evaluated = eval_rows.filter(pc.is_in(eval_rows["id"], pa.array(data.eval_set["id"])))
        data.compute_metrics = make_compute_metrics(evaluated)
    return data


def read_rows(config: JudgeConfig) -> tuple[pa.Table, pa.Table | None]:
    """The battles that a recipe trains on, mixed as it says, and those it evaluates on."""
    train, held = split_folds(read_battles(Path(config.battles), config.limit), config.fold, config.holdout_fold)
    return mix_sources(train, config.mix, config.seed), held


def judge_prompt(config: JudgeConfig, tokenizer, battles: pa.Table) -> JudgePrompt:
    """The prompt that a recipe asks for; K is taken from the battles where the recipe leaves it open."""
    num_verdicts = config.num_verdicts or verdicts_needed(battles)
    template = read_template(config.prompt_template)
    words = config.verdict_words or choose_verdict_words(tokenizer, template, num_verdicts)
    if len(words) != num_verdicts:
        raise InputError(f"{len(words)} verdict_words {words} for {num_verdicts} verdicts.")
    return JudgePrompt(tokenizer, template, words, config.budget, config.show_language)


def describe_counts(counts: dict, total: int) -> str:
    """What training sees of the battles, in a line."""
    cut = ", ".join(f"{name} {of['battles']} ({of['tokens']} tokens)" for name, of in counts["cut"].items())
    fixed = f"; {counts['corrected']} labels corrected by the teachers" if counts["corrected"] else ""
    if counts.get("labels_floored"):
        fixed += f"; {counts['labels_floored']} teachers' labels held a probability below {MIN_LABEL:g}, now that"
    ties = counts["tie_shares_dropped"]
    if ties["battles"]:
        fixed += f"; a tie's share of {ties['battles']} labels dropped, {ties['share']:.1%} of all labels' mass"
    return f"{counts['rows']} battles, {counts['unlabelled']} unlabelled left out{fixed}; cut to {total} tokens: {cut}"


def make_trainer(config: JudgeConfig, model, lora, tokenizer, data: TrainingData) -> JudgeTrainer:
    """Make the trainer of a run, and say on the first process what is trained."""
    trainer = JudgeTrainer(
        model=model,
        args=config,
        processing_class=tokenizer,
        train_dataset=data.train_set,
        eval_dataset=data.eval_set,
        peft_config=lora,
        compute_metrics=data.compute_metrics,
        verdict_ids=data.prompt.verdict_ids,
    )
    if config.process_index == 0:
        _say_what_is_trained(trainer, lora)
    if config.ema_decay:
        check_whole_weights("ema_decay", config)
        trainer.add_callback(EmaCallback(config.ema_decay))
    return trainer


def _say_what_is_trained(trainer: JudgeTrainer, lora) -> None:
    if lora:
        logger.info(describe_adapter(lora, trainer.model))
    doubt = question_learning_rate(trainer.args.learning_rate, trainer.model.num_parameters(), lora is not None)
    if doubt:
        logger.warning(doubt)


def _keep_start(trainer: JudgeTrainer, model_config: JudgeModelConfig, config: JudgeConfig, work: Path) -> Path | None:
    """Keep the adapter's start, to subtract it at the end, if that start changed the base; else return None."""
    if not changes_base(model_config):
        return None
    check_whole_weights(f"lora_init {model_config.lora_init}", config)
    start = work / "start"
    if config.process_index == 0:
        keep_start(trainer.model, start)
    return start


def _fit(trainer: JudgeTrainer, checkpoint: str | None):
    """Train, from a checkpoint if there is one; a run that a guard stops leaves its log in `stopped.json`."""
    try:
        trained = trainer.train(resume_from_checkpoint=checkpoint)
        if trainer.state.global_step == 0:
            raise GateError("No step was made, so nothing was learnt: too few battles for a batch of all processes.")
        return trained
    except GateError as error:
        if trainer.is_world_process_zero():
            log = drop_timings(trainer.state.log_history)
            stopped = {"status": trainer.status, "why": str(error), "log": log}
            write_json(Path(trainer.args.output_dir) / "stopped.json", stopped)
        raise
