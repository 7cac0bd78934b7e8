"""
What a battle is, and the one table type that all stages read and write.

A battle is a prompt, two responses (each a list of turns) and, where known, the verdict people gave. Battles are an
Arrow table so that a million of them fit; a stage that needs Python rows takes them in batches.
"""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sft_judge.errors import InputError
from sft_judge.files import whole_file
from sft_judge.verdicts import VERDICTS

TURNS = pa.list_(pa.string())
REQUIRED = {"id": pa.string(), "prompt": TURNS, "response_a": TURNS, "response_b": TURNS, "verdict": pa.string()}
OPTIONAL = {
    "model_a": pa.string(),
    "model_b": pa.string(),
    "language": pa.string(),
    "fold": pa.int64(),
    "source": pa.string(),
    "weight": pa.float64(),
    "soft_a": pa.float64(),
    "soft_b": pa.float64(),
    "soft_tie": pa.float64(),
}
FIELDS = ("prompt", "response_a", "response_b")


def battle_table(rows: list[dict]) -> pa.Table:
    """A table from Python rows; optional columns are kept where at least one row has them."""
    present = [name for name in OPTIONAL if any(row.get(name) is not None for row in rows)]
    columns = {**REQUIRED, **{name: OPTIONAL[name] for name in present}}
    return pa.table({name: pa.array([row.get(name) for row in rows], kind) for name, kind in columns.items()})


def read_battles(path: Path, limit: int | None = None) -> pa.Table:
    """
    Read battles (Parquet, or JSONL with a `.jsonl` ending) and check them.

    Raises `InputError`, with the row where there is one: a missing or unreadable file, a missing column, missing or
    unequal turns, an unknown verdict, an id that stands twice, no rows at all. Competition files come in through
    `sft-judge import`, not here.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such battles file. `sft-judge import` makes one from competition files.")
    try:
        if path.suffix == ".jsonl":
            table = battle_table(_read_jsonl(path))
        else:
            table = pq.read_table(path)
    except (pa.ArrowException, json.JSONDecodeError, UnicodeError, RecursionError, OverflowError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path}: not a readable battles file ({reason}). Expected Parquet or JSONL as `sft-judge import` writes."
        ) from error
    missing = [name for name in REQUIRED if name not in table.column_names]
    if missing:
        raise InputError(
            f"{path}: no column {missing[0]!r}; battles have {', '.join(REQUIRED)}. "
            "Competition files are made into battles by `sft-judge import`."
        )
    known = {**REQUIRED, **OPTIONAL}
    names = [name for name in table.column_names if name in known]
    try:
        table = table.select(names).cast(pa.schema([(name, known[name]) for name in names]))
    except pa.ArrowException as error:
        raise InputError(f"{path}: a column has another type than battles have ({error}).") from error
    _check(path, table)
    return table.slice(0, limit)


def _read_jsonl(path: Path) -> list[dict]:
    with open(path, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    for row, value in enumerate(rows):
        if not isinstance(value, dict):
            raise InputError(
                f"{path} row {row + 1}: {json.dumps(value)[:40]}, not an object with {', '.join(FIELDS)}."
            )
    return rows


def _check(path: Path, table: pa.Table) -> None:
    if table.num_rows == 0:
        raise InputError(f"{path}: no battles in it.")
    for name in ("id", *FIELDS):
        _refuse(path, pc.is_null(table[name]), f"no {name}, which every battle has")
    for name in FIELDS:
        _refuse(path, pc.equal(pc.list_value_length(table[name]), 0), f"no turn in {name}, expected at least one")
        _refuse_null_turns(path, table[name], name)
    turns = [pc.list_value_length(table[name]) for name in FIELDS[1:]]
    _refuse(path, pc.not_equal(*turns), "response_a and response_b have unequal numbers of turns")
    unknown = pc.invert(pc.is_in(table["verdict"], pa.array([*VERDICTS, None])))
    _refuse(path, unknown, f"verdict {{}}, expected {', '.join(VERDICTS)} or null", table["verdict"])
    counts = pc.value_counts(table["id"])
    twice = pc.filter(counts.field("values"), pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise InputError(f"{path}: id {twice[0].as_py()!r} stands in more than one row; ids join the stages.")


def _refuse(path: Path, bad: pa.ChunkedArray, reason: str, values: pa.ChunkedArray | None = None) -> None:
    """Raise `InputError` for the first row [N] that is bad; `{}` in the reason is its value."""
    row = pc.index(bad, True).as_py()
    if row >= 0:
        reason = reason.format(repr(values[row].as_py())) if values is not None else reason
        raise InputError(f"{path} row {row + 1}: {reason}. `sft-judge import` sorts out such rows.")


def _refuse_null_turns(path: Path, column: pa.ChunkedArray, name: str) -> None:
    start = 0
    for chunk in column.chunks:
        bad = pc.index(pc.is_null(chunk.flatten()), True).as_py()
        if bad >= 0:
            row = start + pc.list_parent_indices(chunk)[bad].as_py()
            raise InputError(f"{path} row {row + 1}: a turn of {name} is null, expected text. Empty text is allowed.")
        start += len(chunk)


def rows_of_fold(battles: pa.Table, fold: int | None, path: Path) -> pa.Table:
    """The battles of one fold, all of them for None. Raises `InputError` where there are no such rows."""
    if fold is None:
        return battles
    if "fold" not in battles.column_names:
        raise InputError(f"{path}: no fold column, so --fold {fold} means nothing. `sft-judge prepare` makes folds.")
    kept = battles.filter(pc.equal(battles["fold"], fold))
    if kept.num_rows == 0:
        known = ", ".join(str(value) for value in sorted(pc.unique(battles["fold"].drop_null()).to_pylist()))
        raise InputError(f"{path}: no battle in fold {fold}; its folds are {known}.")
    return kept


def write_battles(path: Path, table: pa.Table) -> None:
    """Write Parquet, or JSONL where the name ends so, whole or not at all."""
    with whole_file(path) as aside:
        if Path(path).suffix == ".jsonl":
            with open(aside, "w", encoding="utf-8") as lines:
                for row in table.to_pylist():
                    lines.write(json.dumps(row, ensure_ascii=False) + "\n")
        else:
            pq.write_table(table, aside)
