"""
The battles that a quantised copy is held to its judge by: none that tuned it, and none that trained the judge.

Where there are no others, the gate runs on what there is and a line says so.
"""

import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sft_judge.core.errors import InputError
from sft_judge.data.ties import has_label_of
from sft_judge.training.dataset import split_folds

logger = logging.getLogger(__name__)

MIN_ROWS = 2  # that have an interval


def split_for_gate(
    battles: pa.Table, holdout_fold: int | None, folds_seen: list[int], num_verdicts: int
) -> tuple[pa.Table, pa.Table]:
    """
    The battles that may tune a copy and those that may be its gate.

    Args:
        battles: all of them.
        holdout_fold: the fold that is the gate's alone.
        folds_seen: those the judge was trained on. Without a `holdout_fold`, all other folds are the gate's.
        num_verdicts: those of the judge, K.

    Returns:
        Two tables; the same one twice where no fold is apart.
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
    The battles of a pool whose label a judge of K verdicts can give; soft labels alone are one. Logs the others.

    Raises `InputError` where they are too few to have an interval, before anything is tuned.
    """
    labelled = pool.filter(pa.array(has_label_of(pool, num_verdicts)))
    what = "no label" if num_verdicts > 2 else "no label or a tie, which this judge cannot give"
    if labelled.num_rows < MIN_ROWS:
        raise InputError(
            f"{pool.num_rows - labelled.num_rows} of {pool.num_rows} battles for the gate have {what}, and it takes "
            f"{MIN_ROWS} others; give labelled ones, or --gate 0 for no gate."
        )
    if labelled.num_rows < pool.num_rows:
        logger.info(f"gate: {pool.num_rows - labelled.num_rows} of {pool.num_rows} battles have {what}, left out")
    return labelled


def draw_gate_rows(pool: pa.Table, num: int, tuned_ids: set[str], folds_seen: list[int], seed: int) -> list[dict]:
    """
    Draw at most `num` battles for the gate, and log what they are where they are not new to copy and judge.

    Args:
        pool: battles that may be the gate, of `labelled_pool`.
        num: how many to draw.
        tuned_ids: battles that tuned the copy, which are left out where others remain.
        folds_seen: folds that the judge was trained on.
        seed: of the draw.

    Returns:
        Their rows.
    """
    tuned = pc.is_in(pool["id"], pa.array(list(tuned_ids), pa.string()))
    fresh = pool.filter(pc.invert(tuned))
    if fresh.num_rows < MIN_ROWS:
        fresh = pool
        logger.info(
            "gate: on battles that tuned the copy, which flatter it; --holdout-fold N keeps a fold from tuning"
        )
    rows = fresh.take(np.random.default_rng(seed).permutation(fresh.num_rows)[:num]).to_pylist()
    learnt = sum(row.get("fold") in folds_seen for row in rows)
    if learnt:
        logger.info(
            f"gate: {learnt} of {len(rows)} battles are of folds that the judge was trained on, which may flatter it"
        )
    elif not folds_seen or any(row.get("fold") is None for row in rows):
        logger.info("gate: folds do not say which of these battles the judge was trained on")
    return rows
