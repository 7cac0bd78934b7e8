"""
Which prompts stand, equal or nearly, on two sides: in two folds of one file, or in test and training rows.

A second method, which shares no code with the one that makes the folds: prompts as sets of word triples, joined
exactly at a Jaccard similarity (similarity_join.py), and equal first turns found by Arrow's own normalisation.
"""

import hashlib
import re
import tempfile
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sft_judge.data.preparing.similarity_join import SetJoin

SHINGLE = 3  # words
EXAMPLES = 5  # pairs of ids that are named
_MULTIPLIERS = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # splitmix64's, one a word
_ALONE = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # Chinese and Japanese: no spaces, so a character is a word
_WORD = re.compile(f"[{_ALONE}]|[^\\W{_ALONE}]+")


@dataclass
class Leaks:
    """
    What stands on two sides: `leaking` [N], one for each battle added, and the ids of a few pairs.

    `prompts`: different sets of triples; `compared`: pairs of them that were compared whole; `first_turns`: first
    turns that stand on two sides, case and white space aside.
    """

    leaking: np.ndarray
    prompts: int
    compared: int
    first_turns: int
    pairs: list[tuple[str, str]]


class LeakSearch:
    """Add battles batch by batch, each with its side (a fold; or 0 for training, 1 for test), then `find`."""

    def __init__(self):
        self._file = tempfile.TemporaryFile()  # the sets of triples, one after the other
        self._sizes, self._sides, self._first_turns, self._ids = [], [], [], []

    def add(self, battles: pa.Table, sides: np.ndarray) -> None:
        """`id` and `prompt` of N battles, and their sides [N], integers from 0; those below 0 are on no side."""
        prompts = battles["prompt"].combine_chunks()
        triples, sizes = triple_sets(pc.binary_join(prompts, "\n").to_pylist())
        self._file.write(triples.data)
        self._sizes.append(sizes)
        self._sides.append(np.asarray(sides, dtype=np.int64))
        self._first_turns.append(_hashes(_arrow_normal(pc.list_element(prompts, 0))))
        self._ids.append(pa.array(battles["id"].to_pylist(), pa.string()))  # a copy: a slice would keep its batch

    def find(self) -> Leaks:
        """What stands on two sides of all that was added. To be asked once."""
        sizes, sides = np.concatenate(self._sizes), np.concatenate(self._sides)
        with self._file:
            self._file.flush()
            join = SetJoin(_OnDisk(self._file), sizes, sides)
            leaking = join.find()
        first_turns = _on_two_sides(np.concatenate(self._first_turns)[sides >= 0], sides[sides >= 0])
        ids = pa.chunked_array(self._ids)
        named = [(ids[left].as_py(), ids[right].as_py()) for left, right in join.witnesses[:EXAMPLES]]
        return Leaks(leaking, join.num_sets, join.compared, first_turns, named)


class _OnDisk:
    """The numbers in a file, read by index; mapped for each reading, so that none of it stays in memory."""

    def __init__(self, file):
        self._file = file

    def __getitem__(self, index) -> np.ndarray:
        return np.array(np.memmap(self._file, np.uint64, "r")[index])


def triple_sets(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """
    The word triples of N texts as 64-bit hashes: sorted sets, one after the other [T], and their sizes [N].

    A word is a run of letters, digits and underscores without regard to case, or one Chinese or Japanese character.
    Fewer than three words are one triple, and so is a text without words.
    """
    words, counts = [], np.zeros(len(texts), dtype=np.int64)
    for row, text in enumerate(texts):
        tokens = _WORD.findall(text.casefold()) or [text.strip()]
        tokens += [""] * (SHINGLE - len(tokens))
        counts[row] = len(tokens)
        words += tokens
    encoded = pa.array(words, pa.string()).dictionary_encode()
    hashes = _hashes(encoded.dictionary)[encoded.indices.to_numpy()]
    triples = np.zeros(len(words), dtype=np.uint64)
    for step, multiplier in enumerate(_MULTIPLIERS):
        triples[: len(words) - step] += hashes[step:] * np.uint64(multiplier)
    owner = np.repeat(np.arange(len(texts)), counts)
    begins = np.arange(len(words)) + SHINGLE <= np.cumsum(counts)[owner]
    triples, owner = triples[begins], owner[begins]
    order = np.lexsort((triples, owner))
    triples = triples[order]  # `owner` was sorted, and stays as it is
    new = np.r_[True, (triples[1:] != triples[:-1]) | (owner[1:] != owner[:-1])][: len(triples)]
    return triples[new], np.bincount(owner[new], minlength=len(texts))


def _hashes(texts: pa.Array) -> np.ndarray:
    """64 bits [N] of each text; the same in every process."""
    digests = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts.to_pylist())
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


def _arrow_normal(texts: pa.Array) -> pa.Array:
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(pc.utf8_lower(texts), r"\s+", " "))


def _on_two_sides(values: np.ndarray, sides: np.ndarray) -> int:
    """How many different values [N] have more than one side [N]."""
    order = np.lexsort((sides, values))
    values, sides = values[order], sides[order]
    turns = (values[1:] == values[:-1]) & (sides[1:] != sides[:-1])
    return len(np.unique(values[1:][turns]))
