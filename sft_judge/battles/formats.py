"""
From one row of a source format to one battle.

Three formats are known, told apart by their columns: `lmsys` (JSON lists of turns, one-hot winners), `wsdm` (plain
strings, a winner's name) and `battles` (our own, and the JSONL it is exchanged in). A row that cannot be a battle
raises `RowError`; what is only odd is mended as each function says, and counted.
"""

import json
import re
from collections import Counter

import pyarrow as pa

from sft_judge.battles.schema import FIELDS, OPTIONAL
from sft_judge.errors import InputError, nearest
from sft_judge.verdicts import VERDICTS

LMSYS_WINNERS = ("winner_model_a", "winner_model_b", "winner_tie")  # in the order of VERDICTS
WINNER_NAMES = {"model_a": "a", "model_b": "b", "a": "a", "b": "b", "tie": "tie"}
NEEDED = ("id", *FIELDS)
_SURROGATE = re.compile("[\ud800-\udfff]")


class RowError(ValueError):
    """One row that cannot be a battle: the field at fault and why."""

    def __init__(self, field: str, reason: str):
        super().__init__(reason)
        self.field, self.reason = field, reason


def detect_format(path, columns: list[str], first_rows: list[dict]) -> str:
    """
    The format of a file with these columns, whose first rows decide between plain strings and JSON lists.

    Raises `InputError` for a column that every format needs and that is missing, naming the nearest there is.
    """
    for name in NEEDED:
        if name not in columns:
            raise InputError(
                f"{path}: no column {name!r}.{nearest(name, columns)} There are {', '.join(map(str, columns))[:200]}; "
                f"every format needs {', '.join(NEEDED)}."
            )
    if any(str(name).startswith("winner_") for name in columns):
        missing = [name for name in LMSYS_WINNERS if name not in columns]
        if missing:
            raise InputError(
                f"{path}: no column {missing[0]!r}.{nearest(missing[0], columns)} "
                f"The LMSYS format has {', '.join(LMSYS_WINNERS)}, or none of them where rows have no labels."
            )
        return "lmsys"
    if "verdict" in columns or any(isinstance(row.get(name), list) for row in first_rows for name in FIELDS):
        return "battles"
    if "winner" in columns:
        return "wsdm"
    lists = sum(all(_is_json_list(row.get(name)) for name in FIELDS) for row in first_rows)
    return "lmsys" if lists * 2 > len(first_rows) else "wsdm"


def _is_json_list(value) -> bool:
    try:
        return (
            isinstance(value, str)
            and value.lstrip().startswith("[")
            and isinstance(json.loads(value, strict=False), list)
        )
    except (ValueError, RecursionError):
        return False


def clean_text(text: str, mended: Counter) -> str:
    """Text as it can be stored: unpaired surrogates, which UTF-8 cannot hold, become U+FFFD. NUL and all else stay."""
    if not text.isascii() and _SURROGATE.search(text):
        text, count = _SURROGATE.subn("\ufffd", text)
        mended["unpaired surrogates replaced by U+FFFD"] += count
    return text


