"""Text of a battle, made safe to show."""

import unicodedata

from sft_judge.data.battles import FIELDS
from sft_judge.evaluation.reporting.html import Text

LONGEST_NAME = 60  # characters


LONGEST_TEXT = 2000  # characters of a turn shown as an example


FIELD_NAMES = {"prompt": "prompt", "response_a": "response A", "response_b": "response B"}


def battle_text(why: str, row: dict) -> Text:
    """
    Build the folded text of a battle, with turns cut at LONGEST_TEXT and invisible characters as code points.

    Args:
        why: reason why the battle is shown.
        row: the battle.
    """
    fields = [
        f"{name} {visible(str(row[name]))}"
        for name in ("verdict", "source", "language", "fold")
        if row.get(name) is not None
    ]
    parts = []
    for name in FIELDS:
        for turn, text in enumerate(row[name], 1):
            number = f", turn {turn} of {len(row[name])}" if len(row[name]) > 1 else ""
            cut = f", the first {LONGEST_TEXT:,} of {len(text):,} characters" if len(text) > LONGEST_TEXT else ""
            parts.append((FIELD_NAMES[name] + number + cut, visible(text, LONGEST_TEXT)))
    return Text(", ".join([f"{visible(row['id'])} ({why})", *fields]), parts)


def visible(text: str, longest: int = LONGEST_NAME) -> str:
    """
    Cut a text and replace control and format characters by their code point.

    These characters act on a page or a terminal without being seen.

    Args:
        text: the text.
        longest: maximum number of characters.
    """
    return "".join(
        f"⟨U+{ord(letter):04X}⟩" if unicodedata.category(letter) in ("Cc", "Cf") and letter not in "\n\t" else letter
        for letter in text[:longest]
    ) + ("…" if len(text) > longest else "")
