"""
Teachers' labels: checked to be out of fold, converted to the student's verdicts, and combined over teachers.

A label is a distribution over the verdicts for a battle and an order. `a` is always the battle's response_a, whichever
was shown first. Any teacher can therefore teach any student: with another tokenizer, another template and, through
`convert_verdicts`, another number of verdicts.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy.optimize import brentq

from sft_judge.core.errors import GateError, InputError
from sft_judge.core.files import content_hash
from sft_judge.core.swap_orders import ORDERS
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.battles import labelled_folds
from sft_judge.data.probs import Probs, first_verdicts, read_probs
from sft_judge.data.ties import tie_shares
from sft_judge.data.verdict_files import is_verdict_file, read_verdicts

ADVICE = "Predict them with `--out-of-fold`, or set allow_in_sample to train on them nevertheless."
EXTERNAL = "If you know that their judge was not trained on these battles, set external_teacher: true."
TEACHER = tuple(f"teacher_{name}" for name in VERDICTS)  # columns of battles with an external teacher's probabilities
MIN_LABEL = 1e-4  # lower bound of a teacher's probabilities; smaller ones give a very large loss, see floor_labels
NU = (1e-6, 1e6)  # search interval of Davidson's parameter


def read_teachers(
    paths: list[Path],
    battles: Path | None,
    rows: pa.Table,
    num_verdicts: int,
    student: Path,
    ties: str = "drop",
    allow_in_sample: bool = False,
    external_teacher: bool = False,
) -> dict:
    """
    Read the labels of N teachers for the battles that all of them have labelled.

    Args:
        paths: probs files, or verdict files of judges without probabilities.
        battles: the file that is trained on; None for a data set.
        rows: the battles that are trained on. Their folds must be proven. If a teacher has two verdicts and the
            student three, their share of ties is given to the teacher's labels.
        num_verdicts: K of the student.
        student: the folder to be written.
        ties: `drop` or `split`, for a teacher of three verdicts and a student of two.
        allow_in_sample: accept labels that are not proven out of fold.
        external_teacher: accept a file without metadata, from a judge that the user knows was not trained on these
            battles.

    Returns:
        Probabilities [N, K] by (id, order).

    Raises:
        GateError: a file's metadata does not prove every label out of fold.
        InputError: a file is given twice, an answer could not be read, or `student` holds the judge that made a file.
    """
    files = [_read_labels(path) for path in paths]
    hashes = [content_hash(path) for path in paths]
    for path, digest in zip(paths, hashes, strict=True):
        if hashes.count(digest) > 1:
            raise InputError(f"{path} is among the labels twice. Name it once, and raise its distill_weight instead.")
    each = []
    for path, probs in zip(paths, files, strict=True):
        _check_not_the_teacher(path, probs, student)
        if probs.scored is not None and not probs.scored.all():
            left = probs.ids[~probs.scored]
            raise InputError(
                f"{path}: {len(left)} battles, such as {left[0]}, were not scored and hold class frequencies, which "
                "are not labels. Predict without a time budget and with --dtype float32, or remove these battles."
            )
        if not allow_in_sample and not (external_teacher and not probs.metadata):
            check_out_of_fold(path, probs, battles, rows)
        values = convert_verdicts(np.exp(probs.logp), num_verdicts, ties, tie_share(rows))
        each.append(dict(zip(zip(probs.ids, probs.orders, strict=True), values, strict=True)))
    return {key: np.stack([part[key] for part in each]) for key in each[0] if all(key in part for part in each)}


def _read_labels(path: Path) -> Probs:
    if not path.is_file() or not is_verdict_file(path):
        return read_probs(path)
    file = read_verdicts(path)
    if unread := file.num_unread(file.ids.tolist()):
        raise InputError(
            f"{path}: {unread} answers could not be read, and a battle without a label cannot be trained on. Remove "
            "these battles."
        )
    return file.as_probs()


def read_teacher_columns(rows: pa.Table, num_verdicts: int, ties: str, external_teacher: bool) -> dict | None:
    """
    Read the labels of one teacher from the columns of TEACHER.

    Args:
        rows: battles to train on.
        num_verdicts: K of the student.
        ties: as in `read_teachers`.
        external_teacher: True if the user states that the teacher was not trained on these battles.

    Returns:
        Probabilities [1, K] by (id, order); None if the columns are missing.

    Raises:
        GateError: `external_teacher` is False; a column cannot prove that it is out of fold.
        InputError: a column is missing, or the probabilities of a battle do not sum to 1.
    """
    there = [name for name in TEACHER if name in rows.column_names]
    if not there:
        return None
    if there not in (list(TEACHER), list(TEACHER[:2])):
        raise InputError(
            f"The data set has {', '.join(there)}, expected the columns {', '.join(TEACHER)}, or the first two."
        )
    if not external_teacher:
        raise GateError(f"Nothing proves the labels in the columns {', '.join(there)} out of fold. {EXTERNAL}")
    probs = np.zeros((rows.num_rows, len(TEACHER)))
    for place, name in enumerate(there):
        probs[:, place] = rows[name].to_numpy()
    wrong = np.flatnonzero(~((np.abs(probs.sum(axis=1) - 1) < 1e-4) & (probs >= 0).all(axis=1)))
    if len(wrong):
        id_, seen = rows["id"][int(wrong[0])].as_py(), ", ".join(f"{value:g}" for value in probs[wrong[0]])
        raise InputError(f"Battle {id_}: {', '.join(there)} are {seen}, expected probabilities that add up to 1.")
    values = convert_verdicts(probs, num_verdicts, ties, tie_share(rows))
    return {
        (id_, order): value[None]
        for id_, value in zip(rows["id"].to_pylist(), values, strict=True)
        for order in ORDERS
    }


def floor_labels(teacher: dict) -> tuple[dict, int]:
    """
    Raise probabilities below MIN_LABEL to MIN_LABEL, and normalise the changed labels.

    A probability of 0 stays 0 at every temperature, and a probability near 0 is hardly softened. The factor
    `temperature**2`, which makes up for softening, would therefore make the loss of such a label very large.

    Args:
        teacher: labels by (id, order).

    Returns:
        The labels, and the number of labels that were changed.
    """
    floored = {key: np.maximum(labels, MIN_LABEL) for key, labels in teacher.items() if (labels < MIN_LABEL).any()}
    num_floored = sum(int((teacher[key] < MIN_LABEL).any(axis=-1).sum()) for key in floored)
    changed = {key: labels / labels.sum(axis=-1, keepdims=True) for key, labels in floored.items()}
    return teacher | changed, num_floored


def _check_not_the_teacher(path: Path, probs: Probs, student: Path) -> None:
    made_by = probs.metadata.get("model")
    if made_by and student.resolve() in (Path(made_by).resolve(), *Path(made_by).resolve().parents):
        raise InputError(
            f"output_dir {student} holds the teacher of {path}, which it would replace. Choose another output_dir."
        )


def teacher_label(teacher: dict, battle: str, order: str) -> np.ndarray:
    """
    Return the teachers' probabilities [N, K] for a battle in an order, or raise an `InputError` that names the battle.

    Args:
        teacher: labels by (id, order).
        battle: id of the battle.
        order: `ab` or `ba`.
    """
    if (battle, order) not in teacher:
        raise InputError(
            f"The teacher's labels have no row for battle {battle} in order {order}. Predict both orders."
        )
    return teacher[battle, order]


def correct_label(hard: list[float], labels: Iterable[np.ndarray], above: float) -> list[float]:
    """
    Replace a row's own label by the teachers' if they confidently contradict it.

    The teachers' mean over teachers and orders replaces the label if it gives one verdict more than `above` and the
    label does not favour this verdict. The idea is from the WSDM Cup 1st place, who corrected 125 labels by hand.

    Args:
        hard: the row's own label [K].
        labels: the teachers' probabilities [N, K], one array for each order shown.
        above: threshold from 0.5 to 1; 1 never replaces a label.

    Returns:
        The label to train on [K].
    """
    mean = np.mean([label.mean(axis=0) for label in labels], axis=0)
    sure = np.flatnonzero(mean == mean.max())
    contradicts = len(sure) == 1 and mean[sure[0]] > above and hard[sure[0]] < max(hard)
    return mean.tolist() if contradicts else hard


def convert_verdicts(probs: np.ndarray, num: int, ties: str, share: float) -> np.ndarray:
    """
    Convert a teacher's probabilities to the student's verdicts.

    From three to two verdicts, the tie is dropped or split evenly between a and b. From two to three, ties follow
    [Davidson (1970)](https://doi.org/10.1080/01621459.1970.10481082): p_tie is proportional to nu * sqrt(p_a p_b),
    with nu such that the mean probability of a tie is `share`. The odds of a against b do not change.

    Args:
        probs: the teacher's probabilities [R, 3], with 0 for a tie if the teacher has two verdicts.
        num: number of verdicts of the student, 2 or 3.
        ties: `drop` or `split`, for a student of two verdicts.
        share: share of ties in the labels, from 0 to 1.

    Returns:
        Probabilities [R, num].
    """
    knows_ties = (probs[:, 2] > 0).any()
    if num == 2:
        return probs[:, :2] + probs[:, 2:] / 2 if ties == "split" else first_verdicts(probs, 2)
    if knows_ties:
        return probs / probs.sum(axis=1, keepdims=True)
    even = np.sqrt(probs[:, 0] * probs[:, 1])

    def shares(nu: float) -> np.ndarray:
        return nu * even / (1 + nu * even)

    if not shares(NU[0]).mean() < share < shares(NU[1]).mean():
        return probs  # no nu gives this share; in particular a share of 0
    tie = shares(np.exp(brentq(lambda log_nu: shares(np.exp(log_nu)).mean() - share, *np.log(NU))))
    return np.column_stack([probs[:, :2] * (1 - tie)[:, None], tie])


def tie_share(rows: pa.Table) -> float:
    """Compute the share of ties in the labels; 0 if no battle has a label."""
    shares = tie_shares(rows)
    labelled = shares[~np.isnan(shares)]
    return float(labelled.mean()) if len(labelled) else 0.0


def check_out_of_fold(path: Path, probs: Probs, battles: Path | None, rows: pa.Table) -> None:
    """
    Raise `GateError` unless each label is proven to come from a model that did not train on its battle.

    Args:
        path: the labels' file, for messages.
        probs: the labels with their metadata.
        battles: the battles file that is trained on, or None.
        rows: the battles that are trained on.
    """
    folds = probs.metadata.get("folds")
    if not folds:
        more = f" {EXTERNAL}" if not probs.metadata else ""
        raise GateError(f"{path}: its metadata does not prove these labels out of fold. {ADVICE}{more}")
    for fold, model in folds.items():
        if int(fold) in model["folds_seen"]:
            raise GateError(f"{path}: fold {fold} was labelled by {model['model']}, which trained on it. {ADVICE}")
    if battles is None:
        raise GateError(
            f"{path}: out-of-fold labels can be proven only for a battles file; train with battles: FILE. {ADVICE}"
        )
    if probs.metadata.get("battles_sha256") != content_hash(battles):
        raise GateError(f"{path}: these labels are for another battles file than {battles}. Predict this file.")
    unproven = sorted(set(map(str, labelled_folds(rows))) - set(folds))
    if unproven:
        what = "battles without a fold" if unproven == ["None"] else f"fold {unproven[0]}"
        raise GateError(f"{path}: its metadata names no model that held out {what}. {ADVICE}")