def json_turns(value, field: str, mended: Counter) -> list[str]:
    """
    The turns of a JSON cell: a list, or a plain JSON string or number, which is one turn.

    Numbers keep the text they were read from, and control characters stay where strict JSON would refuse them.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value, strict=False, parse_float=str, parse_int=str, parse_constant=str)
        except (ValueError, RecursionError) as error:
            raise RowError(field, f"broken JSON ({error}), expected a list of turns") from error
    return listed_turns(value, field, mended)


def listed_turns(value, field: str, mended: Counter) -> list[str]:
    """The turns of a list, or of plain text, which is one turn. A `null` turn (no answer came) becomes ""."""
    if value is None:
        raise RowError(field, "missing or null, expected turns")
    turns = value if isinstance(value, list) else [value]
    for turn in turns:
        if isinstance(turn, dict | list | bool):
            raise RowError(field, f"a turn is a {type(turn).__name__}, expected a string")
    mended["null turns kept as empty"] += sum(turn is None for turn in turns)
    return [clean_text("" if turn is None else str(turn), mended) for turn in turns]


def plain_turn(value, field: str, mended: Counter) -> list[str]:
    """One turn from a plain cell, whatever is in it; an empty one is kept. Raises `RowError` where it is missing."""
    if isinstance(value, list):
        raise RowError(field, "a list, expected text")
    return listed_turns(value, field, mended)


TURNS_OF = {"lmsys": json_turns, "wsdm": plain_turn, "battles": listed_turns}


def one_hot_verdict(row: dict) -> str:
    """The verdict of LMSYS's three columns, of which exactly one must be 1."""
    flags = []
    for name in LMSYS_WINNERS:
        try:
            flags.append(float(row[name]))
        except (KeyError, TypeError, ValueError):
            raise RowError(name, f"{row.get(name)!r}, expected 0 or 1") from None
        if flags[-1] not in (0, 1):
            raise RowError(name, f"{row.get(name)!r}, expected 0 or 1")
    if sum(flags) != 1:
        raise RowError("winner", f"{int(sum(flags))} winners, expected exactly one")
    return VERDICTS[flags.index(1)]


def named_verdict(row: dict) -> str | None:
    """The verdict of a `verdict` or `winner` column; a row of ours with a null verdict is unlabelled."""
    if "verdict" in row or "winner" not in row:
        verdict = row.get("verdict")
        if verdict not in (*VERDICTS, None):
            raise RowError("verdict", f"{verdict!r}, expected {', '.join(VERDICTS)} or null")
        return verdict
    name = row["winner"]
    if not isinstance(name, str) or name.strip() not in WINNER_NAMES:
        raise RowError("winner", f"{name!r}, expected one of {', '.join(WINNER_NAMES)}")
    return WINNER_NAMES[name.strip()]


def to_battle(row: dict, format_name: str, source: str, mended: Counter) -> dict:
    """One battle from one row. Raises `RowError`; `mended` counts what was repaired on the way."""
    battle = {"id": row_id(row)}
    if battle["id"] is None:
        raise RowError("id", "missing, expected a string or a number")
    for name in FIELDS:
        battle[name] = TURNS_OF[format_name](row.get(name), name, mended)
    lengths = [len(battle[name]) for name in FIELDS]
    if lengths[0] == 0:
        raise RowError("prompt", "an empty list, expected at least one turn")
    if len(set(lengths)) > 1:
        raise RowError("response_a" if lengths[0] != lengths[1] else "response_b", f"unequal turns {lengths}")
    battle["verdict"] = one_hot_verdict(row) if LMSYS_WINNERS[0] in row else named_verdict(row)
    return {**battle, **_optional_fields(row, mended), "source": str(row.get("source") or source)}


def _optional_fields(row: dict, mended: Counter) -> dict:
    """What a row says beyond the required: its own columns, or those of `meta` in the exchange JSONL."""
    meta = row.get("meta") if isinstance(row.get("meta"), dict) else {}
    stated = {**{name: meta.get(name) for name in ("model_a", "model_b")}, "language": meta.get("lang"), **row}
    found = {}
    for name, kind in OPTIONAL.items():
        value = stated.get(name)
        if value is None or value == "" or value != value:  # NaN is how pandas says null
            continue
        try:
            found[name] = clean_text(str(value), mended) if kind == pa.string() else kind.to_pandas_dtype()(value)
        except (TypeError, ValueError):
            raise RowError(name, f"{value!r}, expected a number") from None
    return found


def row_id(row: dict) -> str | None:
    """The id of a row as text, None where it has none."""
    value = row.get("id")
    if value is None or isinstance(value, dict | list | bool) or not str(value).strip():
        return None
    text = str(value).strip()
    return None if _SURROGATE.search(text) else text
