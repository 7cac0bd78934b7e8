"""
Choose the battles on which a quantised copy is compared with its judge: neither tuned on nor trained on.

If there are no such battles, the gate uses those that there are and logs a line about it.
"""

import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sft_judge.core.errors import InputError
from sft_judge.data.ties import has_label_of
from sft_judge.training.dataset import split_folds

logger = logging.getLogger(__name__)

MIN_ROWS = 2  # minimum for an interval


def split_for_gate(
    battles: pa.Table, holdout_fold: int | None, folds_seen: list[int], num_verdicts: int
) -> tuple[pa.Table, pa.Table]:
    """
    Split battles into those that may tune a copy and those that may be used in its gate.

    Args:
        battles: all battles.
        holdout_fold: the fold reserved for the gate, or None.
        folds_seen: folds that the judge was trained on. Without a `holdout_fold`, all other folds are for the gate.
        num_verdicts: K of the judge.

    Returns:
        The tuning battles and the gate battles; the same table twice if no fold can be separated.
    """
    if holdout_fold is not None:
        return split_folds(battles, holdout_fold, None)
    if folds_seen and "fold" in battles.column_names:
        seen = pc.fill_null(pc.is_in(battles["fold"], pa.array(folds_seen, pa.int64())), True)
        seen = pc.or_(seen, pc.is_null(battles["fold"]))
        tuning, unseen = battles.filter(seen), battles.filter(pc.invert(seen))
        num_tuning, num_unseen = (int(has_label_of(part, num_verdicts).sum()) for part in (tuning, unseen))
        if num_tuning and num_unseen >= MIN_ROWS:
            return tuning, unseen
    return battles, battles


def labelled_pool(pool: pa.Table, num_verdicts: int) -> pa.Table:
    """
    Return the battles with a label that a judge of K verdicts can give; soft labels count. Log how many are skipped.

    Args:
        pool: battles for the gate.
        num_verdicts: K of the judge.

    Raises:
        InputError: there are too few battles for an interval. This is raised before anything is tuned.
    """
    labelled = pool.filter(pa.array(has_label_of(pool, num_verdicts)))
    what = "no label" if num_verdicts > 2 else "no label or a tie, which this judge cannot give"
    if labelled.num_rows < MIN_ROWS:
        raise InputError(
            f"{pool.num_rows - labelled.num_rows} of {pool.num_rows} battles for the gate have {what}, but it needs "
            f"{MIN_ROWS} others; give labelled battles, or --gate 0 for no gate."
        )
    if labelled.num_rows < pool.num_rows:
        logger.info(f"gate: skipped {pool.num_rows - labelled.num_rows} of {pool.num_rows} battles, which have {what}")
    return labelled


def draw_gate_rows(pool: pa.Table, num: int, tuned_ids: set[str], folds_seen: list[int], seed: int) -> list[dict]:
    """
    Draw at most `num` battles for the gate, and log if the copy was tuned or the judge trained on some of them.

    Args:
        pool: battles for the gate, from `labelled_pool`.
        num: number of battles to draw.
        tuned_ids: battles that tuned the copy; they are skipped if enough others remain.
        folds_seen: folds that the judge was trained on.
        seed: seed of the draw.

    Returns:
        The rows.
    """
    tuned = pc.is_in(pool["id"], pa.array(list(tuned_ids), pa.string()))
    fresh = pool.filter(pc.invert(tuned))
    if fresh.num_rows < MIN_ROWS:
        fresh = pool
        logger.info(
            "gate: uses battles that tuned the copy, which makes it look better; --holdout-fold N holds a fold out"
        )
    rows = fresh.take(np.random.default_rng(seed).permutation(fresh.num_rows)[:num]).to_pylist()
    learnt = sum(row.get("fold") in folds_seen for row in rows)
    if learnt:
        logger.info(
            f"gate: {learnt} of {len(rows)} battles are in folds that the judge was trained on, which may make it "
            "look better"
        )
    elif not folds_seen or any(row.get("fold") is None for row in rows):
        logger.info("gate: it is unknown which of these battles the judge was trained on, as the folds do not tell")
    return rows
