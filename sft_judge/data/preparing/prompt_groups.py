"""
Groups of prompts, shared by folds, leak detection between folds or sets, and intervals.

Two rows are in one group if they have the same first turn, because a follow-up is asked of the same answers (MT-Bench
has every question with and without its second turn), or if their prompts, all turns together, are near-duplicates.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sft_judge.data.preparing.minhash import PERMUTATIONS, connect, near_texts, same_value_edges, signatures

ROWS_PER_BATCH = 10_000
EXAMPLES = 5  # pairs of ids listed as examples


def normal_prompt(turns: list[str]) -> str:
    """Normalise a prompt: casefold and collapse white space; turns stay separate."""
    return "\x1e".join(" ".join(turn.casefold().split()) for turn in turns)


def text_hash(text: str) -> int:
    """Hash a text to 63 bits with BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


class PromptIndex:
    """Index of the distinct prompts of streamed battles: hashes, MinHash signatures, and the prompt of each row."""

    def __init__(self):
        self._places: dict[int, int] = {}  # index of the distinct prompt with this hash
        self._first_turns: list[int] = []
        self._signatures = [np.empty((0, PERMUTATIONS), dtype=np.uint16)]
        self._rows = [np.empty(0, dtype=np.int64)]

    def add(self, prompts: list[list[str]]) -> None:
        """Add the prompts of more rows."""
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
        """Return the index of each row's prompt `[N]` among the distinct prompts."""
        return np.concatenate(self._rows)

    @property
    def signatures(self) -> np.ndarray:
        """Return the MinHash signature of each distinct prompt `[P, PERMUTATIONS]`."""
        self._signatures = [np.concatenate(self._signatures)]
        return self._signatures[0]

    def groups(self) -> tuple[np.ndarray, np.ndarray]:
        """
        Return the group of each distinct prompt `[P]` and a hash of each group `[G]`.

        The hash does not depend on the order of the rows.
        """
        keys = np.fromiter(self._places, dtype=np.int64)
        near = near_texts(self.signatures, rank=keys)
        groups = connect(len(keys), near, same_value_edges(np.array(self._first_turns, dtype=np.int64)))
        hashes = np.full(groups.max(initial=-1) + 1, np.iinfo(np.int64).max)
        np.minimum.at(hashes, groups, keys)
        return groups, hashes

    def row_groups(self) -> np.ndarray:
        """Return the group of each row's prompt `[N]`, numbered from 0 by first appearance."""
        groups = self.groups()[0][self.rows]
        _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
        return np.argsort(np.argsort(first))[inverse]

    def find_leaks(self, sides: np.ndarray, ids: pa.ChunkedArray) -> "Leaks":
        """
        Find prompt groups that occur on two sides, such as two folds.

        Args:
            sides: side of each row `[N]`, as integers.
            ids: battle ids `[N]`, for examples.
        """
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
    Rows whose prompt group occurs on two sides.

    Attributes:
        leaking: mask of these rows `[N]`.
        first_turns: number of normalised first turns on two sides.
        prompts: number of distinct prompts.
        pairs: ids of a few example pairs.
    """

    leaking: np.ndarray
    first_turns: int
    prompts: int
    pairs: list[tuple[str, str]]


def _meetings(values: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """
    Return pairs of rows `[M, 2]` with the same value on different sides, at least one for each value on several sides.
    """
    order = np.lexsort((sides, values))
    meet = np.flatnonzero((np.diff(values[order]) == 0) & (np.diff(sides[order]) != 0))
    return np.stack([order[meet], order[meet + 1]], axis=1)


def index_prompts(battles: pa.Table) -> PromptIndex:
    """Build the index of prompts of battles in memory."""
    index = PromptIndex()
    for batch in battles.select(["prompt"]).to_batches(ROWS_PER_BATCH):
        index.add(batch["prompt"].to_pylist())
    return index


def group_prompts(battles: pa.Table) -> np.ndarray:
    """Return the group of each battle's prompt `[N]`, numbered from 0 by first appearance."""
    return index_prompts(battles).row_groups()
