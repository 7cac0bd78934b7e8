"""
Battles and their table, the type that all stages read and write.

A battle is a prompt, two responses (each a list of turns) and, if known, the verdict people gave. Battles are an Arrow
table so that a million of them fit into memory; a stage that needs Python rows takes them in batches.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sft_judge.core.errors import InputError
from sft_judge.core.files import check_columns, load_json, whole_file
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.columns import (
    find_bad_number,
    is_foreign_type,
    keep_own_values,
    leave_out_column,
    refuse_column,
)

TURNS = pa.list_(pa.string())
REQUIRED = {"id": pa.string(), "prompt": TURNS, "response_a": TURNS, "response_b": TURNS, "verdict": pa.string()}
OPTIONAL = {
    "model_a": pa.string(),
    "model_b": pa.string(),
    "language": pa.string(),
    "language_score": pa.float64(),
    "fold": pa.int64(),
    "source": pa.string(),
    "category": pa.string(),  # kind of request, as stated by the source
    "weight": pa.float64(),
    "margin": pa.float64(),  # strength of the preference, such as the difference of two scores
    "soft_a": pa.float64(),
    "soft_b": pa.float64(),
    "soft_tie": pa.float64(),
    "tie_kind": pa.string(),  # kind of a tie, if people stated it: both bad, both good
    "slices": TURNS,  # further slices for reports, each as "name: value"
}
COLUMNS = {**REQUIRED, **OPTIONAL}
FIELDS = ("prompt", "response_a", "response_b")
BATTLES_PER_BATCH = 5_000  # battles in memory at a time, about 15 MB of text
ROW_GROUP = 20_000


def battle_table(rows: list[dict]) -> pa.Table:
    """Build a table from Python rows; optional columns are kept if at least one row has them."""
    present = [name for name in OPTIONAL if any(row.get(name) is not None for row in rows)]
    columns = {**REQUIRED, **{name: OPTIONAL[name] for name in present}}
    return pa.table({name: pa.array([row.get(name) for row in rows], kind) for name, kind in columns.items()})


@dataclass
class BattleFile:
    """
    A battles file that is read and checked in batches, so that it need not fit into memory.

    JSONL, the format for manual exchange, is held in memory. Parquet is streamed.

    Attributes:
        path: the file.
        columns: columns of battles with at least one value, in the order of REQUIRED and OPTIONAL.
        num_rows: number of battles to read.
    """

    path: Path
    columns: list[str]
    num_rows: int
    _table: pa.Table | None = None

    def batches(self, columns: list[str] | None = None, size: int = BATTLES_PER_BATCH) -> Iterator[pa.Table]:
        """
        Yield checked tables of at most `size` battles in the file's order.

        Args:
            columns: columns to read, if present; None reads all.
            size: maximum number of battles per table.

        Raises:
            InputError: turns are missing or unequal in number, a verdict is unknown, an id is repeated, or a weight,
                margin or soft label is not finite. The message names the row.
        """
        wanted = [name for name in self.columns if columns is None or name in columns]
        start, seen = 0, set()
        for table in self._raw_batches(wanted, size):
            table = pa.table({name: _cast(self.path, table[name], name) for name in wanted})
            _check(self.path, table, start, seen)
            start += table.num_rows
            yield table

    def _raw_batches(self, columns: list[str], size: int) -> Iterator[pa.Table]:
        if self._table is not None:
            yield from (pa.table(batch) for batch in self._table.select(columns).to_batches(size))
            return
        left = self.num_rows
        try:
            file = pq.ParquetFile(self.path, pre_buffer=False)  # a buffer would keep everything that was read
            for batch in file.iter_batches(size, columns=columns, use_threads=False):
                yield pa.table(batch.slice(0, left))
                left -= batch.num_rows
                if left <= 0:
                    return
        except (pa.ArrowException, OSError, UnicodeError) as error:
            raise _unreadable(self.path, error) from error

    def read(self) -> pa.Table:
        """Read all battles as one table."""
        return pa.concat_tables(self.batches()).combine_chunks()


def open_battles(path: Path, limit: int | None = None) -> BattleFile:
    """
    Open a battles file: Parquet, or JSONL with a `.jsonl` ending.

    An optional column of another type is left out with a warning or raises an error, see columns.py. Competition files
    are converted by `sft-judge import` first.

    Args:
        path: the file.
        limit: number of rows to keep from the start; None keeps all.

    Raises:
        InputError: the file is missing, unreadable or empty, or lacks a required column.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"{path}: no such battles file. `sft-judge import` makes one from competition files, preference "
            "data and votes."
        )
    table = None
    try:
        if path.suffix == ".jsonl":
            rows = _read_jsonl(path)
            read_texts_as_turns(path, rows)
            keep_own_values(path, rows, OPTIONAL)
            table = battle_table(rows).slice(0, limit)
            names, num_rows = table.column_names, table.num_rows
        else:
            names, num_rows = _parquet_columns(path, pq.ParquetFile(path).metadata, limit)
    except (pa.ArrowException, UnicodeError, RecursionError, OverflowError, OSError) as error:
        raise _unreadable(path, error) from error
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise InputError(
            f"{path}: no column {missing[0]!r}; battles have {', '.join(REQUIRED)}. "
            "`sft-judge import` makes battles from competition files, preference data and votes."
        )
    if num_rows == 0:
        raise InputError(f"{path}: no battles in it.")
    file = BattleFile(path, [name for name in COLUMNS if name in names], num_rows, table)
    if table is not None:
        file.read()  # the table is in memory anyway, so check all columns at once, whichever are read later
    return file


