"""
Battles that stand more than once, within a source or across sources: exactly, or nearly.

Exactly the same are battles of the same prompt and responses, whichever response stands first. Nearly the same are
those whose texts, all together, are by MinHash: their responses may have changed sides too.
"""

import numpy as np

from sft_judge.data.battles import FIELDS
from sft_judge.data.importing.votes import pair_key
from sft_judge.data.preparing.minhash import connect, near_pairs, same_value_edges, signatures

NEAR_BATTLE = 0.8  # estimated Jaccard similarity: battles that share one response of two stay below


class DuplicateIndex:
    """What tells battles that stream by apart: a key of each pair and, to find the nearly same, signatures."""

    def __init__(self, near: bool):
        self.near = near
        self._keys: list[int] = []
        self._ordered: list[bool] = []
        self._signatures: list[np.ndarray] = []

    def add(self, rows: list[dict]) -> None:
        """Some more battles."""
        for key, ordered in map(pair_key, rows):
            self._keys.append(int.from_bytes(key[:8], "little") >> 1)
            self._ordered.append(ordered)
        if self.near:
            self._signatures.append(
                signatures("\n".join(turn for name in FIELDS for turn in row[name]) for row in rows)
            )

    def find_representatives(self, eligible: np.ndarray, labelled: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """
        For each battle [N] the one [N] that stands for it, itself where it stays; -1 for those not `eligible` [N].

        Of battles that are the same a labelled one stays, and of these the one with the least id.
        """
        keys = np.array(self._keys, dtype=np.int64)
        rows = np.flatnonzero(eligible)
        edges = [same_value_edges(keys[rows])]
        if self.near:
            self._signatures = [np.concatenate(self._signatures)]
            edges.append(near_pairs(self._signatures[0][rows], rank=keys[rows], least=NEAR_BATTLE))
        groups = connect(len(rows), *edges)
        several = np.flatnonzero(np.bincount(groups)[groups] > 1)
        rank = np.zeros(len(rows), dtype=np.int64)
        rank[several] = np.unique(ids[rows[several]], return_inverse=True)[1]
        order = np.lexsort((rank, ~labelled[rows], groups))
        first = np.flatnonzero(np.r_[True, np.diff(groups[order]) != 0])
        representatives = np.full(len(keys), -1)
        representatives[rows] = rows[order[first]][groups]
        return representatives

    def disagreeing(self, representatives: np.ndarray, verdicts: np.ndarray) -> int:
        """How many left-out battles of exactly the same pair had another verdict [N] than the one that stayed."""
        keys, ordered = np.array(self._keys, dtype=np.int64), np.array(self._ordered)
        rows = np.flatnonzero((representatives >= 0) & (representatives != np.arange(len(representatives))))
        rows = rows[(keys[rows] == keys[representatives[rows]]) & (verdicts[rows] != None)]  # noqa: E711
        exchanged = {"a": "b", "b": "a"}
        shown = [verdicts[row] if ordered[row] else exchanged.get(verdicts[row], verdicts[row]) for row in rows]
        stayed = [
            verdicts[row] if ordered[row] else exchanged.get(verdicts[row], verdicts[row])
            for row in representatives[rows]
        ]
        return sum(one != other for one, other in zip(shown, stayed, strict=True))
