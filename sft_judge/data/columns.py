"""
The optional columns of a battles file: their types, and what becomes of a user's own column of such a name.

One that only describes battles is left out, and that is said. One that changes numbers is refused: neither reading it
nor leaving it out would be what its author meant.
"""

import functools
import logging

import pyarrow as pa
import pyarrow.compute as pc

from sft_judge.core.errors import InputError
from sft_judge.core.verdicts import VERDICTS

logger = logging.getLogger(__name__)

CHANGES_NUMBERS = ("fold", "weight", "margin", "soft_a", "soft_b", "soft_tie")
SOFT = tuple(f"soft_{name}" for name in VERDICTS)
REMEDY = "Rename the column, or drop it"
LARGEST = 3.4e38  # of a number, as float32 holds it; the sum of billions of them is finite in float64
LEAST = {"weight": 0.0, "margin": -LARGEST, **dict.fromkeys(SOFT, 0.0)}


def expected_type(kind: pa.DataType) -> str:
    """What a column of this type holds, in words."""
    return {pa.string(): "text", pa.int64(): "whole numbers", pa.float64(): "numbers"}.get(kind, "lists of text")


def is_foreign_value(value, kind: pa.DataType) -> bool:
    """Whether a value of JSON is of a type that a column of `kind` cannot hold; numbers are text where text is due."""
    if pa.types.is_list(kind):
        return not (isinstance(value, list) and all(isinstance(item, str) for item in value))
    if kind == pa.string():
        return isinstance(value, bool) or not isinstance(value, str | int | float)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return True
    return kind == pa.int64() and not float(value).is_integer()


def is_foreign_type(stored: pa.DataType, kind: pa.DataType) -> bool:
    """Whether a column of Parquet holds neither text nor numbers or, where `kind` is one, no lists of text."""
    if pa.types.is_list(kind):
        lists = pa.types.is_list(stored) or pa.types.is_large_list(stored)
        return not (lists and stored.value_type in (pa.string(), pa.large_string(), pa.null()))
    stored = stored.value_type if pa.types.is_dictionary(stored) else stored
    text = ("null", "string", "large_string", "string_view", "binary", "large_binary")
    known = (*text, "integer", "floating", "decimal")
    return not any(getattr(pa.types, f"is_{name}")(stored) for name in known)


def refuse_column(path, name: str, seen: str, kind: pa.DataType) -> InputError:
    """The error for a column that changes numbers and holds something else than them."""
    return InputError(f"{path}: column {name!r} holds {seen}, expected {expected_type(kind)}. {REMEDY}.")


@functools.lru_cache(maxsize=1024)  # said once, however often a stage opens the file
def leave_out_column(path, name: str, seen: str, kind: pa.DataType) -> None:
    """Say that a column is left out. Raises `InputError` for one that changes numbers."""
    if name in CHANGES_NUMBERS:
        raise refuse_column(path, name, seen, kind)
    logger.warning(f"{path}: column {name!r} holds {seen}, expected {expected_type(kind)}: read without it.")


def keep_own_values(path, rows: list[dict], kinds: dict[str, pa.DataType]) -> None:
    """Drop from rows of JSON, in place, what `leave_out_column` leaves out; numbers become text where text is due."""
    for name, kind in kinds.items():
        values = [row[name] for row in rows if row.get(name) is not None]
        foreign = next((value for value in values if is_foreign_value(value, kind)), None)
        if foreign is not None:
            leave_out_column(path, name, f"a {type(foreign).__name__} ({str(foreign)[:40]})", kind)
        for row in rows if values else ():
            if foreign is not None:
                row.pop(name, None)
            elif kind == pa.string() and row.get(name) is not None:
                row[name] = str(row[name])


def find_bad_number(table: pa.Table) -> tuple[int, str] | None:
    """
    The first battle whose weight, margin or soft labels cannot be used, by its row in the table, and why; else None.

    One infinite weight takes every other battle's share, and one NaN spoils each sum that it is in.
    """
    for name, least in LEAST.items():
        if name in table.column_names:
            column = table[name]
            inside = pc.and_(pc.greater_equal(column, least), pc.less_equal(column, LARGEST))  # a NaN is neither
            row = pc.index(pc.fill_null(inside, True), False).as_py()
            if row >= 0:
                return row, f"{name} is {column[row].as_py()}, expected a number from {least:g} to {LARGEST:g}"
    return _find_bad_shares(table)


def _find_bad_shares(table: pa.Table) -> tuple[int, str] | None:
    there = [name for name in SOFT if name in table.column_names]
    if not there:
        return None
    shares = [table[name] if name in there else pa.nulls(table.num_rows, pa.float64()) for name in SOFT]
    given = functools.reduce(pc.or_, [pc.is_valid(share) for share in shares])
    whole = pc.and_(pc.is_valid(shares[0]), pc.is_valid(shares[1]))
    total = functools.reduce(pc.add, [pc.fill_null(share, 0.0) for share in shares])
    row = pc.index(pc.and_(given, pc.invert(pc.and_(whole, pc.greater(total, 0)))), True).as_py()
    if row < 0:
        return None
    seen = ", ".join(f"{name} {share[row].as_py()}" for name, share in zip(SOFT, shares, strict=True))
    return row, f"{seen}: expected both soft_a and soft_b, and shares that add up to more than 0"
