"""Filters that leave out battles. All are off by default, because a judge should see what people voted on."""

from collections.abc import Callable

from sft_judge.data.battles import FIELDS

BOILERPLATE = ("as an ai language model", "as a large language model", "as an ai assistant, i cannot")


def is_empty(row: dict) -> bool:
    """Return True if the prompt or a response is blank in all its turns."""
    return any(not any(turn.strip() for turn in row[name]) for name in FIELDS)


def is_boilerplate(row: dict) -> bool:
    """Return True if a response says that it is a language model, in one of the phrases of BOILERPLATE."""
    texts = (turn.lower() for name in ("response_a", "response_b") for turn in row[name])
    return any(phrase in text for text in texts for phrase in BOILERPLATE)


def num_characters(row: dict) -> int:
    """Count the characters of all texts of a battle."""
    return sum(len(turn) for name in FIELDS for turn in row[name])


def chosen_rules(
    empty: bool = False,
    boilerplate: bool = False,
    least: int | None = None,
    most: int | None = None,
    languages: list[str] | None = None,
) -> dict[str, Callable[[dict], bool]]:
    """
    Build the chosen filters by reason; the first filter that matches a battle is reported.

    Args:
        empty: leave out battles with a blank prompt or response.
        boilerplate: leave out battles with boilerplate in a response.
        least: minimum number of characters.
        most: maximum number of characters.
        languages: languages to keep.
    """
    rules: dict[str, Callable[[dict], bool]] = {}
    if empty:
        rules["an empty prompt or response"] = is_empty
    if boilerplate:
        rules["boilerplate in a response"] = is_boilerplate
    if least is not None:
        rules[f"fewer than {least} characters"] = lambda row: num_characters(row) < least
    if most is not None:
        rules[f"more than {most} characters"] = lambda row: num_characters(row) > most
    if languages is not None:
        wanted = {name.casefold() for name in languages}
        rules["another language"] = lambda row: str(row["language"]).casefold() not in wanted
    return rules
