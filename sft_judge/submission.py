"""
A competition's sample and the submission in its shape: same ids, same order, same columns.

Two shapes are known. LMSYS asks for a probability of each verdict; WSDM asks for the winner alone.
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sft_judge.errors import InputError
from sft_judge.files import whole_file
from sft_judge.probs import first_verdicts

LMSYS = ("id", "winner_model_a", "winner_model_b", "winner_tie")
WSDM = ("id", "winner")
WINNERS = ("model_a", "model_b")


@dataclass
class Sample:
    """`columns` in the sample's order and its `ids` [N]; `shape` is LMSYS or WSDM."""

    shape: tuple[str, ...]
    columns: list[str]
    ids: list[str]


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
    shape = next((shape for shape in (LMSYS, WSDM) if sorted(shape) == sorted(columns)), None)
    if shape is None:
        raise InputError(
            f"{path}: columns {', '.join(columns[:8]) or 'none'}; known samples have {', '.join(LMSYS)} (LMSYS) or "
            f"{', '.join(WSDM)} (WSDM)."
        )
    short = next((number for number, row in enumerate(rows, 1) if len(row) != len(columns)), None)
    if short is not None:
        raise InputError(f"{path} row {short}: {len(rows[short - 1])} values, expected {len(columns)}.")
    ids = [row[columns.index("id")] for row in rows]
    if not ids:
        raise InputError(f"{path}: a header and no rows, so there is nothing to submit.")
    if len(set(ids)) != len(ids):
        twice = next(id_ for row, id_ in enumerate(ids) if id_ in ids[:row])
        raise InputError(f"{path}: id {twice!r} stands twice.")
    return Sample(shape, columns, ids)


def ensemble(members: list[np.ndarray], weights: list[float] | None, num_verdicts: int) -> np.ndarray:
    """Weighted mean of calibrated probabilities, [N, 3] each, over the first `num_verdicts`; equal by default."""
    weights = np.ones(len(members)) if weights is None else np.asarray(weights, dtype=float)
    if len(weights) != len(members):
        raise InputError(f"{len(weights)} weights for {len(members)} probs files; give one each, in their order.")
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise InputError(f"Weights {weights.tolist()}: each must be zero or more, and one above zero.")
    shares = weights / weights.sum()
    mean = sum(share * first_verdicts(probs, num_verdicts) for share, probs in zip(shares, members, strict=True))
    # a and b are added before the tie, so exchanging them cannot change the rounding
    return mean / (mean[:, 0] + mean[:, 1] + (mean[:, 2] if num_verdicts == 3 else 0))[:, None]


def submission_text(sample: Sample, probs: np.ndarray) -> str:
    """The CSV for probabilities [N, K] in the sample's order of ids. An exact tie of a and b goes to model_a."""
    if sample.shape == WSDM:
        values = [[WINNERS[int(b > a)]] for a, b in probs[:, :2].tolist()]
    else:
        values = [[repr(value) for value in row] for row in probs.tolist()]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(sample.columns)
    for id_, row in zip(sample.ids, values, strict=True):
        cells = dict(zip(sample.shape, [id_, *row], strict=True))
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
    if columns != sample.columns or [row[columns.index("id")] for row in rows] != sample.ids:
        raise RuntimeError("The submission's columns or ids are not the sample's.")
    values = [[row[columns.index(name)] for name in sample.shape[1:]] for row in rows]
    if sample.shape == WSDM:
        good = all(value in WINNERS for (value,) in values)
    else:
        numbers = np.array(values, dtype=float)
        good = bool((numbers >= 0).all() and (np.abs(numbers.sum(axis=1) - 1) <= 1e-9).all())  # NaN fails both
    if not good:
        raise RuntimeError("The submission has a value that the competition would not take.")
