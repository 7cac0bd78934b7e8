"""
What a battle is, and the one table type that all stages read and write.

A battle is a prompt, two responses (each a list of turns) and, where known, the verdict people gave. Battles are an
Arrow table so that a million of them fit; a stage that needs Python rows takes them in batches.
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
    "category": pa.string(),  # what kind of request it is, as the source says
    "weight": pa.float64(),
    "margin": pa.float64(),  # how clear the preference is, such as the difference of two scores
    "soft_a": pa.float64(),
    "soft_b": pa.float64(),
    "soft_tie": pa.float64(),
    "tie_kind": pa.string(),  # of a tie, where people said so: both bad, both good
    "slices": TURNS,  # other parts that reports tell apart, each as "name: value"
}
COLUMNS = {**REQUIRED, **OPTIONAL}
FIELDS = ("prompt", "response_a", "response_b")
BATTLES_PER_BATCH = 5_000  # battles in memory at a time, about 15 MB of text
ROW_GROUP = 20_000


def battle_table(rows: list[dict]) -> pa.Table:
    """A table from Python rows; optional columns are kept where at least one row has them."""
    present = [name for name in OPTIONAL if any(row.get(name) is not None for row in rows)]
    columns = {**REQUIRED, **{name: OPTIONAL[name] for name in present}}
    return pa.table({name: pa.array([row.get(name) for row in rows], kind) for name, kind in columns.items()})


@dataclass
class BattleFile:
    """
    A battles file, read and checked in batches so that it need not fit into memory.

    JSONL, the form for exchange by hand, is held whole; Parquet is streamed. `columns` are those that battles have and
    in which at least one row says something, in the order of REQUIRED and OPTIONAL.
    """

    path: Path
    columns: list[str]
    num_rows: int
    _table: pa.Table | None = None

    def batches(self, columns: list[str] | None = None, size: int = BATTLES_PER_BATCH) -> Iterator[pa.Table]:
        """
        Tables of at most `size` battles in the file's order, each checked. `columns`: only these, of those there are.

        Raises `InputError`, with the row where there is one: missing or unequal turns, an unknown verdict, an id that
        stands twice, a weight, margin or soft label that is no finite number.
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
            file = pq.ParquetFile(self.path, pre_buffer=False)  # a buffer would keep all that was read
            for batch in file.iter_batches(size, columns=columns, use_threads=False):
                yield pa.table(batch.slice(0, left))
                left -= batch.num_rows
                if left <= 0:
                    return
        except (pa.ArrowException, OSError, UnicodeError) as error:
            raise _unreadable(self.path, error) from error

    def read(self) -> pa.Table:
        """All battles as one table."""
        return pa.concat_tables(self.batches()).combine_chunks()


def open_battles(path: Path, limit: int | None = None) -> BattleFile:
    """
    Open battles (Parquet, or JSONL with a `.jsonl` ending); `limit` keeps the first rows.

    An optional column of another type is left out, which is said, or refused: see columns.py. Raises `InputError` for
    a missing or unreadable file, a missing column, no rows at all. Competition files come in through `sft-judge
    import`, not here.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such battles file. `sft-judge import` makes one from competition files.")
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
            "Competition files are made into battles by `sft-judge import`."
        )
    if num_rows == 0:
        raise InputError(f"{path}: no battles in it.")
    file = BattleFile(path, [name for name in COLUMNS if name in names], num_rows, table)
    if table is not None:
        file.read()  # it is held anyway: what is wrong with it is told at once, whichever columns are asked for
    return file


def read_battles(path: Path, limit: int | None = None) -> pa.Table:
    """All battles of a file as one table, checked. Raises `InputError` as `open_battles` and its `batches` do."""
    return open_battles(path, limit).read()


def _parquet_columns(path: Path, metadata: pq.FileMetaData, limit: int | None) -> tuple[list[str], int]:
    """
    The columns of a Parquet file, and how many rows to read.

    Without the optional ones that are null throughout, or of another type than battles have.
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
    Make one turn, in place, of a prompt or response that is plain text, and text of a whole number as an id.

    Raises `InputError` for one that is neither text nor a list of texts, by its row.
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
                raise InputError(f"{path} row {number}: {seen}, expected text or a list of texts, one a turn.")


