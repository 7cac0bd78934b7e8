"""
Convert data sets in memory or on the Hub to battles, with the same code that `sft-judge import` uses for files.

`datasets` does the mapping. It caches the result on disk under the data set's fingerprint and maps it into memory.
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
ROWS_LOOKED_AT = 50  # rows read to detect the format


def battles_of(dataset, name: str, seed: int) -> pa.Table:
    """
    Convert a data set to a table of battles.

    Args:
        dataset: a `datasets.Dataset` with the columns of battles, of TRL's preference data or of a competition. A
            table of battles is returned unchanged.
        name: name of the data set in messages, and in the ids of rows without an id.
        seed: seed that draws on which side a chosen response is placed.

    Returns:
        A table with the columns of COLUMNS, and those of TEACHER if the data set has them. Rows that are not battles
        are left out, and their number is logged.

    Raises:
        InputError: `dataset` is not a `Dataset`, its columns are not known, no row is a battle, or an id is
            duplicated.
    """
    if isinstance(dataset, pa.Table):
        return dataset
    if isinstance(dataset, IterableDataset):
        raise InputError(
            f"{name} is an IterableDataset, but spreading verdicts and sources evenly over a run needs the whole "
            "data set. Pass a Dataset: load_dataset without streaming, or Dataset.from_generator."
        )
    if not isinstance(dataset, Dataset):
        raise InputError(f"{name} is a {type(dataset).__name__}, expected a datasets.Dataset.")
    if not len(dataset):
        raise InputError(f"{name} has no rows.")
    dataset = _decode_class_labels(dataset.with_format(None))
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
    return _accepted_battles(read, name, format_name)


def load_named(name: str, config: str | None, split: str, revision: str | None) -> Dataset:
    """
    Load a split of a data set of the Hub or of a local folder.

    Args:
        name: Hub id or folder.
        config: name of the data set's configuration, or None.
        split: name of the split.
        revision: branch, tag or commit, or None.

    Raises:
        InputError: the data set cannot be loaded.
    """
    try:
        return datasets.load_dataset(name, config, split=split, revision=revision)
    except (OSError, ValueError, RuntimeError, HTTPError, datasets.exceptions.DatasetsError) as error:
        raise InputError(f"dataset {name}, split {split}: it cannot be loaded ({one_line(error)}).") from error


def _decode_class_labels(dataset: Dataset) -> Dataset:
    """Replace the integers of `ClassLabel` columns by their names."""
    for column, feature in dataset.features.items():
        if isinstance(feature, ClassLabel):
            dataset = dataset.map(
                lambda batch, column=column, feature=feature: {column: feature.int2str(batch[column])},
                batched=True,
                features=Features({**dataset.features, column: Value("string")}),
            )
    return dataset


def _read_batch(batch: dict, indices: list[int], *, format_name: str, name: str, seed: int, teacher: list) -> dict:
    """Convert a batch of rows to columns of battles. A row that is not a battle gets its reason in REJECTED."""
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


def _accepted_battles(read: Dataset, name: str, format_name: str) -> pa.Table:
    table = read.data.table
    rejected = table[REJECTED].drop_null()
    if len(rejected) == table.num_rows:
        raise InputError(
            f"{name}: none of its {table.num_rows} rows is a battle; {rejected[0]}. Read as {format_name!r}."
        )
    if len(rejected):
        logger.warning(f"{name}: skipped {len(rejected)} of {table.num_rows} rows, not battles; {rejected[0]}.")
        table = table.filter(pc.is_null(table[REJECTED]))
    ids = pc.value_counts(table["id"])
    twice = ids.filter(pc.greater(ids.field("counts"), 1))
    if len(twice):
        raise InputError(f"{name}: id {twice[0]['values'].as_py()!r} is in more than one row; ids must be unique.")
    return table.drop_columns([REJECTED])
