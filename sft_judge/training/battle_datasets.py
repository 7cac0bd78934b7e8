"""
Data sets in memory or from the hub to battles, read as `sft-judge import` reads files, by the same code.

`datasets` maps them and keeps the result on disk by the fingerprint of the data set, mapped into memory.
"""

import logging
from functools import partial

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, IterableDataset, Value
from huggingface_hub.errors import HTTPError

from sft_judge.core.errors import InputError, one_line
from sft_judge.data.battles import COLUMNS
from sft_judge.data.importing.conversation import RowError
from sft_judge.data.importing.formats import detect_format, to_battle
from sft_judge.data.importing.labels import Reading, Sides
from sft_judge.training.soft_labels import TEACHER

logger = logging.getLogger(__name__)

REJECTED = "why it is no battle"
ROWS_LOOKED_AT = 50  # to tell the formats apart


def battles_of(dataset, name: str, seed: int) -> pa.Table:
    """
    The battles of a data set.

    Args:
        dataset: a `datasets.Dataset` with the columns of battles, of TRL's preference data or of a competition, or a
            table of battles, which is returned as it is.
        name: what it is called in messages, and in the ids of rows that have none.
        seed: of the side on which a chosen response stands.

    Returns:
        A table of COLUMNS, those of TEACHER with it where the data set has them. Rows that are no battle are left out,
        and their number is logged.

    Raises:
        InputError: it is no `Dataset`, its columns are not those of battles, no row is one, or an id stands twice.
    """
    if isinstance(dataset, pa.Table):
        return dataset
    if isinstance(dataset, IterableDataset):
        raise InputError(
            f"{name} is an IterableDataset, but verdicts and sources are spread evenly over a run, which takes the "
            "whole set. Give a Dataset, such as that of load_dataset without streaming, or Dataset.from_generator."
        )
    if not isinstance(dataset, Dataset):
        raise InputError(f"{name} is a {type(dataset).__name__}, expected a datasets.Dataset.")
    if not len(dataset):
        raise InputError(f"{name} has no rows.")
    dataset = _with_names(dataset.with_format(None))
    columns = [*dataset.column_names, *([] if "id" in dataset.column_names else ["id"])]
    first_rows = list(dataset.select(range(min(ROWS_LOOKED_AT, len(dataset)))))
    format_name = detect_format(name, columns, first_rows)
    teacher = [column for column in TEACHER if column in dataset.column_names]
    schema = pa.schema([*COLUMNS.items(), (REJECTED, pa.string()), *((column, pa.float64()) for column in teacher)])
    shown = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        read = dataset.map(
            partial(_read_batch, format_name=format_name, name=name, seed=seed, teacher=teacher),
            with_indices=True,
            batched=True,
            remove_columns=dataset.column_names,
            features=Features.from_arrow_schema(schema),
        )
    finally:
        if not shown:
            datasets.enable_progress_bars()
    return _kept(read, name, format_name)


def load_named(name: str, config: str | None, split: str, revision: str | None) -> Dataset:
    """A split of a data set of the hub, or of a folder. Raises `InputError` where it cannot be had."""
    try:
        return datasets.load_dataset(name, config, split=split, revision=revision)
    except (OSError, ValueError, RuntimeError, HTTPError, datasets.exceptions.DatasetsError) as error:
        raise InputError(f"dataset {name}, split {split}: it cannot be had ({one_line(error)}).") from error


def _with_names(dataset: Dataset) -> Dataset:
    """Labels of a class as their names."""
    for column, feature in dataset.features.items():
        if isinstance(feature, ClassLabel):
            dataset = dataset.map(
                lambda batch, column=column, feature=feature: {column: feature.int2str(batch[column])},
                batched=True,
                features=Features({**dataset.features, column: Value("string")}),
            )
    return dataset


def _read_batch(batch: dict, indices: list[int], *, format_name: str, name: str, seed: int, teacher: list) -> dict:
    """A batch of rows as columns of battles; a row that is none has its reason."""
    reading = Reading(Sides(seed + indices[0]))
    rows = []
    for index, values in zip(indices, zip(*batch.values(), strict=True), strict=True):
        row = dict(zip(batch, values, strict=True))
        row.setdefault("id", f"{name}-{index}")
        try:
            battle = to_battle(row, format_name, name, index, reading)
        except RowError as error:
            battle = {"id": str(row["id"]), REJECTED: f"row {index}, {error.field}: {error.reason}"}
        rows.append({**battle, **{column: row[column] for column in teacher}})
    return {column: [row.get(column) for row in rows] for column in (*COLUMNS, REJECTED, *teacher)}


def _kept(read: Dataset, name: str, format_name: str) -> pa.Table:
    table = read.data.table
    rejected = table[REJECTED].drop_null()
    if len(rejected) == table.num_rows:
        raise InputError(
            f"{name}: none of its {table.num_rows} rows is a battle; {rejected[0]}. Read as {format_name!r}."
        )
    if len(rejected):
        logger.warning(f"{name}: {len(rejected)} of {table.num_rows} rows are no battles, left out; {rejected[0]}.")
        table = table.filter(pc.is_null(table[REJECTED]))
    ids = pc.value_counts(table["id"])
    twice = ids.filter(pc.greater(ids.field("counts"), 1))
    if len(twice):
        raise InputError(f"{name}: id {twice[0]['values'].as_py()!r} stands in more than one row; ids must be unique.")
    return table.drop_columns([REJECTED])
