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

    Raises `InputError` for a missing or unreadable file, a missing column, an unknown verdict, an id that stands
    twice, or no rows at all. Competition files come in through `sft-judge import`, not here.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such battles file. `sft-judge import` makes one from competition files.")
    try:
        if path.suffix == ".jsonl":
            with open(path, encoding="utf-8") as lines:
                table = battle_table([json.loads(line) for line in lines if line.strip()])
        else:
            table = pq.read_table(path)
    except (pa.ArrowException, json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
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


def _check(path: Path, table: pa.Table) -> None:
    if table.num_rows == 0:
        raise InputError(f"{path}: no battles in it.")
    unknown = pc.filter(table["verdict"], pc.invert(pc.is_in(table["verdict"], pa.array([*VERDICTS, None]))))
    if len(unknown):
        raise InputError(f"{path}: verdict {unknown[0].as_py()!r}, expected {', '.join(VERDICTS)} or null.")
    counts = pc.value_counts(table["id"])
    twice = pc.filter(counts.field("values"), pc.greater(counts.field("counts"), 1))
    if len(twice) or table["id"].null_count:
        what = repr(twice[0].as_py()) if len(twice) else "null"
        raise InputError(f"{path}: id {what} does not stand for one row; ids join the stages and must be unique.")


def write_battles(path: Path, table: pa.Table) -> None:
    """Write Parquet, or JSONL where the name ends so, whole or not at all."""
    with whole_file(path) as aside:
        if Path(path).suffix == ".jsonl":
            with open(aside, "w", encoding="utf-8") as lines:
                for row in table.to_pylist():
                    lines.write(json.dumps(row, ensure_ascii=False) + "\n")
        else:
            pq.write_table(table, aside)
