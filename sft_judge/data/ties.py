"""Ties in the labels of battles: the share of a tie in each label, and the number of verdicts a judge needs."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.columns import SOFT

TIE = VERDICTS[2]


def tie_shares(rows: pa.Table) -> np.ndarray:
    """Return the share of a tie in each battle's own label `[R]`, NaN without a label; soft labels take precedence."""
    there = set(rows.column_names)
    verdicts = np.array([np.nan if name is None else name == TIE for name in rows["verdict"].to_pylist()], float)
    if "soft_a" not in there:
        return verdicts
    soft = [np.array(rows[name].to_pylist() if name in there else [None], float) for name in SOFT]
    total = np.nansum(np.broadcast_arrays(*soft), axis=0)
    return np.where(np.isnan(soft[0]), verdicts, np.nan_to_num(soft[2]) / np.where(total > 0, total, 1))


def label_shares(row: dict, num_verdicts: int) -> list[float] | None:
    """
    Return a battle's own label as shares of the verdicts `[K]`; soft labels take precedence over the verdict.

    Args:
        row: a battle.
        num_verdicts: number of verdicts K, 2 or 3.

    Returns:
        The shares; None without a label; zeros if the label is a tie and K is 2.
    """
    if row.get("soft_a") is not None:
        shares = [row.get(name) or 0.0 for name in SOFT[:num_verdicts]]
    elif row["verdict"] is None:
        return None
    else:
        shares = [float(row["verdict"] == name) for name in VERDICTS[:num_verdicts]]
    total = sum(shares)
    return [share / total for share in shares] if total else shares


def has_label_of(rows: pa.Table, num_verdicts: int) -> np.ndarray:
    """
    Return a mask `[R]` of the battles whose own label a judge of K verdicts can give at least in part.

    Args:
        rows: the battles.
        num_verdicts: number of verdicts K, 2 or 3.
    """
    shares = tie_shares(rows)
    return shares < 1 if num_verdicts == 2 else ~np.isnan(shares)


def verdicts_needed(rows: pa.Table) -> int:
    """
    Return the number of verdicts K that a judge of these battles needs: 3 if any label includes a tie, otherwise 2.
    """
    is_tie = pc.any(pc.equal(rows["verdict"], TIE)).as_py()  # an even split of votes has the verdict tie too
    return 3 if is_tie or (tie_shares(rows) > 0).any() else 2
