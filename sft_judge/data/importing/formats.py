"""
From one row of a source format to one battle.

The formats are told apart by their columns (`detect_format`). A row that cannot be a battle raises `RowError`; what is
only odd is mended as each function says, and counted.
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
    The format of a file with these columns, whose first rows decide between plain strings and JSON lists.

    Raises `InputError` for a column that every format needs and that is missing, naming the nearest there is.
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
                "conversation_b."
            )
    if any(str(name).startswith("winner_") for name in columns):
        missing = [name for name in labels.LMSYS_WINNERS if name not in columns]
        if missing:
            raise InputError(
                f"{path}: no column {missing[0]!r}.{nearest(missing[0], columns)} "
                f"The LMSYS format has {', '.join(labels.LMSYS_WINNERS)}, or none of them where rows have no labels."
            )
        return "lmsys"
    if "verdict" in columns or any(isinstance(row.get(name), list) for row in first_rows for name in FIELDS):
        return "battles"
    # lists in most rows are turns; in a few they are what somebody asked or answered
    lists = sum(all(_is_list(row.get(name)) for name in FIELDS) for row in first_rows)
    return "lmsys" if lists * 2 > len(first_rows) else "wsdm"


def _is_list(value) -> bool:
    return isinstance(value, str) and read_list(value) is not None


def _own_turns(row: dict, read, reading: Reading) -> dict:
    return {name: read(row.get(name), name, reading.mended) for name in FIELDS}


def lmsys_battle(row: dict, reading: Reading) -> dict:
    """LMSYS CSV: JSON lists of turns, one-hot winners; without winners an unlabelled row."""
    one_hot = labels.LMSYS_WINNERS[0] in row
    verdict = labels.one_hot_verdict(row) if one_hot else labels.named_verdict(row, reading.mended)
    return {**_own_turns(row, turns.json_turns, reading), "verdict": verdict}


def wsdm_battle(row: dict, reading: Reading) -> dict:
    """WSDM Cup: plain strings, the winner by name."""
    return {**_own_turns(row, turns.plain_turn, reading), "verdict": labels.named_verdict(row, reading.mended)}


def own_battle(row: dict, reading: Reading) -> dict:
    """Our own columns, and the JSONL that is exchanged (`winner`, `meta`)."""
    return {**_own_turns(row, turns.listed_turns, reading), "verdict": labels.named_verdict(row, reading.mended)}


def rated_battle(row: dict, reading: Reading) -> dict:
    """Two responses with a score each."""
    scores = labels.row_scores(row, labels.SCORES)
    verdict, margin = labels.scored_verdict(scores, reading.tie_margin), scores and abs(scores[0] - scores[1])
    return {**_own_turns(row, turns.listed_turns, reading), "verdict": verdict, "margin": margin}


def judgebench_battle(row: dict, reading: Reading) -> dict:
    """JudgeBench: a question, two responses of one model, and the right one as `A>B` or `B>A`."""
    verdict = {"A>B": "a", "B>A": "b"}.get(str(row.get("label")))
    if verdict is None:
        raise RowError("label", f"{row.get('label')!r}, expected 'A>B' or 'B>A'")
    names = zip(FIELDS, ("question", "response_A", "response_B"), strict=True)
    return {**{own: turns.plain_turn(row.get(name), name, reading.mended) for own, name in names}, "verdict": verdict}


def arena_battle(row: dict, reading: Reading) -> dict:
    """Two chats with the same prompts, `conversation_a` and `conversation_b`, and the winner by name."""
    chats = []
    for name in ("conversation_a", "conversation_b"):
        messages = turns.read_messages(row.get(name), name, reading.mended)
        if messages is None:
            raise RowError(name, "no messages, expected a list of them")
        chats.append(turns.pair_turns(messages, name, reading.mended))
    (prompts, response_a), (others, response_b) = chats
    if prompts != others:
        raise RowError("conversation_b", "its prompts are not those of conversation_a")
    verdict = labels.named_verdict(row, reading.mended)
    return {"prompt": prompts, "response_a": response_a, "response_b": response_b, "verdict": verdict}


def mapped_battle(row: dict, reading: Reading) -> dict:
    """A row that a map has given the names of battles already."""
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
    """One battle from row `number` of a source. Raises `RowError`; `reading` counts what was repaired on the way."""
    if format_name == MAPPED:
        row = reading.columns.read(row, reading.mended, f"{source} row {number}")
    identity = row_id(row, format_name)
    if isinstance(row.get("id"), float) and abs(row["id"]) >= 2**53:
        raise RowError("id", f"{row['id']} is a float, which cannot tell such ids apart; write them as text")
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
        raise RowError(one, f"the same as {other}, so neither can be the better one")
    kind = labels.TIE_KINDS.get(str(row.get("winner")).strip())
    if kind and battle["verdict"] == "tie":
        battle["tie_kind"] = kind
    models = {name: battle.pop(name) for name in ("model_a", "model_b") if name in battle}  # of preference data alone
    optional = _optional_fields({**row, **{name: model for name, model in models.items() if model}}, reading.mended)
    for name in [name for name, model in models.items() if not model and optional.pop(name, None)]:
        reading.mended[f"values of column {name!r} left out: chosen and rejected are neither a nor b"] += 1
    subset = row.get("subset") if format_name == "rewardbench" else None
    named = optional.get("source") or subset or source
    return {**battle, **optional, "source": clean_text(str(named), reading.mended)}


def _optional_fields(row: dict, mended: Counter) -> dict:
    """What a row says beyond the required: its own columns, or those of `meta` in the exchange JSONL."""
    meta = row.get("meta") if isinstance(row.get("meta"), dict) else {}
    stated = {
        **{name: meta.get(name) for name in ("model_a", "model_b", "category")},
        "language": meta.get("lang"),
        **row,
    }
    fields = {}
    for name, kind in OPTIONAL.items():
        value = stated.get(name)
        if value is None or value == "" or value != value:  # NaN is how pandas says null
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
    """A number that its column can hold; a fold may be written 3.0. Raises `ValueError` of any other."""
    number = float(value)
    if not LEAST.get(name, -LARGEST) <= number <= LARGEST:
        raise ValueError
    if kind == pa.int64() and (number != int(number) or abs(number) >= 2**53):
        raise ValueError
    return int(number) if kind == pa.int64() else number


def row_id(row: dict, format_name: str) -> str | None:
    """The id of a row as text, None where it has none; an Arena's battle is named by its question."""
    value = row.get("id", row.get({"arena": "question_id", "judgebench": "pair_id"}.get(format_name)))
    if value is None or isinstance(value, dict | list | bool) or not str(value).strip() or value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column with a gap in it is one of floats to pandas
    text = str(value).strip()
    return None if SURROGATE.search(text) else text


def _made_id(row: dict, format_name: str, source: str, number: int) -> str:
    """Preference sets have no ids of their own: file and row make one. Competition rows must bring theirs."""
    if ("id" in row and format_name != MAPPED) or format_name in ("lmsys", "wsdm", "battles"):
        raise RowError("id", "missing, expected a string or a number")
    return f"{source}-{number}"
