"""
How a token budget is shared: between the fields of a battle, between the turns of a field, within a turn.

Numbers of tokens in, numbers of tokens out: nothing here looks at a text, so what is cut depends on lengths alone, and
exchanging the two responses exchanges their cuts.
"""


def water_fill(lengths: list[int], total: int) -> list[int]:
    """
    Share `total` tokens among fields: the short keep all, the long are cut to one level.

    Equal lengths get equal shares whatever their place, so a remainder smaller than the number of fields stays unused.
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
    Share a field's allowance among its turns; later turns matter more, as the last one is what people judged.

    From the last turn to the first, a turn may have half of what is left (rounded up), and all that the turns before
    it do not need. So the last turn has at least half of the field, and no token of the allowance goes unused.
    """
    shares, left, earlier = [], allowance, sum(lengths)
    for length in reversed(lengths):
        earlier -= length
        shares.append(min(length, max((left + 1) // 2, left - earlier)))
        left -= shares[-1]
    return shares[::-1]


def cut_middle(ids: list[int], room: int, marker: list[int], inside: frozenset[int]) -> list[int]:
    """
    At most `room` of a turn's tokens: its head, the marker, its tail.

    `inside` holds the tokens that begin within a character: no cut falls before one. Head and tail never meet without
    the marker between them, as they could spell a tag together; where it has no place, the head stays alone.
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
