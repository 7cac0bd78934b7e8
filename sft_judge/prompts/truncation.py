"""
Share a token budget between the fields of a battle, between the turns of a field, and within a turn.

No function looks at a text. Truncation therefore depends on lengths and numbers of turns only, and not on which
response is shown first.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sft_judge.core.errors import InputError
from sft_judge.data.battles import FIELDS
from sft_judge.modeling.judge_spec import Budget

TOKENS_A_TURN = 8  # room for each turn of a battle whose earliest turns are left out
Turns = dict[str, list[list[int]]]  # tokens of the turns of each field; the language is a field of one turn or none


@dataclass
class Fields:
    """
    Hold the tokens of one battle after truncation.

    Attributes:
        prompt: tokens of each turn shown.
        response_a: as `prompt`.
        response_b: as `prompt`.
        language: tokens of the language, or None.
        cut: number of tokens of each field that are not shown.
        turns_left_out: number of earliest turns that are not shown at all.
    """

    prompt: list[list[int]]
    response_a: list[list[int]]
    response_b: list[list[int]]
    language: list[int] | None
    cut: dict[str, int]
    turns_left_out: int = 0


def shape_of(fields: dict[str, list]) -> tuple[int, int, int, bool]:
    """Return the number of turns of each field, and True if a language is shown."""
    return (*(len(fields[name]) for name in FIELDS), bool(fields["language"]))


def most_turns(row: dict[str, list]) -> int:
    """Return the largest number of turns of a field of a battle."""
    return max(len(row[name]) for name in FIELDS)


def last_turns(row: dict[str, list], number: int) -> dict[str, list]:
    """
    Return a battle with the last turns of each field. Rounds stay together, as they are counted from the end.

    Args:
        row: the battle.
        number: maximum number of turns of a field.
    """
    return row if most_turns(row) <= number else row | {name: row[name][-number:] for name in FIELDS}


def has_room(turns: Turns, budget: Budget, frame_length: Callable[..., int], tokens_a_turn: int = 1) -> bool:
    """
    Return True if a battle's turns can all be shown, whole or with some of their tokens.

    Args:
        turns: tokens of the turns.
        budget: maximum numbers of tokens.
        frame_length: returns the number of tokens of the template for a shape, see `shape_of`.
        tokens_a_turn: least number of tokens of each turn, on average.
    """
    lengths = [len(turn) for name in FIELDS for turn in turns[name]]
    return _room(turns, budget, frame_length) >= min(tokens_a_turn * len(lengths), sum(lengths))


def _room(turns: Turns, budget: Budget, frame_length) -> int:
    """Return the number of tokens that the template and the language leave; negative if they are too long."""
    return budget.total - 1 - len(_language(turns, budget) or ()) - frame_length(*shape_of(turns))


def _language(turns: Turns, budget: Budget) -> list[int] | None:
    return turns["language"][0][: budget.prompt] if turns["language"] else None


def latest_turns_with_room(turns: Turns, budget: Budget, frame_length: Callable[..., int]) -> int:
    """
    Return the number of latest turns of each field that can be shown with TOKENS_A_TURN each, or 1 with a token each.

    Args:
        turns: tokens of the turns.
        budget: maximum numbers of tokens.
        frame_length: returns the number of tokens of the template for a shape, see `shape_of`.

    Raises:
        InputError: there is no room for one turn.
    """
    low, high = 1, most_turns(turns)
    while low < high:
        number = (low + high + 1) // 2
        fits = has_room(last_turns(turns, number), budget, frame_length, TOKENS_A_TURN)
        low, high = (number, high) if fits else (low, number - 1)
    shown = last_turns(turns, low)
    if not has_room(shown, budget, frame_length):
        room = _room(shown, budget, frame_length)
        raise InputError(
            f"total_budget is too small: the prompt template leaves {max(room, 0)} of {budget.total} tokens for a "
            f"battle of one turn. Raise total_budget to at least {budget.total + 64 - room}."
        )
    return low


def fit_fields(
    turns: Turns, budget: Budget, frame_length: Callable[..., int], marker: list[int], inside: frozenset[int]
) -> Fields:
    """
    Truncate the fields of a battle that has room, see `has_room`, to the budget.

    Args:
        turns: tokens of the turns.
        budget: maximum numbers of tokens.
        frame_length: returns the number of tokens of the template for a shape, see `shape_of`.
        marker: tokens that replace the middle of a turn.
        inside: tokens that start within a character.
    """
    room = _room(turns, budget, frame_length)
    lengths = [sum(map(len, turns[name])) for name in FIELDS]
    limits = (budget.prompt, budget.response, budget.response)
    allowed = water_fill([min(pair) for pair in zip(lengths, limits, strict=True)], max(room, 0))
    fitted, cut = {}, {}
    for name, length, allowance in zip(FIELDS, lengths, allowed, strict=True):
        fitted[name] = turns[name]
        if length > allowance:
            shares = share_turns([len(turn) for turn in turns[name]], allowance)
            fitted[name] = [
                cut_middle(turn, share, marker, inside) for turn, share in zip(turns[name], shares, strict=True)
            ]
        cut[name] = length - sum(map(len, fitted[name]))
    return Fields(**fitted, language=_language(turns, budget), cut=cut)


def water_fill(lengths: list[int], total: int) -> list[int]:
    """
    Share `total` tokens among fields: short fields keep all tokens, long ones are cut to the same level.

    Equal lengths get equal shares whatever their position, so a remainder smaller than the number of fields is not
    used.

    Args:
        lengths: number of tokens of each field.
        total: number of tokens available.
    """
    if sum(lengths) <= total:
        return list(lengths)
    low, high = 0, max(lengths)
    while low < high:
        level = (low + high + 1) // 2
        low, high = (level, high) if sum(min(length, level) for length in lengths) <= total else (low, level - 1)
    return [min(length, low) for length in lengths]


def share_turns(lengths: list[int], allowance: int) -> list[int]:
    """
    Share a field's allowance among its turns. Later turns matter more, because people judged the last one.

    From the last turn to the first, a turn gets up to half of what is left (rounded up), or more if the turns before
    it do not need the rest. The last turn therefore has at least half of the allowance, and no token of it is unused.

    Args:
        lengths: number of tokens of each turn.
        allowance: number of tokens of the field.
    """
    shares, left, earlier = [], allowance, sum(lengths)
    for length in reversed(lengths):
        earlier -= length
        shares.append(min(length, max((left + 1) // 2, left - earlier)))
        left -= shares[-1]
    return shares[::-1]


def cut_middle(ids: list[int], room: int, marker: list[int], inside: frozenset[int]) -> list[int]:
    """
    Truncate a turn in the middle: its head, the marker, and its tail.

    No cut is made within a character. Head and tail are always separated by the marker, because together they could
    form a tag. If there is no room for the marker, only the head is kept.

    Args:
        ids: tokens of the turn.
        room: maximum number of tokens.
        marker: tokens of the marker.
        inside: tokens that start within a character.
    """
    if len(ids) <= room:
        return ids
    marked = room > 3 * len(marker)
    head = (room - len(marker) + 1) // 2 if marked else room
    tail = len(ids) - (room - len(marker) - head) if marked else len(ids)
    while head > 0 and ids[head] in inside:
        head -= 1
    while tail < len(ids) and ids[tail] in inside:
        tail += 1
    return [*ids[:head], *(marker if marked else ()), *ids[tail:]]
