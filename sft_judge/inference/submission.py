"""
A competition's sample and the submission in its shape: same ids, same order, same columns.

Two competitions are known by name. LMSYS asks for a probability of each verdict; WSDM asks for the winner alone. Any
sample like one of them is taken: a column of ids, and either columns whose names end in a, b and tie, or one column
whose values are words for the winner.
"""

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sft_judge.core.errors import InputError
from sft_judge.core.files import whole_file
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.probs import Probs, describe_unfinished
from sft_judge.inference.calibrated import Calibrated

LMSYS = ("id", "winner_model_a", "winner_model_b", "winner_tie")
WSDM = ("id", "winner")
WORDS = tuple((f"{who}{a}", f"{who}{b}", "tie") for a, b in ("ab", "AB") for who in ("model_", "response_", ""))


@dataclass
class Sample:
    """
    `columns` in the sample's order and its `ids` [N].

    `asked` [K] are the columns of the verdicts' probabilities, or one column alone, that of the winner, whose `words`
    [K] name the verdicts. K is 2 where a tie is not asked for.
    """

    columns: list[str]
    ids: list[str]
    id_column: str
    asked: list[str]
    words: list[str] | None

    @property
    def num_verdicts(self) -> int:
        """K, 2 or 3."""
        return len(self.words or self.asked)


def read_sample(path: Path) -> Sample:
    """Read a sample_submission.csv. Raises `InputError` for another shape, no rows, or an id that stands twice."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such sample submission. The competition's data has one.")
    try:
        with open(path, newline="", encoding="utf-8-sig") as lines:
            columns, *rows = [row for row in csv.reader(lines) if row] or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable CSV ({error}).") from error
    id_column, asked = _roles(path, columns)
    short = next((number for number, row in enumerate(rows, 1) if len(row) != len(columns)), None)
    if short is not None:
        raise InputError(f"{path} row {short}: {len(rows[short - 1])} values, expected {len(columns)}.")
    if not rows:
        raise InputError(f"{path}: a header and no rows, so there is nothing to submit.")
    ids = [row[columns.index(id_column)] for row in rows]
    if len(set(ids)) != len(ids):
        twice = next(id_ for row, id_ in enumerate(ids) if id_ in ids[:row])
        raise InputError(f"{path}: id {twice!r} stands twice.")
    words = None if len(asked) > 1 else _words(path, asked[0], {row[columns.index(asked[0])] for row in rows})
    return Sample(columns, ids, id_column, asked, words)


def _roles(path: Path, columns: list[str]) -> tuple[str, list[str]]:
    """The column of ids, and those asked for in the order of VERDICTS, or the one of the winner."""
    named_id = [name for name in columns if re.fullmatch(r"(.*[_ ])?id", name, re.IGNORECASE)]
    others = [name for name in columns if name not in named_id]
    ends = {name: re.fullmatch(r"(?:.*[_ ])?(a|b|tie)", name, re.IGNORECASE) for name in others}
    verdicts = {match[1].lower(): name for name, match in ends.items() if match}
    if len(named_id) == 1 and len(set(columns)) == len(columns):
        if len(verdicts) == len(others) and {"a", "b"} <= set(verdicts):
            return named_id[0], [verdicts[name] for name in VERDICTS if name in verdicts]
        if len(others) == 1 and re.search("winner|verdict|prefer", others[0], re.IGNORECASE):
            return named_id[0], others
    raise InputError(
        f"{path}: columns {', '.join(columns[:8]) or 'none'}; known samples have {', '.join(LMSYS)} (LMSYS) or "
        f"{', '.join(WSDM)} (WSDM), or columns like them: an id, and names that end in a, b and tie, or a winner."
    )


def _words(path: Path, column: str, seen: set[str]) -> list[str]:
    for words in WORDS:
        if seen <= set(words) and seen & set(words[:2]):
            return list(words if words[2] in seen else words[:2])
    spellings = "; ".join(", ".join(words) for words in WORDS)
    raise InputError(f"{path}: {column} is {', '.join(sorted(seen)[:4])}; known words for a winner are {spellings}.")


def arrange_probs(name, result: Calibrated, probs: Probs, sample: Sample) -> np.ndarray:
    """
    A judge's calibrated probabilities [N, 3] in the sample's order of ids.

    Raises `InputError` where one of the ids is missing, or the sample asks for ties and the judge knows none.
    """
    if probs.num_verdicts < len(sample.asked):
        raise InputError(
            f"{name}: a judge without ties, but the sample asks for {sample.asked[2]}, where a probability of zero "
            "has an infinite log loss. Use a judge of three verdicts."
        )
    return result.probs[find_rows(name, result, sample)]


def find_rows(name, result: Calibrated, sample: Sample) -> np.ndarray:
    """Where the sample's ids [N] stand in a judge's rows. Raises `InputError` where one is missing."""
    return result.rows_of(name, sample.ids, "ids of the sample", "Predict all of the test battles.")


def describe_member(name, result: Calibrated, sample: Sample) -> str:
    """What was done to a member, and what to know of it, in a line."""
    extra = len(result.ids) - len(sample.ids)
    notes = [result.reason, f"warning: {extra} ids are not in the sample, left out" if extra else None]
    notes.append(describe_unfinished(result.orders[find_rows(name, result, sample)]))
    return f"{name}: " + "; ".join(filter(None, notes))


def submission_text(sample: Sample, probs: np.ndarray) -> str:
    """The CSV for probabilities [N, K] in the sample's order of ids. An exact tie of a and b goes to a."""
    if sample.words:
        values = [[sample.words[verdict]] for verdict in probs[:, : len(sample.words)].argmax(axis=1)]
    else:
        values = [[repr(value) for value in row] for row in probs[:, : len(sample.asked)].tolist()]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(sample.columns)
    for id_, row in zip(sample.ids, values, strict=True):
        cells = dict(zip([sample.id_column, *sample.asked], [id_, *row], strict=True))
        writer.writerow([cells[name] for name in sample.columns])
    return buffer.getvalue()


def write_submission(path: Path, sample: Sample, probs: np.ndarray) -> None:
    """Write aside, read again, check against the sample, and only then put it in place."""
    with whole_file(path) as aside:
        aside.write_text(submission_text(sample, probs), encoding="utf-8", newline="")
        check_submission(aside, sample)


def check_submission(path: Path, sample: Sample) -> None:
    """Raises `RuntimeError`, our own fault, unless ids, order, columns and values are what the sample asks for."""
    with open(path, newline="", encoding="utf-8") as lines:
        columns, *rows = csv.reader(lines)
    if columns != sample.columns or [row[columns.index(sample.id_column)] for row in rows] != sample.ids:
        raise RuntimeError("The submission's columns or ids are not the sample's.")
    values = [[row[columns.index(name)] for name in sample.asked] for row in rows]
    if sample.words:
        good = all(value in sample.words for (value,) in values)
    else:
        numbers = np.array(values, dtype=float)
        good = bool((numbers >= 0).all() and (np.abs(numbers.sum(axis=1) - 1) <= 1e-9).all())  # NaN fails both
    if not good:
        raise RuntimeError("The submission has a value that the competition would not take.")
