"""
Read a competition's sample submission, and write a submission with the same ids, order and columns.

LMSYS asks for a probability of each verdict, and WSDM for the winner only. Any similar sample is accepted: a column of
ids, and either columns whose names end in a, b and tie, or one column whose values are words for the winner.
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
    Hold a sample submission.

    `columns` are in the sample's order. `ids` are [N]. `asked` [K] are the columns of the verdicts' probabilities, or
    a single column for the winner; then `words` [K] are its values for the verdicts. K is 2 if ties are not asked for.
    """

    columns: list[str]
    ids: list[str]
    id_column: str
    asked: list[str]
    words: list[str] | None

    @property
    def num_verdicts(self) -> int:
        """Return K, 2 or 3."""
        return len(self.words or self.asked)


def read_sample(path: Path) -> Sample:
    """Read a sample_submission.csv. Raise `InputError` for an unknown format, no rows, or a duplicate id."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: file not found. The sample submission is part of the competition's data.")
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
        raise InputError(f"{path}: the file has a header but no rows, so there is nothing to submit.")
    ids = [row[columns.index(id_column)] for row in rows]
    if len(set(ids)) != len(ids):
        twice = next(id_ for row, id_ in enumerate(ids) if id_ in ids[:row])
        raise InputError(f"{path}: duplicate id {twice!r}.")
    words = None if len(asked) > 1 else _words(path, asked[0], {row[columns.index(asked[0])] for row in rows})
    return Sample(columns, ids, id_column, asked, words)


def _roles(path: Path, columns: list[str]) -> tuple[str, list[str]]:
    """
    Return the column of ids, and the columns of the verdicts in the order of VERDICTS, or the column of the winner.
    """
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
    Return a judge's calibrated probabilities [N, 3] in the sample's order of ids.

    Args:
        name: the probs file, for messages.
        result: calibrated probabilities.
        probs: contents of the probs file.
        sample: the sample submission.

    Raises:
        InputError: an id is missing, or the sample asks for ties and the judge has two verdicts.
    """
    if probs.num_verdicts < len(sample.asked):
        raise InputError(
            f"{name}: the judge has no ties, but the sample asks for {sample.asked[2]}, and a probability of zero has "
            "an infinite log loss. Use a judge with three verdicts."
        )
    return result.probs[find_rows(name, result, sample)]


def find_rows(name, result: Calibrated, sample: Sample) -> np.ndarray:
    """
    Return the rows of the sample's ids [N]. Raise `InputError` if an id is missing.

    Args:
        name: the probs file, for messages.
        result: calibrated probabilities.
        sample: the sample submission.
    """
    return result.rows_of(name, sample.ids, "ids of the sample", "Predict all of the test battles.")


def describe_member(name, result: Calibrated, sample: Sample) -> str:
    """
    Describe in one line the calibration and the gaps of one judge's probabilities.

    Args:
        name: the probs file.
        result: calibrated probabilities.
        sample: the sample submission.
    """
    extra = len(result.ids) - len(sample.ids)
    notes = [result.reason, f"warning: {extra} ids are not in the sample, skipped" if extra else None]
    notes.append(describe_unfinished(result.orders[find_rows(name, result, sample)]))
    return f"{name}: " + "; ".join(filter(None, notes))


def submission_text(sample: Sample, probs: np.ndarray) -> str:
    """
    Return the submission as CSV text. For a winner column, an exact tie of a and b goes to a.

    Args:
        sample: the sample submission.
        probs: probabilities [N, K] in the sample's order of ids.
    """
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
    """
    Write a submission to a temporary file, read it back, check it against the sample, and move it into place.

    Args:
        path: the submission.
        sample: the sample submission.
        probs: probabilities [N, K] in the sample's order of ids.
    """
    with whole_file(path) as aside:
        aside.write_text(submission_text(sample, probs), encoding="utf-8", newline="")
        check_submission(aside, sample)


def check_submission(path: Path, sample: Sample) -> None:
    """
    Check a submission's ids, order, columns and values against the sample.

    Args:
        path: the submission.
        sample: the sample submission.

    Raises:
        RuntimeError: they differ, which is a bug of this package.
    """
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
