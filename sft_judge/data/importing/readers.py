"""
Reader of source files as rows: CSV, JSONL, a JSON list or Parquet.

The contents decide the format, not the file's name. A file that cannot be read raises `InputError`; a row that cannot
be read is returned with its problem. A gzip file is decompressed while it is read, within the limits on a line. Other
archives are not unpacked, because an archive of a few kilobytes can hold more than the disk.
"""

import codecs
import csv
import gzip
import io
import logging
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sft_judge.core.errors import InputError, one_line
from sft_judge.core.files import check_columns, load_json
from sft_judge.data.importing.conversation import RowError

logger = logging.getLogger(__name__)

EXPECTED = "Expected CSV, JSONL, a JSON list or Parquet"
ROWS_PER_BATCH = 2_000  # Parquet rows in memory at a time
LONGEST_ROW = 64 << 20  # maximum bytes of a JSONL line or of a CSV cell
LARGEST_GROUP = 4 << 30  # maximum bytes of an uncompressed Parquet row group
GZIP = b"\x1f\x8b"
LARGEST_LIST = 1 << 30  # maximum bytes of a file that is one JSON list, which is read into memory at once
ARCHIVES = {b"PK\x03\x04": "a zip", b"7z\xbc\xaf": "a 7z", b"\x28\xb5\x2f\xfd": "a zstd"}
ARCHIVES |= {b"BZh": "a bzip2", b"\xfd7zXZ": "an xz", b"Rar!": "a rar"}
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")


def read_rows(path: Path) -> Iterator[tuple[int, dict, RowError | None]]:
    """
    Yield (row number from 1, row, None), with the problem instead of None if a row cannot be read.

    Raises:
        InputError: the file is missing, empty, a folder or an archive, or is neither Parquet nor UTF-8 text.
    """
    if path.is_dir():
        raise InputError(f"{path}: a folder, expected a file. {EXPECTED}.")
    if not path.is_file():
        raise InputError(f"{path}: no such file. {EXPECTED}.")
    with _open_bytes(path) as file:
        try:
            head = file.read(1 << 16)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path}: a gzip file that cannot be unpacked ({error}). Copy it again.") from error
    if not head.strip():
        raise InputError(f"{path}: the file is empty. {EXPECTED}.")
    archive = next((name for magic, name in ARCHIVES.items() if head.startswith(magic)), None)
    if archive:
        raise InputError(f"{path}: {archive} archive, which cannot be read. Unpack it and give the file inside.")
    if head.startswith(b"PAR1"):
        return _parquet_rows(path)
    return _unpack_to_the_end(path, _text_rows(path, head))


def _text_rows(path: Path, head: bytes) -> Iterator[tuple[int, dict, RowError | None]]:
    first_line = head.removeprefix(b"\xef\xbb\xbf").lstrip().split(b"\n")[0]
    if b"\0" in first_line or not _is_utf8(first_line):
        raise InputError(f"{path}: not UTF-8 text and not Parquet (it begins {head[:12]!r}). {EXPECTED}.")
    if first_line.startswith(b"["):
        return _list_rows(path)
    return _jsonl_rows(path) if first_line.startswith(b"{") else _csv_rows(path)


def _unpack_to_the_end(path: Path, rows: Iterator) -> Iterator:
    """
    Yield rows as they come.

    Raises:
        InputError: a gzip file is truncated.
    """
    try:
        yield from rows
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: a gzip file that cannot be unpacked ({error}). Copy it again.") from error


def _open_bytes(path: Path):
    """Open a file's bytes; a gzip file is decompressed as far as it is read."""
    with open(path, "rb") as file:
        zipped = file.read(2) == GZIP
    return gzip.open(path, "rb") if zipped else open(path, "rb")


