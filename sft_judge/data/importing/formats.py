"""
Conversion of one row of a source format to one battle.

The columns determine the format (`detect_format`). A row that cannot be a battle raises `RowError`. Minor defects are
repaired as documented by each function, and counted.
"""

from collections import Counter

import pyarrow as pa

from sft_judge.core.choices import IMPORT_FORMATS
from sft_judge.core.errors import InputError, nearest
from sft_judge.data.battles import FIELDS, OPTIONAL
from sft_judge.data.columns import CHANGES_NUMBERS, LARGEST, LEAST, REMEDY, SOFT, expected_type, is_foreign_value
from sft_judge.data.importing import conversation as turns
from sft_judge.data.importing import labels
from sft_judge.data.importing.conversation import SURROGATE, RowError, clean_text
from sft_judge.data.importing.labels import Reading
from sft_judge.data.importing.literals import read_list
from sft_judge.data.importing.preference import preference_battle

REQUIRED_COLUMNS = ("id", *FIELDS)


def detect_format(path, columns: list[str], first_rows: list[dict]) -> str:
    """
    Detect the format of a file from its columns; the first rows distinguish plain strings from JSON lists.

    Args:
        path: the file, for messages.
        columns: its columns.
        first_rows: its first rows.

    Raises:
        InputError: the columns fit no known format; the message suggests the nearest name.
    """
    if {"conversation_a", "conversation_b"} <= set(columns):
        return "arena"
    if {"chosen", "rejected"} <= set(columns):
        return "rewardbench" if {"prompt", "subset"} <= set(columns) else "preference"
    if {"question", "response_A", "response_B", "label"} <= set(columns):
        return "judgebench"
    if {*FIELDS} <= set(columns) and any(set(pair) <= set(columns) for pair in labels.SCORES):
        return "rated"
    for name in REQUIRED_COLUMNS:
        if name not in columns:
            raise InputError(
                f"{path}: no column {name!r}.{nearest(name, columns)} There are {', '.join(map(str, columns))[:200]}; "
                f"expected {', '.join(REQUIRED_COLUMNS)}, or chosen and rejected, or conversation_a and "
                "conversation_b. For other columns use --map."
            )
    if any(str(name).startswith("winner_") for name in columns):
        missing = [name for name in labels.LMSYS_WINNERS if name not in columns]
        if missing:
            raise InputError(
                f"{path}: no column {missing[0]!r}.{nearest(missing[0], columns)} "
                f"The LMSYS format has {', '.join(labels.LMSYS_WINNERS)}, or none of them if rows have no labels."
            )
        return "lmsys"
    if "verdict" in columns or any(isinstance(row.get(name), list) for row in first_rows for name in FIELDS):
        return "battles"
    # lists in most rows are turns; lists in a few rows are text that somebody wrote
    lists = sum(all(_is_list(row.get(name)) for name in FIELDS) for row in first_rows)
    return "lmsys" if lists * 2 > len(first_rows) else "wsdm"


def _is_list(value) -> bool:
    return isinstance(value, str) and read_list(value) is not None


def _own_turns(row: dict, read, reading: Reading) -> dict:
    return {name: read(row.get(name), name, reading.mended) for name in FIELDS}


def lmsys_battle(row: dict, reading: Reading) -> dict:
    """
    Convert a row of the LMSYS CSV: JSON lists of turns, one-hot winners; without winners the battle is unlabelled.

    Args:
        row: the row.
        reading: settings and counters.
    """
    one_hot = labels.LMSYS_WINNERS[0] in row
    verdict = labels.one_hot_verdict(row) if one_hot else labels.named_verdict(row, reading.mended)
    return {**_own_turns(row, turns.json_turns, reading), "verdict": verdict}


def wsdm_battle(row: dict, reading: Reading) -> dict:
    """
    Convert a row of the WSDM Cup: plain strings, the winner by name.

    Args:
        row: the row.
        reading: settings and counters.
    """
    return {**_own_turns(row, turns.plain_turn, reading), "verdict": labels.named_verdict(row, reading.mended)}