def read_battles(path: Path, limit: int | None = None) -> pa.Table:
    """
    Read and check all battles of a file as one table.

    Args:
        path: the file.
        limit: number of rows to keep from the start; None keeps all.

    Raises:
        InputError: see `open_battles` and `BattleFile.batches`.
    """
    return open_battles(path, limit).read()


def _parquet_columns(path: Path, metadata: pq.FileMetaData, limit: int | None) -> tuple[list[str], int]:
    """
    Return the columns of a Parquet file and the number of rows to read.

    Optional columns that are null throughout or of another type are left out.
    """
    groups = [metadata.row_group(place) for place in range(metadata.num_row_groups)]
    reported = set()
    for group in groups:
        for place in range(group.num_columns):
            column = group.column(place)
            has_statistics = column.is_stats_set and column.statistics.has_null_count
            if not has_statistics or column.statistics.null_count < column.num_values:
                reported.add(column.path_in_schema.split(".")[0])
    schema = metadata.schema.to_arrow_schema()
    check_columns(path, schema.names)
    foreign = [
        name for name in schema.names if name in OPTIONAL and is_foreign_type(schema.field(name).type, OPTIONAL[name])
    ]
    for name in reported.intersection(foreign):
        leave_out_column(path, name, str(schema.field(name).type), OPTIONAL[name])
    names = [name for name in schema.names if name in REQUIRED or (name in reported and name not in foreign)]
    return names, min(metadata.num_rows, metadata.num_rows if limit is None else limit)


def read_texts_as_turns(path: Path, rows: list[dict]) -> None:
    """
    Convert plain text of a prompt or response to one turn, and integer ids to text, in place.

    Args:
        path: the file, for messages.
        rows: the rows, modified in place.

    Raises:
        InputError: a prompt or response is neither text nor a list of texts.
    """
    for number, row in enumerate(rows, start=1):
        if isinstance(row.get("id"), int) and not isinstance(row["id"], bool):
            row["id"] = str(row["id"])
        for name in FIELDS:
            value = row.get(name)
            row[name] = [value] if isinstance(value, str) else value
            turns = row[name] if isinstance(row[name], list) else [row[name]]
            wrong = next((turn for turn in turns if not isinstance(turn, str | None)), None)
            if wrong is not None:
                seen = f"{name} holds a {type(wrong).__name__} ({str(wrong)[:40]})"
                raise InputError(f"{path} row {number}: {seen}, expected text or a list of texts, one per turn.")


