"""
Conversion of source cells to the turns of a battle: plain text, JSON lists, chats of messages.

Text is kept as it is. Text that cannot be kept (an unpaired surrogate, a null turn) is repaired as documented by each
function, and counted.
"""

import json
import re
from collections import Counter

from sft_judge.data.importing.literals import (
    MAX_CELL_CHARACTERS,
    looks_like_chat,
    looks_listed,
    read_json,
    read_printed,
)

ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model"), "assistant"),
    "system": "system",
}
SURROGATE = re.compile("[\ud800-\udfff]")
_DIALOGUE = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")


class RowError(ValueError):
    """A row that cannot be a battle, with the field at fault and the reason."""

    def __init__(self, field: str, reason: str):
        super().__init__(reason)
        self.field, self.reason = field, reason if len(reason) <= 300 else f"{reason[:300]}…"


def clean_text(text: str, mended: Counter) -> str:
    """
    Replace unpaired surrogates, which UTF-8 cannot hold, by U+FFFD; all other characters stay, including NUL.

    Args:
        text: the text.
        mended: counter of repairs.
    """
    if not text.isascii() and SURROGATE.search(text):
        text, count = SURROGATE.subn("\ufffd", text)
        mended["unpaired surrogates replaced by U+FFFD"] += count
    return text


def json_turns(value, field: str, mended: Counter) -> list[str]:
    """
    Return the turns in a cell with a list, as JSON or as printed by Python or numpy.

    A JSON string or number is one turn. Numbers keep their original text, and control characters that strict JSON
    rejects are kept.

    Args:
        value: the cell.
        field: field of the cell, for messages.
        mended: counter of repairs.
    """
    if isinstance(value, str):
        try:
            value = read_json(value)
        except (ValueError, RecursionError) as error:
            value = _printed_turns(value, field, error, mended)
    return listed_turns(value, field, mended)


def _printed_turns(text: str, field: str, error: Exception, mended: Counter) -> list:
    try:
        value = read_printed(text)
    except ValueError as other:
        why = f"broken JSON ({error}), and not a list as printed by Python or numpy ({other})"
        raise RowError(field, f"{why}; expected a list of turns") from other
    mended["lists as printed by Python or numpy, read as turns"] += 1
    return value


def listed_turns(value, field: str, mended: Counter) -> list[str]:
    """
    Return the turns of a list, or plain text as one turn; a null turn (a missing answer) becomes "".

    Args:
        value: the cell.
        field: field of the cell, for messages.
        mended: counter of repairs.
    """
    if value is None:
        raise RowError(field, "missing or null, expected turns")
    turns = value if isinstance(value, list) else [value]
    for turn in turns:
        if isinstance(turn, dict | list | bool):
            raise RowError(field, f"a turn is a {type(turn).__name__}, expected a string")
    mended["null turns kept as empty"] += sum(turn is None for turn in turns)
    return [_text("" if turn is None else str(turn), field, mended) for turn in turns]


def plain_turn(value, field: str, mended: Counter) -> list[str]:
    """
    Return a plain cell as one turn, whatever its text; an empty cell is kept.

    Args:
        value: the cell.
        field: field of the cell, for messages.
        mended: counter of repairs.

    Raises:
        RowError: the cell is missing or a list.
    """
    if isinstance(value, list):
        raise RowError(field, "a list, expected text")
    if isinstance(value, str) and looks_listed(value):
        mended["cells that look like a list or a chat, kept as plain text"] += 1
    return listed_turns(value, field, mended)


def _text(text: str, field: str, mended: Counter) -> str:
    if len(text) > MAX_CELL_CHARACTERS:
        raise RowError(field, f"{len(text):,} characters in one turn; at most {MAX_CELL_CHARACTERS:,} are allowed")
    return clean_text(text, mended)