def own_battle(row: dict, reading: Reading) -> dict:
    """
    Convert a row with our own columns, or of the exchange JSONL (`winner`, `meta`).

    Args:
        row: the row.
        reading: settings and counters.
    """
    return {**_own_turns(row, turns.listed_turns, reading), "verdict": labels.named_verdict(row, reading.mended)}


def rated_battle(row: dict, reading: Reading) -> dict:
    """
    Convert a row with two responses and a score for each.

    Args:
        row: the row.
        reading: settings and counters.
    """
    scores = labels.row_scores(row, labels.SCORES)
    verdict, margin = labels.scored_verdict(scores, reading.tie_margin), scores and abs(scores[0] - scores[1])
    return {**_own_turns(row, turns.listed_turns, reading), "verdict": verdict, "margin": margin}


def judgebench_battle(row: dict, reading: Reading) -> dict:
    """
    Convert a row of JudgeBench: a question, two responses of one model, and the right response as `A>B` or `B>A`.

    Args:
        row: the row.
        reading: settings and counters.
    """
    verdict = {"A>B": "a", "B>A": "b"}.get(str(row.get("label")))
    if verdict is None:
        raise RowError("label", f"{row.get('label')!r}, expected 'A>B' or 'B>A'")
    names = zip(FIELDS, ("question", "response_A", "response_B"), strict=True)
    return {**{own: turns.plain_turn(row.get(name), name, reading.mended) for own, name in names}, "verdict": verdict}


def arena_battle(row: dict, reading: Reading) -> dict:
    """
    Convert a row with two chats of the same prompts, `conversation_a` and `conversation_b`, and the winner by name.

    Args:
        row: the row.
        reading: settings and counters.
    """
    chats = []
    for name in ("conversation_a", "conversation_b"):
        messages = turns.read_messages(row.get(name), name, reading.mended)
        if messages is None:
            raise RowError(name, "no messages, expected a list of them")
        chats.append(turns.pair_turns(messages, name, reading.mended))
    (prompts, response_a), (others, response_b) = chats
    if prompts != others:
        raise RowError("conversation_b", "its prompts differ from those of conversation_a")
    verdict = labels.named_verdict(row, reading.mended)
    return {"prompt": prompts, "response_a": response_a, "response_b": response_b, "verdict": verdict}


def mapped_battle(row: dict, reading: Reading) -> dict:
    """
    Convert a row whose columns a map has already renamed.

    Args:
        row: the row.
        reading: settings and counters.
    """
    return {name: row[name] for name in (*FIELDS, "verdict")}


FORMATS = {
    "lmsys": lmsys_battle,
    "wsdm": wsdm_battle,
    "battles": own_battle,
    "preference": preference_battle,
    "rewardbench": preference_battle,
    "rated": rated_battle,
    "judgebench": judgebench_battle,
    "arena": arena_battle,
}
assert set(FORMATS) == set(IMPORT_FORMATS)
MAPPED = "columns by --map"
READERS = {**FORMATS, MAPPED: mapped_battle}


def to_battle(row: dict, format_name: str, source: str, number: int, reading: Reading) -> dict:
    """
    Convert one row of a source to a battle.

    Args:
        row: the row.
        format_name: one of FORMATS, or MAPPED.
        source: short name of the source.
        number: row number in the source.
        reading: settings and counters; repairs are counted in it.

    Raises:
        RowError: the row cannot be a battle.
    """
    if format_name == MAPPED:
        row = reading.columns.read(row, reading.mended, f"{source} row {number}")
    identity = row_id(row, format_name)
    if isinstance(row.get("id"), float) and abs(row["id"]) >= 2**53:
        raise RowError("id", f"{row['id']} is a float, which cannot represent such ids exactly; write them as text")
    if identity is not None and reading.prefix_ids:
        identity = f"{source}-{identity}"
    battle = {"id": identity or _made_id(row, format_name, source, number)}
    battle |= (
        {name: row[name] for name in (*FIELDS, "verdict")}
        if format_name == MAPPED
        else FORMATS[format_name](row, reading)
    )
    lengths = [len(battle[name]) for name in FIELDS]
    if lengths[0] == 0:
        raise RowError("prompt", "an empty list, expected at least one turn")
    if len(set(lengths)) > 1:
        raise RowError("response_a" if lengths[0] != lengths[1] else "response_b", f"unequal turns {lengths}")
    if battle["response_a"] == battle["response_b"] and battle["verdict"] in ("a", "b"):
        one, other = ("rejected", "chosen") if FORMATS.get(format_name) is preference_battle else FIELDS[:0:-1]
        raise RowError(one, f"the same as {other}, so neither can be better")
    kind = labels.TIE_KINDS.get(str(row.get("winner")).strip())
    if kind and battle["verdict"] == "tie":
        battle["tie_kind"] = kind
    models = {name: battle.pop(name) for name in ("model_a", "model_b") if name in battle}  # only in preference data
    optional = _optional_fields({**row, **{name: model for name, model in models.items() if model}}, reading.mended)
    for name in [name for name, model in models.items() if not model and optional.pop(name, None)]:
        reading.mended[f"values of column {name!r} left out: chosen and rejected are neither a nor b"] += 1
    subset = row.get("subset") if format_name == "rewardbench" else None
    named = optional.get("source") or subset or source
    return {**battle, **optional, "source": clean_text(str(named), reading.mended)}


