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
from sft_judge.core.swap_orders import ORDERS
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.preparing.prompt_groups import group_prompts
from sft_judge.data.probs import Probs, first_verdicts, read_probs
from sft_judge.data.synthetic.ground_truth import read_truth
from sft_judge.inference.calibrated import Calibrated, calibrate_probs

VERDICT_INDEX = {name: index for index, name in enumerate(VERDICTS)}


@dataclass
class JudgeRows:
    """One judge: `probs` [N, K] calibrated, `orders` [N, 2, K] raw with NaN where not run, and where they are from."""

    probs: np.ndarray
    orders: np.ndarray
    source: Probs
    calibrated: Calibrated

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
) -> Aligned:
    """
    Join judges {name: probs file} to the battles, of which `keep` (mask [rows], default all) are evaluated.

    Raises `InputError` when a probs file lacks a battle, has one that the battles do not, or no row has a verdict.
    """
    battle_ids = battles["id"].to_pylist()
    wanted = battles if keep is None else battles.filter(pa.array(keep))
    files = {name: (path, read_probs(path)) for name, path in probs_files.items()}
    num = min(probs.num_verdicts for _, probs in files.values())
    notes = []
    if num == 2 and any(probs.num_verdicts == 3 for _, probs in files.values()):
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
    judges = {
        name: _judge_rows(path, probs, battle_ids, ids, answered, num, raw, battles_path)
        for name, (path, probs) in files.items()
    }
    judged = wanted.filter(pa.array(answered))
    return Aligned(
        judged, verdicts[answered], group_prompts(judged), judges, None if truth is None else truth[answered], notes
    )


def _judge_rows(path, probs, battle_ids, ids, answered, num, raw, battles_path) -> JudgeRows:
    result = calibrate_probs(probs, raw)
    remedy = "Predict all of them, or give the same --fold and --limit as there."
    rows = result.rows_of(path, ids, f"battles of {battles_path}", remedy)[answered]
    extra = set(result.ids) - set(battle_ids)
    if extra:
        raise InputError(
            f"{path}: {len(extra)} ids are not in {battles_path}, e.g. {min(extra)!r}. Give the battles it is of."
        )
    used = [id_ for id_, keep in zip(ids, answered, strict=True) if keep]
    place = {id_: row for row, id_ in enumerate(used)}
    orders = np.full((len(used), len(ORDERS), num), np.nan)
    scored = np.ones(len(probs.ids), dtype=bool) if probs.scored is None else probs.scored
    shares = first_verdicts(np.exp(probs.logp), num)
    for id_, order, share, judged in zip(probs.ids, probs.orders, shares, scored, strict=True):
        if judged and id_ in place:
            orders[place[id_], ORDERS.index(order)] = share
    return JudgeRows(first_verdicts(result.probs[rows], num), orders, probs, result)


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
