"""
Probs files and battles, joined by id to arrays over the same rows.

A row that any judge cannot answer is left out for all of them, with its count, so that judges are compared on the
same battles. The number of verdicts K is the least that any judge has.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from sft_judge.core.errors import InputError
from sft_judge.core.swap_orders import ORDERS, widen
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.preparing.prompt_groups import group_prompts
from sft_judge.data.probs import Probs, first_verdicts, read_probs
from sft_judge.data.synthetic.ground_truth import read_truth
from sft_judge.data.verdict_files import VerdictFile, read_verdicts, verdicts_of_probs
from sft_judge.evaluation.metrics import predicted_verdicts
from sft_judge.evaluation.verdict_judges import VerdictRules, chosen_by_verdicts, confusion_probabilities
from sft_judge.inference.calibrated import Calibrated, calibrate_probs

USUAL_RULES = VerdictRules()
VERDICT_INDEX = {name: index for index, name in enumerate(VERDICTS)}


@dataclass
class JudgeRows:
    """
    One judge: `probs` [N, K] calibrated, `orders` [N, 2, K] raw with NaN where not run, and where they are from.

    `chosen` [N, K] are the shares of each verdict in what it chooses; `has_probs` is false of a judge of verdicts
    alone, whose `probs` are these shares.
    """

    probs: np.ndarray
    orders: np.ndarray
    source: Probs
    calibrated: Calibrated
    chosen: np.ndarray
    has_probs: bool = True
    says_verdicts: bool = False  # was read as verdicts, with or without probabilities that were made of them

    @property
    def orders_differ(self) -> bool:
        """Whether anything is known of orders; of a file that names none, each row stands for both (foreign_probs)."""
        return not np.array_equal(self.orders[:, 0], self.orders[:, 1], equal_nan=True)


@dataclass
class Aligned:
    """The battles [N] evaluated, in their order; `truth` [N, K] true probabilities or None; `notes` for people."""

    battles: pa.Table
    verdicts: np.ndarray  # [N] index into VERDICTS
    clusters: np.ndarray  # [N] groups of prompts: verdicts on one prompt are not independent
    judges: dict[str, JudgeRows]
    truth: np.ndarray | None
    notes: list[str] = field(default_factory=list)

    @property
    def num_verdicts(self) -> int:
        """K, 2 or 3."""
        return next(iter(self.judges.values())).probs.shape[1]


def column(battles: pa.Table, name: str) -> list:
    """A column's values, or as many None where these battles do not have it."""
    return battles[name].to_pylist() if name in battles.column_names else [None] * battles.num_rows


def align_judges(
    probs_files: dict[str, Path],
    battles: pa.Table,
    battles_path: Path,
    keep: np.ndarray | None = None,
    truth_path: Path | None = None,
    raw: bool = False,
    verdict_files: dict[str, Path] | None = None,
    rules: VerdictRules = USUAL_RULES,
    allow_missing: bool = False,
) -> Aligned:
    """
    Join judges to the battles.

    Args:
        probs_files: by name, the probs file of each judge that has one.
        battles: the table.
        battles_path: its file, for messages.
        keep: which rows are evaluated, a mask; default all.
        truth_path: of synthetic battles, the true probabilities.
        raw: leave calibrations out.
        verdict_files: by name, the verdict file of each judge without probabilities.
        rules: how their verdicts become right and wrong.
        allow_missing: leave out a battle that a judge says nothing of, for all judges, instead of refusing.

    Raises:
        InputError: a file lacks a battle, has one that the battles do not, or no row has a verdict.
    """
    battle_ids = battles["id"].to_pylist()
    wanted = battles if keep is None else battles.filter(pa.array(keep))
    files, notes = _read_files(probs_files, verdict_files or {})
    num = min(file.num_verdicts for file in files.values())
    if num == 2 and any(file.num_verdicts == 3 for file in files.values()):
        notes.append("a judge knows no tie: all are compared on a and b alone, those of three verdicts renormalised")
    ids = wanted["id"].to_pylist()
    verdicts, truth = _verdicts(wanted, truth_path, num)
    answered = (verdicts >= 0) & (verdicts < num)
    unlabelled, ties = int((verdicts < 0).sum()), int((verdicts >= num).sum())
    if unlabelled:
        notes.append(f"skipped: {unlabelled} of {len(ids)} battles have no verdict")
    if ties:
        notes.append(f"skipped: {ties} of {len(ids)} battles are ties, which an a/b judge cannot answer")
    if not answered.any():
        raise InputError(
            f"{battles_path}: none of {len(ids)} battles has a verdict these judges can give, so nothing can be "
            "measured. Give battles with verdicts, --fold N of the training battles, or --truth of synthetic ones."
        )
    for name, file in files.items():
        known, why = _known(file, ids, set(battle_ids), battles_path, rules, allow_missing)
        if not known[answered].all():
            notes.append(f"left out: {int((answered & ~known).sum())} battles of which {name} says nothing{why}")
        answered &= known
    if not answered.any():
        raise InputError(f"{battles_path}: no battle with a verdict is one that every judge says something of.")
    judged = wanted.filter(pa.array(answered))
    used, clusters = judged["id"].to_pylist(), group_prompts(judged)
    judges = {}
    for name, file in files.items():
        if isinstance(file, VerdictFile):
            judges[name], more = _rows_of_verdicts(name, file, used, num, rules, verdicts[answered], clusters)
            notes += more
        else:
            judges[name] = _rows_of_probs(file, used, num, raw)
    return Aligned(judged, verdicts[answered], clusters, judges, None if truth is None else truth[answered], notes)


