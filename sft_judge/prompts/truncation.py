"""
Share a token budget between the fields of a battle, between the turns of a field, and within a turn.

All functions take and return numbers of tokens and never look at a text. Truncation therefore depends on lengths only,
and not on which response is shown first.
"""


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
