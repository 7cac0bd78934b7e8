"""
Merging of repeated votes on a pair into one battle with their shares as soft labels.

A pair is the same prompt and the same two responses of the same models, in either order.
"""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sft_judge.core.swap_orders import swap
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.battles import FIELDS, BattleFile, set_column
from sft_judge.data.columns import SOFT

LABELS = ("verdict", *SOFT)


def pair_key(row: dict, by_model: bool = False) -> tuple[bytes, bool]:
    """
    Return a key of the battle's pair (16 bytes), and True if its responses are in the pair's canonical order.

    Args:
        row: a battle.
        by_model: distinguish equal answers of different models, because a vote is for a model's answer.
    """
    prompt, one, two = ("\x1e".join(f"{len(turn)}:{turn}" for turn in row[name]).encode() for name in FIELDS)
    if by_model:
        one, two = (
            text + f"\x1d{row.get(name) or ''}".encode() for text, name in ((one, "model_a"), (two, "model_b"))
        )
    ordered = one <= two
    pair = b"\0\x1f".join((prompt, *((one, two) if ordered else (two, one))))
    return hashlib.blake2b(pair, digest_size=16).digest(), ordered


def merge_votes(battles: BattleFile, write) -> int:
    """
    Merge the votes on each pair and return the number of rows that were merged into others.

    Each pair's first vote is kept, with the shares of all its votes in `soft_*` and their number as `weight`. The
    verdict is the most frequent verdict, or a tie if there is no single one. Rows without a label are kept as they
    are.

    Args:
        battles: the battles.
        write: function called with tables of merged battles.
    """
    keys, ordered, votes = _read_votes(battles)
    labelled = ~np.isnan(votes[:, 0])
    pairs = np.where(labelled, keys, np.arange(len(keys), dtype=np.uint64))
    _, first, group = np.unique(pairs, return_index=True, return_inverse=True)
    # a vote counts for the response it was given to, whichever side the response was on
    exchanged = ordered != ordered[first][group]
    votes[exchanged] = swap(votes[exchanged])
    totals = np.zeros((len(first), 3))
    np.add.at(totals, group, votes)
    first_rows, start = np.sort(first), 0
    for table in battles.batches():
        rows = first_rows[(first_rows >= start) & (first_rows < start + table.num_rows)]
        write(_with_shares(table.take(pa.array(rows - start)), totals[group[rows]], labelled[rows]))
        start += table.num_rows
    return len(keys) - len(first)


def _read_votes(battles: BattleFile) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Return for every row an integer for its pair `[N]`, whether it is in canonical order `[N]`, and its vote `[N, 3]`.

    The vote of a row without a label is NaN.
    """
    keys, ordered, votes = [], [], []
    for table in battles.batches([*FIELDS, "model_a", "model_b", *LABELS]):
        for row in table.to_pylist():
            key, in_order = pair_key(row, by_model=True)
            keys.append(int.from_bytes(key[:8], "little") | 1 << 63)  # smaller keys are row numbers of unlabelled rows
            ordered.append(in_order)
            soft = [row.get(name) for name in SOFT]
            if soft[0] is not None:
                votes.append([share or 0.0 for share in soft])
            else:
                votes.append([row["verdict"] == verdict if row["verdict"] else np.nan for verdict in VERDICTS])
    return np.array(keys, np.uint64), np.array(ordered), np.array(votes, float)


def _with_shares(table: pa.Table, totals: np.ndarray, labelled: np.ndarray) -> pa.Table:
    """Fill in verdict, shares and weight of rows `[n]` from their votes `[n, 3]`; unlabelled rows keep nulls."""
    counts = np.where(labelled, totals.sum(axis=1), np.nan)
    shares = totals / np.where(labelled, counts, 1)[:, None]
    best = shares.max(axis=1, keepdims=True)
    winners = np.where((shares == best).sum(axis=1) == 1, shares.argmax(axis=1), VERDICTS.index("tie"))
    verdicts = [VERDICTS[winner] if there else None for winner, there in zip(winners, labelled, strict=True)]
    table = set_column(table, "verdict", pa.array(verdicts, pa.string()))
    if "tie_kind" in table.column_names:  # the kind of one vote does not hold for several votes
        kinds = pc.if_else(pa.array(~labelled | (counts == 1)), table["tie_kind"], pa.scalar(None, pa.string()))
        table = set_column(table, "tie_kind", kinds)
    for name, column in zip(SOFT, shares.T, strict=True):
        table = set_column(table, name, pa.array(column, pa.float64(), mask=~labelled))
    return set_column(table, "weight", pa.array(counts, pa.float64(), mask=~labelled))
