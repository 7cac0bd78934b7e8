"""Labels in source files: one-hot flags, winner names, scores, or the chosen response."""

import math
import random
from collections import Counter
from dataclasses import dataclass, field

from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.importing.column_map import ColumnMap
from sft_judge.data.importing.conversation import RowError

LMSYS_WINNERS = ("winner_model_a", "winner_model_b", "winner_tie")  # in the order of VERDICTS
TIE_KINDS = {  # kind of tie by the winner's name
    **dict.fromkeys(("tie (bothbad)", "tie (both bad)", "bothbad", "both_bad", "both bad"), "both bad"),
    **dict.fromkeys(("tie (bothgood)", "tie (both good)", "bothgood", "both_good", "both good"), "both good"),
}
TIES = ("tie", *TIE_KINDS)
WINNER_NAMES = {"model_a": "a", "model_b": "b", "a": "a", "b": "b", **dict.fromkeys(TIES, "tie")}
TRUTH = {"true": 1, "false": 0}  # as pandas writes a bool column
SCORES = (("score_a", "score_b"), ("rating_a", "rating_b"))
CHOSEN_SCORES = (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"))
CHOSEN_SCORES += (("chosen_rating", "rejected_rating"), ("rating_chosen", "rating_rejected"))


class Sides:
    """Random side of the chosen response: drawn in pairs of rows, one on side a and one on side b."""

    def __init__(self, seed: int):
        self._draw, self._left = random.Random(seed), []

    def chosen_is_a(self) -> bool:
        if not self._left:
            self._left = self._draw.sample([True, False], 2)
        return self._left.pop()


@dataclass
class Reading:
    """
    Settings for reading rows, and counters of repairs.

    Attributes:
        sides: side of each chosen response.
        tie_margin: scores at most this far apart are a tie.
        columns: column map, if the columns have other names.
        prefix_ids: put the name of the file before each id.
        mended: repairs by description.
    """

    sides: Sides
    tie_margin: float = 0.0
    columns: ColumnMap | None = None
    prefix_ids: bool = False
    mended: Counter = field(default_factory=Counter)


def one_hot_verdict(row: dict) -> str:
    """Return the verdict of LMSYS's three winner columns, of which exactly one must be 1."""
    flags = []
    for name in LMSYS_WINNERS:
        value = row.get(name)
        try:
            flags.append(float(TRUTH.get(str(value).strip().lower(), value)))
        except (TypeError, ValueError):
            raise RowError(name, f"{value!r}, expected 0 or 1") from None
        if flags[-1] not in (0, 1):
            raise RowError(name, f"{value!r}, expected 0 or 1")
    if sum(flags) != 1:
        raise RowError("winner", f"{int(sum(flags))} winners, expected exactly one")
    return VERDICTS[flags.index(1)]


def named_verdict(row: dict, mended: Counter) -> str | None:
    """
    Return the verdict of a `verdict` or `winner` column; null in `verdict` means no label.

    Args:
        row: the row.
        mended: counter of repairs.
    """
    if "verdict" in row or "winner" not in row:
        verdict = row.get("verdict")
        if verdict not in (*VERDICTS, None):
            raise RowError("verdict", f"{verdict!r}, expected {', '.join(VERDICTS)} or null")
        return verdict
    name = row["winner"].strip() if isinstance(row["winner"], str) else row["winner"]
    if not isinstance(name, str) or name not in WINNER_NAMES:
        numbered = "; a number does not say which response won" if str(name) in ("0", "1", "2") else ""
        raise RowError("winner", f"{name!r}, expected one of {', '.join(WINNER_NAMES)}{numbered}")
    if name in TIE_KINDS:
        mended[f"winners named {TIE_KINDS[name]}, read as ties (tie_kind stores the difference)"] += 1
    return WINNER_NAMES[name]


def scored_verdict(scores: tuple[float, float] | None, margin: float) -> str | None:
    """
    Return the verdict of two scores, or None without scores.

    Args:
        scores: scores of a and b.
        margin: scores at most this far apart are a tie.
    """
    if scores is None:
        return None
    difference = scores[0] - scores[1]
    return "tie" if abs(difference) <= margin else "a" if difference > 0 else "b"


def row_scores(row: dict, names) -> tuple[float, float] | None:
    """
    Return the two scores of the first pair of columns that the row has, or None if it has none or both are null.

    Args:
        row: the row.
        names: pairs of column names.
    """
    for pair in names:
        values = [row.get(name) for name in pair]
        if all(value in (None, "") for value in values):
            continue
        for name, value in zip(pair, values, strict=True):
            try:
                number = float(value)
            except (TypeError, ValueError):
                raise RowError(name, f"{value!r}, expected a number") from None
            if not math.isfinite(number):
                raise RowError(name, f"{value!r}, expected a finite number")
        return float(values[0]), float(values[1])
    return None
