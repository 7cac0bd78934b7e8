"""
The battles that a quantised copy is held to its judge by: none that tuned it, and none that trained the judge.

Where there are no others, the gate runs on what there is and a line says so.
"""

import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sft_judge.core.errors import InputError
from sft_judge.data.battles import has_label
from sft_judge.training.dataset import split_folds

logger = logging.getLogger(__name__)

MIN_ROWS = 2  # that have an interval


def split_for_gate(battles: pa.Table, holdout_fold: int | None, folds_seen: list[int]) -> tuple[pa.Table, pa.Table]:
    """
    The battles that may tune a copy and those that may be its gate.

    Args:
        battles: all of them.
        holdout_fold: the fold that is the gate's alone.
        folds_seen: those the judge was trained on. Without a `holdout_fold`, all other folds are the gate's.

    Returns:
        Two tables; the same one twice where no fold is apart.
    """
    if holdout_fold is not None:
        return split_folds(battles, None, holdout_fold)[0], split_folds(battles, holdout_fold, None)[1]
    if folds_seen and "fold" in battles.column_names:
        seen = pc.fill_null(pc.is_in(battles["fold"], pa.array(folds_seen, pa.int64())), True)
        seen = pc.or_(seen, pc.is_null(battles["fold"]))
        tuning, unseen = battles.filter(seen), battles.filter(pc.invert(seen))
        if has_label(tuning).any() and has_label(unseen).sum() >= MIN_ROWS:
            return tuning, unseen
    return battles, battles


def draw_gate_rows(pool: pa.Table, num: int, tuned_ids: set[str], folds_seen: list[int], seed: int) -> list[dict]:
    """
    Draw at most `num` labelled battles for the gate, and log what they are where they are not new to copy and judge.

    Args:
        pool: battles that may be the gate.
        num: how many to draw.
        tuned_ids: battles that tuned the copy, which are left out where others remain.
        folds_seen: folds that the judge was trained on.
        seed: of the draw.

    Returns:
        Their rows. A battle with soft labels alone counts as one with a verdict does.
    """
    labelled = pool.filter(pa.array(has_label(pool)))
    if labelled.num_rows < pool.num_rows:
        logger.info(f"gate: {pool.num_rows - labelled.num_rows} of {pool.num_rows} battles have no label, left out")
    tuned = pc.is_in(labelled["id"], pa.array(list(tuned_ids), pa.string()))
    fresh = labelled.filter(pc.invert(tuned))
    if fresh.num_rows < MIN_ROWS:
        fresh = labelled
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


def check_gate_rows(pool: pa.Table) -> None:
    """Raise `InputError` where the gate's battles, before anything is tuned, are too few to have an interval."""
    labelled = int(has_label(pool).sum())
    if labelled < MIN_ROWS:
        raise InputError(
            f"{labelled} of {pool.num_rows} battles for the gate have a label, and it takes {MIN_ROWS}; give labelled "
            "ones, or --gate 0 for no gate."
        )