def _optional_fields(row: dict, mended: Counter) -> dict:
    """Return the optional fields of a row, from its own columns or from `meta` in the exchange JSONL."""
    meta = row.get("meta") if isinstance(row.get("meta"), dict) else {}
    stated = {
        **{name: meta.get(name) for name in ("model_a", "model_b", "category")},
        "language": meta.get("lang"),
        **row,
    }
    fields = {}
    for name, kind in OPTIONAL.items():
        value = stated.get(name)
        if value is None or value == "" or value != value:  # pandas writes null as NaN
            continue
        try:
            if is_foreign_value(value, kind) if pa.types.is_list(kind) else isinstance(value, dict | list | bool):
                raise TypeError
            if pa.types.is_list(kind):
                fields[name] = [clean_text(item, mended) for item in value]
                continue
            fields[name] = clean_text(str(value), mended) if kind == pa.string() else _number(value, kind, name)
        except (TypeError, ValueError, OverflowError):
            seen = f"a {type(value).__name__}"
            if name in CHANGES_NUMBERS:
                seen = seen if isinstance(value, dict | list | bool) else repr(value)
                expected = "a number of 0 or more" if LEAST.get(name) == 0 else "a number"
                raise RowError(name, f"{seen}, expected {expected}. {REMEDY}") from None
            mended[f"values of column {name!r} left out: {seen}, expected {expected_type(kind)}"] += 1
    shares = [fields.get(name) for name in SOFT]
    if any(share is not None for share in shares) and (None in shares[:2] or not sum(filter(None, shares)) > 0):
        raise RowError(SOFT[0], f"shares {shares}, expected those of a and b, which add up to more than 0. {REMEDY}")
    return fields


def _number(value, kind: pa.DataType, name: str) -> int | float:
    """
    Convert a value to a number that its column can hold; a fold may be written 3.0.

    Raises:
        ValueError: the value is not such a number.
    """
    number = float(value)
    if not LEAST.get(name, -LARGEST) <= number <= LARGEST:
        raise ValueError
    if kind == pa.int64() and (number != int(number) or abs(number) >= 2**53):
        raise ValueError
    return int(number) if kind == pa.int64() else number


def row_id(row: dict, format_name: str) -> str | None:
    """
    Return the id of a row as text, or None without an id; the id of an Arena battle is its question's.

    Args:
        row: the row.
        format_name: format of the row.
    """
    value = row.get("id", row.get({"arena": "question_id", "judgebench": "pair_id"}.get(format_name)))
    if value is None or isinstance(value, dict | list | bool) or not str(value).strip() or value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas reads an integer column with missing values as floats
    text = str(value).strip()
    return None if SURROGATE.search(text) else text


def _made_id(row: dict, format_name: str, source: str, number: int) -> str:
    """Make an id from file and row for formats that have no ids; competition formats must have their own."""
    if ("id" in row and format_name != MAPPED) or format_name in ("lmsys", "wsdm", "battles"):
        raise RowError("id", "missing, expected a string or a number")
    return f"{source}-{number}"
