"""
Teachers' labels: proven out of fold, in the verdicts of the student, of all teachers together.

A label is a probability of a battle's own a and b in the order shown, so any teacher serves any student: other
tokenizers, other templates, and other verdicts by the rules of `convert_verdicts`.
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

ADVICE = "Predict them with `--out-of-fold`, or say allow_in_sample to train on them all the same."
EXTERNAL = "If you know that their judge was not trained on these battles, say so: external_teacher: true."
TEACHER = tuple(f"teacher_{name}" for name in VERDICTS)  # columns of battles, an external teacher's probabilities
MIN_LABEL = 1e-4  # of a teacher's probabilities: engines agree to 2e-3 at best, so that no judge is surer than this
NU = (1e-6, 1e6)  # where Davidson's parameter is looked for


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
    N teachers' labels by (id, order): probabilities [N, K] of the rows that all of them have.

    Args:
        paths: probs files, or verdict files of judges without probabilities.
        battles: the file that is trained on; None of a data set.
        rows: its battles that are trained on: their folds must be proven, their ties tell a teacher of two verdicts
            how many there are.
        num_verdicts: K of the student.
        student: the folder to be written.
        ties: of TEACHER_TIES, what becomes of them for a student of two verdicts.
        allow_in_sample: take labels that are not proven out of fold.
        external_teacher: take a file without metadata, whose judge the user knows not to have seen these battles.

    Raises:
        GateError: a file's metadata does not prove every label out of fold.
        InputError: a file is named twice, an answer could not be read, or `student` holds the judges that made one.
    """
    files = [_read_labels(path) for path in paths]
    hashes = [content_hash(path) for path in paths]
    for path, digest in zip(paths, hashes, strict=True):
        if hashes.count(digest) > 1:
            raise InputError(f"{path} is among the labels twice: a teacher counts once; give it a higher weight.")
    each = []
    for path, probs in zip(paths, files, strict=True):
        _not_the_teacher(path, probs, student)
        if probs.scored is not None and not probs.scored.all():
            raise InputError(
                f"{path}: {int((~probs.scored).sum())} battles hold class frequencies, which are no labels."
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
            f"{path}: {unread} answers could not be read, and a battle without its label cannot be trained on. Leave "
            "these battles out."
        )
    return file.as_probs()


def read_teacher_columns(rows: pa.Table, num_verdicts: int, ties: str, external_teacher: bool) -> dict | None:
    """
    One teacher's labels by (id, order), probabilities [1, K], from the columns of TEACHER; None without them.

    Args:
        rows: battles to train on.
        num_verdicts: K of the student.
        ties: as in `read_teachers`.
        external_teacher: whether the user says that the teacher was not trained on these battles.

    Raises:
        GateError: the user does not say so, and a column proves nothing.
        InputError: a column is missing, or the probabilities of a battle are no distribution.
    """
    there = [name for name in TEACHER if name in rows.column_names]
    if not there:
        return None
    if there not in (list(TEACHER), list(TEACHER[:2])):
        raise InputError(f"The data set has {', '.join(there)}; a teacher has {', '.join(TEACHER)}, or the first two.")
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
    Labels without a probability below MIN_LABEL, their sums still one, and how many had one.

    A 0 stays 0 at every temperature, and temperature**2 then multiplies the loss of a label that was never softened.
    """
    floored = {key: np.maximum(labels, MIN_LABEL) for key, labels in teacher.items() if (labels < MIN_LABEL).any()}
    num_floored = sum(int((teacher[key] < MIN_LABEL).any(axis=-1).sum()) for key in floored)
    changed = {key: labels / labels.sum(axis=-1, keepdims=True) for key, labels in floored.items()}
    return teacher | changed, num_floored


def _not_the_teacher(path: Path, probs: Probs, student: Path) -> None:
    made_by = probs.metadata.get("model")
    if made_by and student.resolve() in (Path(made_by).resolve(), *Path(made_by).resolve().parents):
        raise InputError(f"output_dir {student} holds the teacher of {path}, which it would replace. Name another.")


def teacher_label(teacher: dict, battle: str, order: str) -> np.ndarray:
    """The teachers' probabilities [N, K] for a battle in an order, or an `InputError` that names the battle."""
    if (battle, order) not in teacher:
        raise InputError(
            f"The teacher's labels have no row for battle {battle} in order {order}. Predict both orders."
        )
    return teacher[battle, order]


def correct_label(hard: list[float], labels: Iterable[np.ndarray], above: float) -> list[float]:
    """
    A row's own label [K], or the teachers' where they are sure that it is wrong.

    `labels` are [N, K] in each order shown. Where their mean gives a verdict more than `above` (1: never) and the
    row's own label does not favour it, that mean takes its place (the WSDM Cup 1st place corrected 125 rows by hand).
    """
    mean = np.mean([label.mean(axis=0) for label in labels], axis=0)
    sure = np.flatnonzero(mean == mean.max())
    contradicts = len(sure) == 1 and mean[sure[0]] > above and hard[sure[0]] < max(hard)
    return mean.tolist() if contradicts else hard


def convert_verdicts(probs: np.ndarray, num: int, ties: str, share: float) -> np.ndarray:
    """
    A teacher's probabilities [R, 3] (tie 0 where it knows none) in the `num` verdicts of a student [R, num].

    Three to two: the tie is dropped, or half of it added to each (`split`). Two to three: ties as Davidson (1970) has
    them, p_tie proportional to nu * sqrt(p_a p_b), nu such that `share` of the verdicts are ties; the odds of a and b
    stay.
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
        return probs  # no ties to be had, or none wanted
    tie = shares(np.exp(brentq(lambda log_nu: shares(np.exp(log_nu)).mean() - share, *np.log(NU))))
    return np.column_stack([probs[:, :2] * (1 - tie)[:, None], tie])


def tie_share(rows: pa.Table) -> float:
    """The share of ties in the labels of the battles that have one."""
    shares = tie_shares(rows)
    labelled = shares[~np.isnan(shares)]
    return float(labelled.mean()) if len(labelled) else 0.0


def check_out_of_fold(path: Path, probs: Probs, battles: Path | None, rows: pa.Table) -> None:
    """Raise `GateError` unless each labelled battle's label is proven to be of a model that did not train on it."""
    folds = probs.metadata.get("folds")
    if not folds:
        more = f" {EXTERNAL}" if not probs.metadata else ""
        raise GateError(f"{path}: nothing proves these labels out of fold. {ADVICE}{more}")
    for fold, model in folds.items():
        if int(fold) in model["folds_seen"]:
            raise GateError(f"{path}: fold {fold} was labelled by {model['model']}, which trained on it. {ADVICE}")
    if battles is None:
        raise GateError(f"{path}: labels are proven for a battles file; train on it with battles: FILE. {ADVICE}")
    if probs.metadata.get("battles_sha256") != content_hash(battles):
        raise GateError(f"{path}: labels of another battles file than {battles}. Predict them for this one.")
    unproven = sorted(set(map(str, labelled_folds(rows))) - set(folds))
    if unproven:
        what = "battles without a fold" if unproven == ["None"] else f"fold {unproven[0]}"
        raise GateError(f"{path}: no model is named that left out {what}. {ADVICE}")
