"""
Source files to battles: CSV, JSONL and Parquet, row by row, so that no row is lost without its reason.

What cannot be read at all is an `InputError`; a row that cannot be a battle is a reject with its field and reason.
The contents decide what a file is, not its name.
"""

import codecs
import csv
import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sft_judge.battles.formats import RowError, detect_format, row_id, to_battle
from sft_judge.battles.schema import OPTIONAL, REQUIRED
from sft_judge.errors import InputError

FORMATS = ("lmsys", "wsdm", "battles")
EXPECTED = "Expected CSV, JSONL or Parquet in the LMSYS, WSDM or our own format"
BATCH = 2_000  # rows turned into Arrow at a time
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
PEEK = 50  # rows looked at to tell the formats apart


@dataclass
class Imported:
    """Battles of all sources, and what did not become one. `rows_in` = `table.num_rows` + len(`rejects`)."""

    table: pa.Table
    rows_in: int
    rejects: list[dict] = field(default_factory=list)
    mended: Counter = field(default_factory=Counter)
    formats: dict[str, str] = field(default_factory=dict)


def import_sources(
    paths: list[Path], format_name: str | None = None, strict: bool = False, limit: int | None = None
) -> Imported:
    """
    Read all sources. `format_name` is one of FORMATS, None to tell by the columns; `limit` counts rows of each file.

    Raises `InputError` for a file that cannot be read, in which no row is good, or an id that stands twice; with
    `strict` for the first bad row.
    """
    result = Imported(table=pa.table({}), rows_in=0)
    seen: dict[str, tuple[Path, int]] = {}
    batches = []
    for path in paths:
        rejected_before, good = len(result.rejects), 0
        for batch in _batched(_import_one(Path(path), format_name, strict, limit, seen, result), BATCH):
            good += len(batch)
            batches.append(_to_arrow(batch))
        if not good:
            rejects = result.rejects[rejected_before:]
            first = rejects[0]
            raise InputError(
                f"{path}: none of {len(rejects)} rows is a battle; row {first['row']}, {first['field']}: "
                f"{first['reason']}. Read as {result.formats[str(path)]!r}; --format names another."
            )
    table = pa.concat_tables(batches)
    empty = [name for name in OPTIONAL if table[name].null_count == table.num_rows]
    result.table = table.drop_columns(empty)
    assert result.rows_in == result.table.num_rows + len(result.rejects)
    return result


def _import_one(path, format_name, strict, limit, seen, result: Imported) -> Iterator[dict]:
    """Yield the battles of one file; rejects and counts go to `result`, ids to `seen`."""
    rows = itertools.islice(read_rows(path), limit)
    head = list(itertools.islice(rows, PEEK))
    if not head:
        raise InputError(f"{path}: a header alone, no rows. {EXPECTED}.")
    peeked = [row for _, row, problem in head if problem is None]
    columns = list(dict.fromkeys(name for row in peeked for name in row))
    if not peeked:
        raise InputError(f"{path} row {head[0][0]}: {head[0][2].reason}. {EXPECTED}.")
    detected = detect_format(path, columns, peeked)
    result.formats[str(path)] = format_name = format_name or detected
    for number, row, problem in itertools.chain(head, rows):
        result.rows_in += 1
        identity = row_id(row) if problem is None else None
        _check_id(identity, path, number, seen)
        try:
            if problem is not None:
                raise problem
            yield to_battle(row, format_name, path.stem, result.mended)
        except RowError as error:
            if strict:
                raise InputError(f"{path} row {number}, {error.field}: {error.reason} (--strict).") from error
            result.rejects.append(
                {
                    **{"source": str(path), "row": number, "id": identity},
                    **{"field": error.field, "reason": error.reason, "data": row},
                }
            )


def _check_id(identity: str | None, path: Path, number: int, seen: dict) -> None:
    if identity is None:
        return
    if identity in seen:
        other, row = seen[identity]
        where = f"rows {row} and {number}" if other == path else f"row {number}, and in {other} row {row}"
        raise InputError(f"{path}: id {identity!r} stands in {where}; ids join the stages and must be unique.")
    seen[identity] = (path, number)


def _batched(items: Iterator, size: int) -> Iterator[list]:
    while batch := list(itertools.islice(items, size)):
        yield batch