def _cast(path: Path, column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    if name in FIELDS and column.type in (pa.string(), pa.large_string()):  # plain text becomes one turn
        texts = column.combine_chunks().cast(pa.string())
        turns = pa.ListArray.from_arrays(pa.array(range(len(texts) + 1), pa.int32()), texts)
        return pa.chunked_array([pc.if_else(pc.is_valid(texts), turns, pa.scalar(None, TURNS))], TURNS)
    try:
        return column.cast(COLUMNS[name])
    except pa.ArrowException as error:
        if name in OPTIONAL:
            raise refuse_column(path, name, f"{column.type} ({error})", OPTIONAL[name]) from error
        raise InputError(f"{path}: column {name} has the wrong type ({error}).") from error


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return InputError(
        f"{path}: not a readable battles file ({reason}). Expected Parquet or JSONL as `sft-judge import` writes."
    )


def _read_jsonl(path: Path) -> list[dict]:
    rows = []
    with open(path, encoding="utf-8-sig") as lines:
        for line in filter(str.strip, lines):
            try:
                rows.append(load_json(line))
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path} row {len(rows) + 1}: broken JSON ({error}).") from error
    for row, value in enumerate(rows):
        if not isinstance(value, dict):
            raise InputError(
                f"{path} row {row + 1}: {json.dumps(value)[:40]}, not an object with {', '.join(FIELDS)}."
            )
    return rows


def _check(path: Path, table: pa.Table, start: int, seen: set[int]) -> None:
    """Check a batch whose first row is row `start` of the file; `seen` holds the hashes of the ids so far."""

    def refuse(bad: pa.ChunkedArray, reason: str, values: pa.ChunkedArray | None = None) -> None:
        row = pc.index(bad, True).as_py()
        if row >= 0:
            message = reason.format(repr(values[row].as_py())) if values is not None else reason
            raise InputError(
                f"{path} row {start + row + 1}: {message}. `sft-judge import` rejects such rows and lists them."
            )

    there = table.column_names
    for name in ("id", *FIELDS):
        if name in there:
            refuse(pc.is_null(table[name]), f"no {name}, which every battle needs")
    for name in FIELDS:
        if name in there:
            refuse(pc.equal(pc.list_value_length(table[name]), 0), f"no turn in {name}, expected at least one")
            refuse(_null_turns(table[name]), f"a turn of {name} is null, expected text. Empty text is allowed")
    if {"response_a", "response_b"} <= set(there):
        turns = [pc.list_value_length(table[name]) for name in FIELDS[1:]]
        refuse(pc.not_equal(*turns), "response_a and response_b have unequal numbers of turns")
    if "verdict" in there:
        unknown = pc.invert(pc.is_in(table["verdict"], pa.array([*VERDICTS, None])))
        refuse(unknown, f"verdict {{}}, expected {', '.join(VERDICTS)} or null", table["verdict"])
    if found := find_bad_number(table):
        row, reason = found
        who = f" (battle {table['id'][row].as_py()})" if "id" in there else ""
        raise InputError(
            f"{path} row {start + row + 1}{who}: {reason}. `sft-judge import` rejects such rows and lists them."
        )
    for name in table["id"].to_pylist() if "id" in there else ():
        if hash(name) in seen:
            raise InputError(
                f"{path}: id {name!r} is in more than one row; files are joined by id, so ids must be unique."
            )
        seen.add(hash(name))


def _null_turns(column: pa.ChunkedArray) -> pa.Array:
    """Return a mask `[N]` of the rows with a null turn."""
    rows = column.combine_chunks()
    bad = pc.list_parent_indices(rows).filter(pc.is_null(pc.list_flatten(rows)))
    return pc.is_in(pa.array(range(len(rows)), bad.type), bad)


