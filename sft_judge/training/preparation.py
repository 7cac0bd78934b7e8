"""Prepare battles and labels as the rows of a training, for `sft-judge train` and `JudgeTrainer`."""

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

EVAL = "eval"  # name of the evaluation set if there is only one


def read_data(config: JudgeConfig, tokenizer, vocabulary: int) -> TrainingData:
    """
    Read a recipe's battles and labels, and prepare them with `prepare_data`.

    Args:
        config: settings of the training and of the judge.
        tokenizer: tokenizer of the model.
        vocabulary: vocabulary size of the model.
    """
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
    Tokenize battles and attach their labels. Rows of the same content are read from the cache on disk.

    Args:
        config: settings of the training and of the judge.
        tokenizer: tokenizer of the model.
        vocabulary: vocabulary size of the model.
        train_rows: battles to train on, with the columns of TEACHER if they carry a teacher's labels.
        eval_rows: battles to evaluate on, by name.
        labels: the teachers' files; by default those of `config.labels`.

    Raises:
        InputError: settings, battles and labels do not fit together.
        GateError: labels are not proven out of fold.
    """
    prompt = judge_prompt(config, tokenizer, train_rows)
    if config.show_language:
        _log_missing_languages(train_rows)
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


def _log_missing_languages(rows: pa.Table) -> None:
    none = rows["language"].null_count if "language" in rows.column_names else rows.num_rows
    if none:
        logger.info(f"language: detected from the prompt in {none} of {rows.num_rows} battles, which do not state it.")


def prepare_evaluation(config: JudgeConfig, prompt: JudgePrompt, rows: pa.Table) -> tuple[Dataset, np.ndarray]:
    """
    Prepare battles for an evaluation in both orders.

    Args:
        config: settings of the training.
        prompt: the judge's prompt.
        rows: the battles.

    Returns:
        The data set, and the group of each row's prompt [N].
    """
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
    Read the battles that a recipe trains on, mixed as `mix` says, and those to evaluate on.

    Returns:
        The training battles, and the evaluation battles (the fold or the test split) or None.

    Raises:
        InputError: there are no battles, a file or data set cannot be read, or an id is in two of them.
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
            "An id is in two of the battles files. Combine the files with import --prefix-ids, or prepare."
        )
    return whole


def _read_named(config: JudgeConfig, name: str, split: str) -> pa.Table:
    return battles_of(load_named(name, config.dataset_config, split, config.dataset_revision), name, config.seed)


def choose_rows(config: JudgeConfig, battles: pa.Table) -> tuple[pa.Table, pa.Table | None]:
    """Split battles into those to train on, mixed as `mix` says, and those of the evaluation fold or None."""
    train, held = split_folds(battles, config.fold, config.holdout_fold)
    return mix_sources(train, config.mix, config.seed), held


def judge_prompt(config: JudgeConfig, tokenizer, battles: pa.Table) -> JudgePrompt:
    """
    Build the prompt that a recipe asks for.

    Args:
        config: settings of the judge. If `num_verdicts` is None, K is taken from the battles.
        tokenizer: tokenizer of the model.
        battles: battles to train on.

    Raises:
        InputError: `verdict_words` and `num_verdicts` contradict each other.
    """
    num_verdicts = config.num_verdicts or verdicts_needed(battles)
    template = read_template(config.prompt_template)
    words = config.verdict_words or choose_verdict_words(tokenizer, template, num_verdicts)
    if len(words) != num_verdicts:
        raise InputError(f"{len(words)} verdict_words {words} for {num_verdicts} verdicts.")
    return JudgePrompt(tokenizer, template, words, config.budget, config.show_language, detect=True)


def describe_counts(counts: dict, total: int) -> str:
    """
    Describe in one line which battles a training sees, and how much of them was truncated.

    Args:
        counts: the counts of `verdict_dataset`.
        total: the total budget in tokens.
    """
    cut = ", ".join(f"{name} {of['battles']} ({of['tokens']} tokens)" for name, of in counts["cut"].items())
    fixed = f"; {counts['corrected']} labels corrected by the teachers" if counts["corrected"] else ""
    if counts.get("labels_floored"):
        fixed += f"; {counts['labels_floored']} teachers' labels had a probability below {MIN_LABEL:g}, raised to it"
    ties = counts["tie_shares_dropped"]
    if ties["battles"]:
        fixed += f"; the share of ties dropped from {ties['battles']} labels, {ties['share']:.1%} of all labels' mass"
    return (
        f"{counts['rows']} battles, {counts['unlabelled']} unlabelled skipped{fixed}; "
        f"truncated to {total} tokens: {cut}"
    )