def read_messages(value, field: str, mended: Counter) -> list[tuple[str, str]] | None:
    """
    Return a cell as (role, text) messages, or None if it is plain text.

    Accepted are lists of `{"role", "content"}` or `{"from", "value"}`, a single such message, and both as JSON text.

    Args:
        value: the cell.
        field: field of the cell, for messages.
        mended: counter of repairs.
    """
    if isinstance(value, str):
        value = _parsed_messages(value, field, mended)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        return None
    if not value:
        raise RowError(field, "no messages, expected at least one")
    return [_message(item, field, mended) for item in value]


def _parsed_messages(text: str, field: str, mended: Counter) -> list | None:
    """Return the messages in a text, as JSON or printed; None for any other text, including other lists."""
    if text.lstrip()[:1] not in ("[", "{"):
        return None
    try:
        value = json.loads(text, strict=False)
    except (ValueError, RecursionError) as error:
        if not looks_like_chat(text):
            return None
        try:
            value = read_printed(text if text.lstrip()[:1] == "[" else f"[{text}]")
        except ValueError as other:
            why = f"broken JSON ({error}), and not a chat as printed by Python or numpy ({other})"
            raise RowError(field, f"it looks like a chat, but is {why}") from other
        mended["chats as printed by Python or numpy"] += 1
    items = value if isinstance(value, list) else [value]
    is_chat = items and all(isinstance(item, dict) and {"role", "from"} & set(item) for item in items)
    return items if is_chat else None


def _message(item, field: str, mended: Counter) -> tuple[str, str]:
    if not isinstance(item, dict):
        raise RowError(field, f"a message is a {type(item).__name__}, expected an object with role and content")
    role = ROLES.get(str(item.get("role", item.get("from"))).lower())
    if role is None:
        named = item.get("role", item.get("from"))
        raise RowError(field, f"a message's role is {named!r}, expected one of {', '.join(ROLES)}")
    content = item.get("content", item.get("value"))
    if isinstance(content, list):  # content parts, as in multimodal chats
        others = [part for part in content if not (isinstance(part, dict) and part.get("type") == "text")]
        if others:
            raise RowError(field, f"a message holds {repr(others[0])[:60]}; battles hold only parts of type text")
        content = "\n\n".join(plain_turn(part.get("text", ""), field, mended)[0] for part in content)
    return role, plain_turn("" if content is None else content, field, mended)[0]


def dialogue_messages(text: str) -> list[tuple[str, str]] | None:
    """
    Return the messages of a dialogue text in HH-RLHF's form, which begins with `Human: `; None for any other text.
    """
    pieces = _DIALOGUE.split(text.lstrip("\n"))
    if len(pieces) < 3 or pieces[0] or pieces[1] != "Human":
        return None
    roles = {"Human": "user", "Assistant": "assistant"}
    return [(roles[role], turn) for role, turn in zip(pieces[1::2], pieces[2::2], strict=True)]


def pair_turns(messages: list[tuple[str, str]], field: str, mended: Counter) -> tuple[list[str], list[str]]:
    """
    Return a chat as (prompts, responses), paired turn by turn.

    Consecutive messages of one role are joined by an empty line, and system text is put before the first prompt.

    Args:
        messages: (role, text) pairs.
        field: field of the chat, for messages.
        mended: counter of repairs.

    Raises:
        RowError: the chat does not end with the assistant.
    """
    system = [text for role, text in messages if role == "system" and text]
    joined: list[tuple[str, str]] = []
    for role, text in messages:
        if joined and joined[-1][0] == role:
            joined[-1] = (role, f"{joined[-1][1]}\n\n{text}")
            mended["consecutive messages of one role, joined"] += role != "system"
        elif role != "system":
            joined.append((role, text))
    if not joined or joined[-1][0] != "assistant":
        raise RowError(field, "the chat does not end with the assistant")
    if joined[0][0] == "assistant":
        joined.insert(0, ("user", ""))
        mended["chats that begin with the assistant, given an empty first prompt"] += 1
    prompts, responses = ([text for _, text in joined[start::2]] for start in (0, 1))
    if system:
        prompts[0] = "\n\n".join([*system, prompts[0]])
        mended["system texts put before the first prompt"] += 1
    return prompts, responses
