"""
Which prompts belong together: one grouping for folds, for leaks between folds or sets, and for intervals.

Rows whose first turn is the same are one group (a follow-up is asked of the same answers: MT-Bench has every question
with and without its second turn), and so are rows whose prompts, all turns together, are nearly the same.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sft_judge.data.preparing.minhash import PERMUTATIONS, connect, near_texts, same_value_edges, signatures

ROWS_PER_BATCH = 10_000
EXAMPLES = 5  # pairs of ids that are named


def normal_prompt(turns: list[str]) -> str:
    """All turns of a prompt without regard to case and white space; turns stay apart."""
    return "\x1e".join(" ".join(turn.casefold().split()) for turn in turns)


def text_hash(text: str) -> int:
    """63 bits of BLAKE2b: a number for a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


class PromptIndex:
    """The different prompts of battles that stream by: hashes, MinHash signatures, and which row has which."""

    def __init__(self):
        self._places: dict[int, int] = {}  # of each prompt's hash
        self._first_turns: list[int] = []
        self._signatures = [np.empty((0, PERMUTATIONS), dtype=np.uint16)]
        self._rows = [np.empty(0, dtype=np.int64)]

    def add(self, prompts: list[list[str]]) -> None:
        """The prompts of some more rows."""
        rows, new = np.empty(len(prompts), dtype=np.int64), []
        for row, turns in enumerate(prompts):
            text = normal_prompt(turns)
            key = text_hash(text)
            if key not in self._places:
                self._places[key] = len(self._places)
                self._first_turns.append(text_hash(text.partition("\x1e")[0]))
                new.append(text)
            rows[row] = self._places[key]
        self._rows.append(rows)
        if new:
            self._signatures.append(signatures(new))

    @property
    def rows(self) -> np.ndarray:
        """The place of each row's prompt [N] among the different ones."""
        return np.concatenate(self._rows)

    @property
    def signatures(self) -> np.ndarray:
        """The MinHash signature of each different prompt [P, PERMUTATIONS]."""
        self._signatures = [np.concatenate(self._signatures)]
        return self._signatures[0]

    def groups(self) -> tuple[np.ndarray, np.ndarray]:
        """
        The group of each different prompt [P], and a hash for each group [G] that is the same in any order of rows.
        """
        keys = np.fromiter(self._places, dtype=np.int64)
        near = near_texts(self.signatures, rank=keys)
        groups = connect(len(keys), near, same_value_edges(np.array(self._first_turns, dtype=np.int64)))
        hashes = np.full(groups.max(initial=-1) + 1, np.iinfo(np.int64).max)
        np.minimum.at(hashes, groups, keys)
        return groups, hashes

    def row_groups(self) -> np.ndarray:
        """The group of each row's prompt [N], numbered from 0 in the order of the rows."""
        groups = self.groups()[0][self.rows]
        _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
        return np.argsort(np.argsort(first))[inverse]

    def find_leaks(self, sides: np.ndarray, ids: pa.ChunkedArray) -> "Leaks":
        """Find what is on two sides, of rows whose `sides` [N] are numbers such as folds; `ids` [N] name examples."""
        groups, first_turns = self.row_groups(), np.array(self._first_turns, dtype=np.int64)[self.rows]
        meetings = _meetings(groups, sides)
        return Leaks(
            leaking=np.isin(groups, groups[meetings]),
            first_turns=len(np.unique(first_turns[_meetings(first_turns, sides)])),
            prompts=len(self._places),
            pairs=[tuple(ids.take(pair).to_pylist()) for pair in meetings[:EXAMPLES]],
        )


@dataclass
class Leaks:
    """
    Which rows' group stands on two sides (`leaking`, a mask [N]), and the ids of a few pairs.

    `first_turns`: how many first turns stand on two sides, case and white space aside; `prompts`: different prompts.
    """

    leaking: np.ndarray
    first_turns: int
    prompts: int
    pairs: list[tuple[str, str]]


def _meetings(values: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Pairs of rows [M, 2] of one value [N] on different sides [N], at least one for each value that is on several."""
    order = np.lexsort((sides, values))
    meet = np.flatnonzero((np.diff(values[order]) == 0) & (np.diff(sides[order]) != 0))
    return np.stack([order[meet], order[meet + 1]], axis=1)


def index_prompts(battles: pa.Table) -> PromptIndex:
    """The prompts of battles that are in memory."""
    index = PromptIndex()
    for batch in battles.select(["prompt"]).to_batches(ROWS_PER_BATCH):
        index.add(batch["prompt"].to_pylist())
    return index


def group_prompts(battles: pa.Table) -> np.ndarray:
    """The group [N] of each battle's prompt, numbered from 0 by first appearance."""
    return index_prompts(battles).row_groups()
