"""
Judges and battles joined by id, as arrays over the same rows.

A row that any judge cannot answer is left out for all of them and counted, so that judges are compared on the same
battles. The number of verdicts K is the smallest of any judge.
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
    One judge's probabilities and choices on the aligned rows.

    Attributes:
        probs: calibrated probabilities `[N, K]`; the shares in `chosen` for a judge that gives only verdicts.
        orders: raw probabilities in each order `[N, 2, K]`, NaN if an order was not run.
        source: the probs file.
        calibrated: its calibrated probabilities, by battle id.
        chosen: share of each verdict in the judge's choice `[N, K]`.
        has_probs: False for a judge that gives only verdicts.
        says_verdicts: the file was read as verdicts, with or without probabilities derived from them.
    """

    probs: np.ndarray
    orders: np.ndarray
    source: Probs
    calibrated: Calibrated
    chosen: np.ndarray
    has_probs: bool = True
    says_verdicts: bool = False

    @property
    def orders_differ(self) -> bool:
        """Return True if the two orders are known apart; a file without orders fills both with the same values."""
        return not np.array_equal(self.orders[:, 0], self.orders[:, 1], equal_nan=True)


@dataclass
class Aligned:
    """
    The evaluated battles in their order, with every judge on them.

    Attributes:
        battles: the N battles.
        verdicts: people's verdicts `[N]`, indices into VERDICTS.
        clusters: prompt group of each row `[N]`; verdicts on one prompt are not independent.
        judges: the judges by name.
        truth: true probabilities `[N, K]` of synthetic battles, otherwise None.
        notes: what the user should know, such as skipped rows.
    """

    battles: pa.Table
    verdicts: np.ndarray
    clusters: np.ndarray
    judges: dict[str, JudgeRows]
    truth: np.ndarray | None
    notes: list[str] = field(default_factory=list)

    @property
    def num_verdicts(self) -> int:
        """Return the number of verdicts K, 2 or 3."""
        return next(iter(self.judges.values())).probs.shape[1]


def column(battles: pa.Table, name: str) -> list:
    """
    Return a column's values, or None for each row if the column is missing.

    Args:
        battles: the battles.
        name: the column.
    """
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
    Join judges to the battles by id.

    Args:
        probs_files: probs file of each judge that has one, by name.
        battles: the battles.
        battles_path: file of the battles, for messages.
        keep: mask `[N]` of the rows to evaluate; defaults to all.
        truth_path: file of the true probabilities of synthetic battles.
        raw: do not apply calibrations.
        verdict_files: verdict file of each judge without probabilities, by name.
        rules: rules that score verdicts as right or wrong.
        allow_missing: leave out, for all judges, a battle that any judge is missing, instead of raising an error.

    Raises:
        InputError: a file is missing a battle or has a battle that is not in `battles`, or no row has a verdict.
    """
    battle_ids = battles["id"].to_pylist()
    wanted = battles if keep is None else battles.filter(pa.array(keep))
    files, notes = _read_files(probs_files, verdict_files or {})
    num = min(file.num_verdicts for file in files.values())
    if num == 2 and any(file.num_verdicts == 3 for file in files.values()):
        notes.append(
            "a judge has no tie verdict: all judges are compared on a and b, those with three verdicts renormalised"
        )
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
            f"{battles_path}: none of {len(ids)} battles has a verdict that these judges can give, so nothing can be "
            "measured. Give battles with verdicts, --fold N of the training battles, or --truth for synthetic battles."
        )
    for name, file in files.items():
        known, why = _known(file, ids, set(battle_ids), battles_path, rules, allow_missing)
        if not known[answered].all():
            notes.append(f"left out: {int((answered & ~known).sum())} battles that {name} does not answer{why}")
        answered &= known
    if not answered.any():
        raise InputError(f"{battles_path}: no battle with a verdict is answered by every judge.")
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
            notes.append(f"{name}: its probabilities are all 0 or 1, so they are read as verdicts")
    return files | {name: read_verdicts(path) for name, path in verdict_files.items()}, notes


def _known(file, ids, battle_ids: set, battles_path, rules: VerdictRules, allow_missing: bool) -> tuple:
    """
    Return which of the battles `[N]` a judge answers, and the reason for the others as the end of a note.

    Raises:
        InputError: the file has battles that are not in `battle_ids`, or battles are missing and `allow_missing` is
            False.
    """
    there = set(file.ids)
    if extra := there - battle_ids:
        raise InputError(
            f"{file.path}: {len(extra)} ids are not in {battles_path}, e.g. {min(extra)!r}. Give the battles that the "
            "file was made from."
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
        return known & chosen_by_verdicts(file, ids, 3, rules)[2], " or whose answer could not be read"
    return known, ""


def _rows_of_verdicts(name, file: VerdictFile, ids, num, rules, verdicts, clusters) -> tuple[JudgeRows, list[str]]:
    chosen, orders, _ = chosen_by_verdicts(file, ids, num, rules)
    notes = []
    if unread := file.num_unread(ids):
        counted = "counted as wrong" if rules.unread == "wrong" else "left out"
        notes.append(f"{name}: {unread} answers could not be read, {counted}")
    reason, probs = "only verdicts, no probabilities", chosen
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
    """
    Return the verdict index `[N]` (-1 for none) and the true probabilities `[N, K]` or None.

    Missing verdicts are filled in from the truth file.
    """
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
