"""Battles and labels to the rows of a training, as `sft-judge train` and `JudgeTrainer` both make them."""

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from sft_judge.core.errors import InputError
from sft_judge.core.model_files import is_local
from sft_judge.data.battles import read_battles
from sft_judge.data.preparing.prompt_groups import group_prompts
from sft_judge.data.ties import verdicts_needed
from sft_judge.prompts.identity import check_vocabulary
from sft_judge.prompts.prompt import JudgePrompt
from sft_judge.prompts.templates import read_template
from sft_judge.prompts.verdict_tokens import choose_verdict_words
from sft_judge.training.battle_datasets import battles_of, load_named
from sft_judge.training.config import JudgeConfig
from sft_judge.training.dataset import TrainingData, mix_sources, split_folds, verdict_dataset
from sft_judge.training.run_checks import check_rows
from sft_judge.training.soft_labels import MIN_LABEL, floor_labels, read_teacher_columns, read_teachers

logger = logging.getLogger(__name__)

EVAL = "eval"  # what the only set to evaluate on is called


def read_data(config: JudgeConfig, tokenizer, vocabulary: int) -> TrainingData:
    """Read a recipe's battles and labels and prepare them as `prepare_data` does."""
    train_rows, eval_rows = read_rows(config)
    return prepare_data(config, tokenizer, vocabulary, train_rows, {} if eval_rows is None else {EVAL: eval_rows})


def prepare_data(
    config: JudgeConfig,
    tokenizer,
    vocabulary: int,
    train_rows: pa.Table,
    eval_rows: dict[str, pa.Table],
    labels: list[Path] | None = None,
) -> TrainingData:
    """
    Tokenise battles with their labels; rows of the same content are taken from disk.

    Args:
        config: settings of the training and of the judge.
        tokenizer: of the model.
        vocabulary: how many tokens the model knows.
        train_rows: battles to train on, with columns of TEACHER where a teacher's labels stand beside them.
        eval_rows: battles to evaluate on, by name.
        labels: the teachers' files; left out, those of `config.labels`.

    Raises:
        InputError: settings, battles and labels do not go together.
        GateError: labels are not proven out of fold.
    """
    prompt = judge_prompt(config, tokenizer, train_rows)
    if config.show_language:
        _say_languages(train_rows)
    teacher, num_floored = _teacher(config, train_rows, len(prompt.words), labels or config.labels), 0
    if teacher is not None:
        teacher, num_floored = floor_labels(teacher)
    train_set, counts = verdict_dataset(
        train_rows, prompt, config.swap, config.seed, teacher, config.correct_above, cached=True
    )
    data = TrainingData(train_rows, prompt, train_set, counts | {"labels_floored": num_floored})
    check_rows(config, train_rows, len(train_set))
    check_vocabulary(prompt, vocabulary)
    for name, rows in eval_rows.items():
        data.eval_sets[name], data.eval_groups[name] = prepare_evaluation(config, prompt, rows)
    return data


def _say_languages(rows: pa.Table) -> None:
    none = rows["language"].null_count if "language" in rows.column_names else rows.num_rows
    if none:
        logger.info(f"language: {none} of {rows.num_rows} battles state none, so it is detected from their prompts.")


def prepare_evaluation(config: JudgeConfig, prompt: JudgePrompt, rows: pa.Table) -> tuple[Dataset, np.ndarray]:
    """The rows of battles to evaluate on, each in both orders, and the group of each one's prompt [N]."""
    dataset, _ = verdict_dataset(rows, prompt, "both", config.seed, cached=True)
    return dataset, group_prompts(rows.filter(pc.is_in(rows["id"], pa.array(dataset["id"]))))


def _teacher(config: JudgeConfig, rows: pa.Table, num_verdicts: int, labels) -> dict | None:
    if not labels:
        return read_teacher_columns(rows, num_verdicts, config.teacher_ties, config.external_teacher)
    files = [Path(file) for file in ([labels] if isinstance(labels, str | Path) else labels)]
    options = (config.teacher_ties, config.allow_in_sample, config.external_teacher)
    return read_teachers(files, config.battles_file, rows, num_verdicts, Path(config.output_dir), *options)


def read_rows(config: JudgeConfig) -> tuple[pa.Table, pa.Table | None]:
    """
    The battles that a recipe trains on, mixed as it says, and those it evaluates on: of its fold, or its test split.

    Raises:
        InputError: there are none, a file or data set cannot be read, or an id stands in two of them.
    """
    train, held = choose_rows(config, _read_sources(config))
    if held is None and config.dataset_name and config.eval_strategy != "no":
        held = _read_named(config, config.dataset_name, config.dataset_test_split)
    return train, held


def _read_sources(config: JudgeConfig) -> pa.Table:
    tables = []
    for name in config.battles or []:
        is_file = Path(name).is_file() or is_local(name)
        tables.append(read_battles(Path(name), config.limit) if is_file else _read_named(config, name, "train"))
    if config.dataset_name:
        tables.append(_read_named(config, config.dataset_name, config.dataset_train_split).slice(0, config.limit))
    if len(tables) == 1:
        return tables[0]
    whole = pa.concat_tables(tables, promote_options="default")
    if pc.count_distinct(whole["id"]).as_py() < whole.num_rows:
        raise InputError(
            "An id stands in two of the battles files. Put them together with import --prefix-ids, or prepare."
        )
    return whole


def _read_named(config: JudgeConfig, name: str, split: str) -> pa.Table:
    return battles_of(load_named(name, config.dataset_config, split, config.dataset_revision), name, config.seed)


def choose_rows(config: JudgeConfig, battles: pa.Table) -> tuple[pa.Table, pa.Table | None]:
    """Of all battles those to train on, mixed as the settings say, and those of the fold to evaluate on."""
    train, held = split_folds(battles, config.fold, config.holdout_fold)
    return mix_sources(train, config.mix, config.seed), held


def judge_prompt(config: JudgeConfig, tokenizer, battles: pa.Table) -> JudgePrompt:
    """The prompt that a recipe asks for; K is taken from the battles where the recipe leaves it open."""
    num_verdicts = config.num_verdicts or verdicts_needed(battles)
    template = read_template(config.prompt_template)
    words = config.verdict_words or choose_verdict_words(tokenizer, template, num_verdicts)
    if len(words) != num_verdicts:
        raise InputError(f"{len(words)} verdict_words {words} for {num_verdicts} verdicts.")
    return JudgePrompt(tokenizer, template, words, config.budget, config.show_language, detect=True)


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