def _open_text(path: Path, newline: str):
    """Open a file as text; bytes that are not UTF-8 become surrogates."""
    return io.TextIOWrapper(_open_bytes(path), encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _is_utf8(data: bytes) -> bool:
    """Return True if these bytes are UTF-8; a character cut off at the end is accepted."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return True


def _undecodable(text: str, where: str) -> RowError | None:
    """
    Return the problem of a text with bytes that are not UTF-8, which errors="surrogateescape" keeps as U+DC80-U+DCFF.
    """
    broken = not text.isascii() and _ESCAPED_BYTE.search(text)
    return RowError(where, "bytes that are not UTF-8") if broken else None


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict, None]]:
    try:
        number, file = 0, pq.ParquetFile(path, pre_buffer=False)  # a buffer would keep the whole file
        check_columns(path, file.schema_arrow.names)
        groups = [file.metadata.row_group(place).total_byte_size for place in range(file.metadata.num_row_groups)]
        if max(groups, default=0) > LARGEST_GROUP:
            raise InputError(
                f"{path}: a row group of {max(groups) / 2**30:.0f} GiB uncompressed, but the maximum is "
                f"{LARGEST_GROUP >> 30} GiB. Write the file again with smaller row groups."
            )
        for batch in file.iter_batches(ROWS_PER_BATCH, use_threads=False):
            for row in batch.to_pylist():
                number += 1
                yield number, row, None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: broken Parquet ({one_line(error)}). Download or write it again.") from error


def _jsonl_rows(path: Path) -> Iterator[tuple[int, dict, RowError | None]]:
    with _open_text(path, "\n") as file:
        for number, line in enumerate((line for line in _lines(file) if line.strip()), start=1):
            problem = _undecodable(line, "line")
            if len(line) > LONGEST_ROW:
                yield number, {"line": line[:200]}, RowError("line", f"longer than {LONGEST_ROW:,} characters")
                continue
            try:
                row = load_json(line)
                problem = problem or (None if isinstance(row, dict) else RowError("line", "not a JSON object"))
            except (ValueError, RecursionError) as error:
                problem = RowError("line", f"broken JSON ({error})")
            yield number, row if problem is None else {"line": line.rstrip("\r\n")}, problem


def _lines(file) -> Iterator[str]:
    """Yield the lines of a text file; a line that is too long is cut one character above the limit."""
    while line := file.readline(LONGEST_ROW + 1):
        rest = line
        while len(rest) > LONGEST_ROW and not rest.endswith("\n"):
            rest = file.readline(LONGEST_ROW + 1)
        yield line


def _list_rows(path: Path) -> Iterator[tuple[int, dict, RowError | None]]:
    with _open_bytes(path) as file:
        data = file.read(LARGEST_LIST + 1)
    if len(data) > LARGEST_LIST:
        raise InputError(
            f"{path}: one JSON list of more than {LARGEST_LIST / 2**30:.0f} GiB, which would be read into memory at "
            "once. Write it as JSONL, one object per line."
        )
    try:
        items = load_json(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: broken JSON ({error}). {EXPECTED}.") from error
    if not isinstance(items, list):
        raise InputError(f"{path}: a JSON {type(items).__name__}, expected a list of objects. {EXPECTED}.")
    for number, item in enumerate(items, start=1):
        if isinstance(item, dict):
            yield number, item, None
        else:
            yield number, {"item": item}, RowError("line", "not a JSON object")


def _csv_rows(path: Path) -> Iterator[tuple[int, dict, RowError | None]]:
    csv.field_size_limit(LONGEST_ROW)
    with _open_text(path, "") as file:
        delimiter = _delimiter(path, file.readline(LONGEST_ROW))
        file.seek(0)
        reader = csv.reader(
            file, delimiter=delimiter, strict=True
        )  # strict: otherwise an unclosed quote silently merges rows
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
            if cells:  # an empty line is not a row
                number += 1
                yield number, *_csv_row(header, cells, problem)


def _delimiter(path: Path, first_line: str) -> str:
    """Return the delimiter of a header: a comma, or a semicolon or tab if it is more frequent, which is logged."""
    delimiter = max(",;\t", key=first_line.count)  # a comma if they are equally frequent
    if delimiter != ",":
        logger.info(f"{path}: its cells are separated by {'semicolons' if delimiter == ';' else 'tabs'}.")
    return delimiter


def _csv_header(path: Path, reader) -> list[str]:
    try:
        header = [cell.strip() for cell in next(reader)]
    except csv.Error as error:
        raise InputError(f"{path}: the header is broken CSV ({error}). {EXPECTED}.") from error
    check_columns(path, header)
    return header


def _csv_row(header: list[str], cells: list[str], problem: RowError | None) -> tuple[dict, RowError | None]:
    if problem is None and len(cells) != len(header):
        problem = RowError("line", f"{len(cells)} cells, the header has {len(header)}")
    row = dict(zip(header, cells, strict=False))
    for name, cell in row.items():
        problem = problem or _undecodable(cell, name)
    return (row if len(cells) == len(header) else {"cells": cells}), problem
