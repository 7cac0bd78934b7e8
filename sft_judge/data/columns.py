"""
Optional columns of a battles file: their types, and the treatment of a user's own column of the same name.

A column that only describes battles is left out with a warning. A column that changes numbers raises an error, because
neither reading it nor leaving it out would be what the user meant.
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
LARGEST = 3.4e38  # largest number accepted (float32's); the sum of billions of them is finite in float64
LEAST = {"weight": 0.0, "margin": -LARGEST, **dict.fromkeys(SOFT, 0.0)}


def expected_type(kind: pa.DataType) -> str:
    """Return a description of a column type for messages."""
    return {pa.string(): "text", pa.int64(): "whole numbers", pa.float64(): "numbers"}.get(kind, "lists of text")


def is_foreign_value(value, kind: pa.DataType) -> bool:
    """
    Return True if a column of type `kind` cannot hold a JSON value; numbers are accepted as text.

    Args:
        value: the value.
        kind: type of the column.
    """
    if pa.types.is_list(kind):
        return not (isinstance(value, list) and all(isinstance(item, str) for item in value))
    if kind == pa.string():
        return isinstance(value, bool) or not isinstance(value, str | int | float)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return True
    return kind == pa.int64() and not float(value).is_integer()


def is_foreign_type(stored: pa.DataType, kind: pa.DataType) -> bool:
    """
    Return True if a stored Parquet type cannot be converted to `kind`.

    Args:
        stored: type in the file.
        kind: type of the column; a list type accepts only lists of text, other types accept text and numbers.
    """
    if pa.types.is_list(kind):
        lists = pa.types.is_list(stored) or pa.types.is_large_list(stored)
        return not (lists and stored.value_type in (pa.string(), pa.large_string(), pa.null()))
    stored = stored.value_type if pa.types.is_dictionary(stored) else stored
    text = ("null", "string", "large_string", "string_view", "binary", "large_binary")
    known = (*text, "integer", "floating", "decimal")
    return not any(getattr(pa.types, f"is_{name}")(stored) for name in known)


def refuse_column(path, name: str, seen: str, kind: pa.DataType) -> InputError:
    """
    Build the error for a column that changes numbers and has the wrong type.

    Args:
        path: the file.
        name: the column.
        seen: what the column holds.
        kind: expected type.
    """
    return InputError(f"{path}: column {name!r} holds {seen}, expected {expected_type(kind)}. {REMEDY}.")


@functools.lru_cache(maxsize=1024)  # warn once, however often a stage opens the file
def leave_out_column(path, name: str, seen: str, kind: pa.DataType) -> None:
    """
    Warn that a column is left out.

    Args:
        path: the file.
        name: the column.
        seen: what the column holds.
        kind: expected type.

    Raises:
        InputError: the column changes numbers.
    """
    if name in CHANGES_NUMBERS:
        raise refuse_column(path, name, seen, kind)
    logger.warning(f"{path}: column {name!r} holds {seen}, expected {expected_type(kind)}. It is left out.")


def keep_own_values(path, rows: list[dict], kinds: dict[str, pa.DataType]) -> None:
    """
    Drop columns of the wrong type from JSON rows in place, see `leave_out_column`; convert numbers in text columns.

    Args:
        path: the file, for messages.
        rows: the rows, modified in place.
        kinds: type of each optional column.
    """
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
    Return the row of the first battle with an unusable weight, margin or soft label and the reason, or None.

    One infinite weight takes the share of all other battles, and one NaN makes every sum with it NaN.
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