def _to_arrow(rows: list[dict]) -> pa.Table:
    """Every column, null where no row has it, so that batches can be joined."""
    kinds = {**REQUIRED, **OPTIONAL}
    return pa.table({name: pa.array([row.get(name) for row in rows], kind) for name, kind in kinds.items()})


def read_rows(path: Path) -> Iterator[tuple[int, dict, RowError | None]]:
    """
    (row number from 1, row, None), or the problem where a row could not even be read.

    Raises `InputError` for a missing or empty file, a folder, and what is neither Parquet nor UTF-8 text.
    """
    if path.is_dir():
        raise InputError(f"{path}: a folder, expected a file. {EXPECTED}.")
    if not path.is_file():
        raise InputError(f"{path}: no such file. {EXPECTED}.")
    with open(path, "rb") as file:
        head = file.read(1 << 16)
    if not head.strip():
        raise InputError(f"{path}: the file is empty. {EXPECTED}.")
    if head.startswith(b"PAR1"):
        return _parquet_rows(path)
    first_line = head.removeprefix(b"\xef\xbb\xbf").lstrip().split(b"\n")[0]
    if b"\0" in first_line or not _is_utf8(first_line):
        raise InputError(f"{path}: not UTF-8 text and not Parquet (it begins {head[:12]!r}). {EXPECTED}.")
    return _jsonl_rows(path) if first_line.startswith(b"{") else _csv_rows(path)


def _is_utf8(data: bytes) -> bool:
    """Whether these are UTF-8; a character cut off at the end is none of their fault."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return True


def _undecodable(text: str, where: str) -> RowError | None:
    """The problem of text with bytes that were no UTF-8, which errors="surrogateescape" has kept as U+DC80-U+DCFF."""
    broken = not text.isascii() and _ESCAPED_BYTE.search(text)
    return RowError(where, "bytes that are not UTF-8") if broken else None


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict, None]]:
    try:
        number = 0
        for batch in pq.ParquetFile(path).iter_batches(BATCH):
            for row in batch.to_pylist():
                number += 1
                yield number, row, None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: broken Parquet ({reason}). Download or write it again.") from error


def _jsonl_rows(path: Path) -> Iterator[tuple[int, dict, RowError | None]]:
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as lines:
        for number, line in enumerate((line for line in lines if line.strip()), start=1):
            problem = _undecodable(line, "line")
            try:
                row = json.loads(line)
                problem = problem or (None if isinstance(row, dict) else RowError("line", "not a JSON object"))
            except (ValueError, RecursionError) as error:
                problem = RowError("line", f"broken JSON ({error})")
            yield number, row if problem is None else {"line": line.rstrip("\r\n")}, problem


def _csv_rows(path: Path) -> Iterator[tuple[int, dict, RowError | None]]:
    csv.field_size_limit(sys.maxsize)
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)  # strict: else a quote that never closes swallows rows in silence
        header = _csv_header(path, reader)
        number = 0
        while True:
            line = reader.line_num + 1
            try:
                cells, problem = next(reader), None
            except StopIteration:
                return
            except csv.Error as error:
                if "unexpected end of data" in str(error):
                    raise InputError(
                        f"{path} row {number + 1}: a quote opened near line {line} never closes, or the file is cut "
                        "off. Download it again, or write it with the quotes inside a field doubled."
                    ) from error
                cells, problem = [f"line {line}"], RowError("line", f"broken CSV at line {line} ({error})")
            if cells:  # an empty line is no row
                number += 1
                yield number, *_csv_row(header, cells, problem)


def _csv_header(path: Path, reader) -> list[str]:
    try:
        header = [cell.strip() for cell in next(reader)]
    except csv.Error as error:
        raise InputError(f"{path}: the header is broken CSV ({error}). {EXPECTED}.") from error
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise InputError(f"{path}: column {twice[0]!r} stands twice in the header; expected each name once.")
    return header


def _csv_row(header: list[str], cells: list[str], problem: RowError | None) -> tuple[dict, RowError | None]:
    if problem is None and len(cells) != len(header):
        problem = RowError("line", f"{len(cells)} cells, the header has {len(header)}")
    row = dict(zip(header, cells, strict=False))
    for name, cell in row.items():
        problem = problem or _undecodable(cell, name)
    return (row if len(cells) == len(header) else {"cells": cells}), problem