def _read_files(probs_files: dict[str, Path], verdict_files: dict[str, Path]) -> tuple[dict, list[str]]:
    files: dict[str, Probs | VerdictFile] = {name: read_probs(path) for name, path in probs_files.items()}
    notes = []
    for name, probs in files.items():
        if (verdicts := verdicts_of_probs(probs)) is not None:
            files[name] = verdicts
            notes.append(f"{name}: its probabilities are all 0 or 1, which is to say verdicts, and read as such")
    return files | {name: read_verdicts(path) for name, path in verdict_files.items()}, notes


def _known(file, ids, battle_ids: set, battles_path, rules: VerdictRules, allow_missing: bool) -> tuple:
    """Which of the battles [N] a judge says something of, and why not of the others. Raises `InputError`."""
    there = set(file.ids)
    if extra := there - battle_ids:
        raise InputError(
            f"{file.path}: {len(extra)} ids are not in {battles_path}, e.g. {min(extra)!r}. Give the battles it is of."
        )
    known = np.array([id_ in there for id_ in ids])
    if not known.all() and not allow_missing:
        missing = [id_ for id_, is_there in zip(ids, known, strict=True) if not is_there]
        what = "verdicts" if isinstance(file, VerdictFile) else "probabilities"
        raise InputError(
            f"{file.path}: no {what} for {len(missing)} of {len(ids)} battles of {battles_path}, e.g. id "
            f"{missing[0]!r}. Predict all of them, give the same --fold and --limit as there, or leave them out: "
            "--allow-missing."
        )
    if isinstance(file, VerdictFile) and rules.unread == "skip":
        return known & chosen_by_verdicts(file, ids, 3, rules)[2], ", or nothing that could be read"
    return known, ""


def _rows_of_verdicts(name, file: VerdictFile, ids, num, rules, verdicts, clusters) -> tuple[JudgeRows, list[str]]:
    chosen, orders, _ = chosen_by_verdicts(file, ids, num, rules)
    notes = []
    if unread := file.num_unread(ids):
        counted = "counted as wrong" if rules.unread == "wrong" else "left out"
        notes.append(f"{name}: {unread} answers could not be read, {counted}")
    reason, probs = "verdicts alone, no probabilities", chosen
    if rules.probabilities:
        probs = confusion_probabilities(orders, verdicts, clusters)
        reason = "probabilities from its confusion matrix with people's verdicts on other prompts, cross-fitted"
        notes.append(f"{name}: {reason}")
    judged = (~np.isnan(orders[:, :, 0])).sum(axis=1)
    calibrated = Calibrated(np.array(ids, dtype=object), widen(probs, 0.0), None, reason, judged)
    return JudgeRows(probs, orders, file.as_probs(), calibrated, chosen, rules.probabilities, True), notes


def _rows_of_probs(probs: Probs, used: list[str], num: int, raw: bool) -> JudgeRows:
    result = calibrate_probs(probs, raw)
    rows = np.array([result.row_of[id_] for id_ in used])
    place = {id_: row for row, id_ in enumerate(used)}
    orders = np.full((len(used), len(ORDERS), num), np.nan)
    scored = np.ones(len(probs.ids), dtype=bool) if probs.scored is None else probs.scored
    shares = first_verdicts(np.exp(probs.logp), num)
    for id_, order, share, judged in zip(probs.ids, probs.orders, shares, scored, strict=True):
        if judged and id_ in place:
            orders[place[id_], ORDERS.index(order)] = share
    averaged = first_verdicts(result.probs[rows], num)
    return JudgeRows(averaged, orders, probs, result, predicted_verdicts(averaged))


def _verdicts(battles: pa.Table, truth_path: Path | None, num: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Verdict index [N], -1 for none, and the true probabilities [N, K]; the truth's verdicts fill in missing ones."""
    named = column(battles, "verdict")
    truth = None
    if truth_path is not None:
        ids, true_probs, true_verdicts = read_truth(truth_path)
        row_of = {id_: row for row, id_ in enumerate(ids)}
        missing = [id_ for id_ in battles["id"].to_pylist() if id_ not in row_of]
        if missing:
            raise InputError(f"{truth_path}: no truth for {len(missing)} battles, e.g. id {missing[0]!r}.")
        rows = [row_of[id_] for id_ in battles["id"].to_pylist()]
        truth = first_verdicts(true_probs[rows], num)
        named = [name or true_verdicts[row] for name, row in zip(named, rows, strict=True)]
    return np.array([VERDICT_INDEX.get(name, -1) for name in named]), truth