def _cast(path: Path, column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    if name in FIELDS and column.type in (pa.string(), pa.large_string()):  # plain text is one turn
        texts = column.combine_chunks().cast(pa.string())
        turns = pa.ListArray.from_arrays(pa.array(range(len(texts) + 1), pa.int32()), texts)
        return pa.chunked_array([pc.if_else(pc.is_valid(texts), turns, pa.scalar(None, TURNS))], TURNS)
    try:
        return column.cast(COLUMNS[name])
    except pa.ArrowException as error:
        if name in OPTIONAL:
            raise refuse_column(path, name, f"{column.type} ({error})", OPTIONAL[name]) from error
        raise InputError(f"{path}: {name} has another type than battles have ({error}).") from error


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
            raise InputError(f"{path} row {start + row + 1}: {message}. `sft-judge import` sorts out such rows.")

    there = table.column_names
    for name in ("id", *FIELDS):
        if name in there:
            refuse(pc.is_null(table[name]), f"no {name}, which every battle has")
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
        raise InputError(f"{path} row {start + row + 1}{who}: {reason}. `sft-judge import` sorts out such rows.")
    for name in table["id"].to_pylist() if "id" in there else ():
        if hash(name) in seen:
            raise InputError(f"{path}: id {name!r} stands in more than one row; ids join the stages.")
        seen.add(hash(name))


def _null_turns(column: pa.ChunkedArray) -> pa.Array:
    """Which rows [N] have a turn that is null."""
    rows = column.combine_chunks()
    bad = pc.list_parent_indices(rows).filter(pc.is_null(pc.list_flatten(rows)))
    return pc.is_in(pa.array(range(len(rows)), bad.type), bad)


def rows_of_fold(battles: pa.Table, fold: int | None, path: Path) -> pa.Table:
    """The battles of one fold, all of them for None. Raises `InputError` where there are no such rows."""
    if fold is None:
        return battles
    if "fold" not in battles.column_names:
        raise InputError(f"{path}: no fold column, so --fold {fold} means nothing. `sft-judge prepare` makes folds.")
    rows = battles.filter(pc.equal(battles["fold"], fold))
    if rows.num_rows == 0:
        folds = ", ".join(str(value) for value in sorted(pc.unique(battles["fold"].drop_null()).to_pylist()))
        raise InputError(f"{path}: no battle in fold {fold}; its folds are {folds}.")
    return rows


def set_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """`table` with a column added, or replaced in its place."""
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, values)
    return table.append_column(name, values)


def fill_columns(table: pa.Table) -> pa.Table:
    """Battles with every column that battles can have, null where nothing is known, in the order of COLUMNS."""
    there = {name: table[name] for name in table.column_names}
    columns = {name: there.get(name, pa.nulls(table.num_rows, kind)) for name, kind in COLUMNS.items()}
    return pa.table(columns).cast(pa.schema(COLUMNS))


class BattleWriter:
    """
    Battles to a file, batch by batch: Parquet, or JSONL where the name ends so; whole or not at all.

    A context manager. Parquet gets every column that battles can have, null where nothing is known, as the first
    batch cannot tell what a later one holds; `open_battles` leaves such columns out.
    """

    def __init__(self, path: Path):
        self.path, self.num_rows = Path(path), 0
        self._files, self._lines, self._parquet = ExitStack(), None, None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return self._files.__exit__(*exception)

    def _open(self) -> None:
        """At the first battle: input that turns out to be bad before has made no folder."""
        aside = self._files.enter_context(whole_file(self.path))
        if self.path.suffix == ".jsonl":
            self._lines = self._files.enter_context(open(aside, "w", encoding="utf-8"))
        else:
            self._parquet = self._files.enter_context(pq.ParquetWriter(aside, pa.schema(COLUMNS), compression="zstd"))

    def write(self, table: pa.Table) -> None:
        """Append battles; columns that battles don't have are left out."""
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
    """Write a table of battles: Parquet, or JSONL where the name ends so, whole or not at all."""
    with BattleWriter(path) as writer:
        writer.write(table)


def labelled_folds(rows: pa.Table) -> set[int | None]:
    """The folds of the battles that have a label of their own, and so were trained on; None for one without a fold."""
    folds = rows["fold"].to_pylist() if "fold" in rows.column_names else [None] * rows.num_rows
    return {fold for fold, labelled in zip(folds, has_label(rows), strict=True) if labelled}


def has_label(rows: pa.Table) -> np.ndarray:
    """Mask [R] of the battles with a verdict or soft labels of their own."""
    labels = [np.array(pc.is_valid(rows[name])) for name in ("verdict", "soft_a") if name in rows.column_names]
    return np.any(labels, axis=0)