def rows_of_fold(battles: pa.Table, fold: int | None, path: Path) -> pa.Table:
    """
    Select the battles of one fold, or all battles if `fold` is None.

    Args:
        battles: the battles.
        fold: the fold.
        path: file of the battles, for messages.

    Raises:
        InputError: there is no fold column, or no battle in this fold.
    """
    if fold is None:
        return battles
    if "fold" not in battles.column_names:
        raise InputError(f"{path}: no fold column for --fold {fold}. Assign folds with `sft-judge prepare`.")
    rows = battles.filter(pc.equal(battles["fold"], fold))
    if rows.num_rows == 0:
        folds = ", ".join(str(value) for value in sorted(pc.unique(battles["fold"].drop_null()).to_pylist()))
        raise InputError(f"{path}: no battle in fold {fold}; its folds are {folds}.")
    return rows


def set_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """
    Add a column to a table, or replace it in place.

    Args:
        table: the table.
        name: the column.
        values: its values.
    """
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, values)
    return table.append_column(name, values)


def fill_columns(table: pa.Table) -> pa.Table:
    """Add all missing columns of battles as nulls, in the order of COLUMNS."""
    there = {name: table[name] for name in table.column_names}
    columns = {name: there.get(name, pa.nulls(table.num_rows, kind)) for name, kind in COLUMNS.items()}
    return pa.table(columns).cast(pa.schema(COLUMNS))


class BattleWriter:
    """
    Writer of battles in batches to Parquet, or to JSONL if the name ends in `.jsonl`; atomic.

    Use it as a context manager. Parquet files get all columns of battles, null if unknown, because the first batch
    does not show which columns later batches hold. `open_battles` leaves out columns that are null throughout.

    Args:
        path: file to write.
    """

    def __init__(self, path: Path):
        self.path, self.num_rows = Path(path), 0
        self._files, self._lines, self._parquet = ExitStack(), None, None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return self._files.__exit__(*exception)

    def _open(self) -> None:
        """Open the file at the first battle, so that invalid input creates no folder."""
        aside = self._files.enter_context(whole_file(self.path))
        if self.path.suffix == ".jsonl":
            self._lines = self._files.enter_context(open(aside, "w", encoding="utf-8"))
        else:
            self._parquet = self._files.enter_context(pq.ParquetWriter(aside, pa.schema(COLUMNS), compression="zstd"))

    def write(self, table: pa.Table) -> None:
        """Append battles; columns that battles do not have are left out."""
        if not self.num_rows:
            self._open()
        self.num_rows += table.num_rows
        if self._lines:
            for row in table.to_pylist():
                fields = {name: row[name] for name in row if name in REQUIRED or row[name] is not None}
                self._lines.write(json.dumps(fields, ensure_ascii=False) + "\n")
            return
        self._parquet.write_table(fill_columns(table), ROW_GROUP)


def write_battles(path: Path, table: pa.Table) -> None:
    """
    Write a table of battles to Parquet, or to JSONL if the name ends in `.jsonl`, atomically.

    Args:
        path: file to write.
        table: the battles.
    """
    with BattleWriter(path) as writer:
        writer.write(table)


def labelled_folds(rows: pa.Table) -> set[int | None]:
    """
    Return the folds of the battles with a label of their own, which are the ones trained on; None for a missing fold.
    """
    folds = rows["fold"].to_pylist() if "fold" in rows.column_names else [None] * rows.num_rows
    return {fold for fold, labelled in zip(folds, has_label(rows), strict=True) if labelled}


def has_label(rows: pa.Table) -> np.ndarray:
    """Return a mask `[R]` of the battles with a verdict or soft labels of their own."""
    labels = [np.array(pc.is_valid(rows[name])) for name in ("verdict", "soft_a") if name in rows.column_names]
    return np.any(labels, axis=0)
