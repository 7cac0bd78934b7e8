"""
Battles that are there more than once, within a source or across sources: exactly, or nearly.

Exactly the same are battles of the same prompt and responses, whichever response is shown first. Nearly the same are
battles of as many turns whose prompts are similar and each of whose responses is similar to its counterpart, straight
or exchanged. A battle is left out only if it is the same as one that stays, so that no chain of small changes leads
away; a question and the same with a follow-up are two battles, as the verdict is on another turn.
"""

import numpy as np

from sft_judge.core.swap_orders import swap
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.importing.votes import pair_key
from sft_judge.data.preparing.minhash import NEAR_SIMILARITY, near_pairs, signatures, similarity
from sft_judge.data.preparing.prompt_groups import PromptIndex

NUM_BANDS = 32  # battles whose three texts each have a similarity of 0.65 share a band with probability 0.99996


class DuplicateIndex:
    """What tells battles that stream by apart: a key of each pair and, to find the nearly same, signatures."""

    def __init__(self, near: bool):
        self.near = near
        self._keys: list[int] = []
        self._ordered: list[bool] = []
        self._turns: list[int] = []
        self._responses: list[np.ndarray] = []

    def add(self, rows: list[dict]) -> None:
        """Some more battles."""
        for key, ordered in map(pair_key, rows):
            self._keys.append(int.from_bytes(key[:8], "little") >> 1)
            self._ordered.append(ordered)
        if self.near:
            self._turns += [len(row["prompt"]) for row in rows]
            texts = ("\n".join(row[name]) for row in rows for name in ("response_a", "response_b"))
            # 8 bits of each hash: unlike ones are the same by chance in one of 256
            self._responses.append(signatures(texts).astype(np.uint8))

    def find_representatives(
        self, eligible: np.ndarray, labelled: np.ndarray, ids: np.ndarray, prompts: PromptIndex
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        For each battle [N] the one [N] that stays for it, and whether that one has the responses exchanged [N].

        Itself where it stays; -1 for those not `eligible` [N]. Labelled battles come first, then the least id: a
        battle stays unless one that comes before it stays and is the same. `prompts` are those of the same battles.
        """
        rows = np.argsort(ids)  # from here on places among those eligible, the first to stay first
        rows = rows[eligible[rows]]
        rows = rows[np.argsort(~labelled[rows], kind="stable")]
        keys, ordered = (np.array(values)[rows] for values in (self._keys, self._ordered))
        _, first, group = np.unique(keys, return_index=True, return_inverse=True)
        stays = first[group]
        exchanged = ordered != ordered[stays]
        if self.near:
            different = np.sort(first)
            nearest, turned = self._keep_first(rows[different], prompts)
            place = np.searchsorted(different, stays)
            exchanged ^= turned[place]
            stays = different[nearest[place]]
        representatives, is_exchanged = np.full(len(ids), -1), np.zeros(len(ids), dtype=bool)
        representatives[rows], is_exchanged[rows] = rows[stays], exchanged
        return representatives, is_exchanged

    def _keep_first(self, rows: np.ndarray, prompts: PromptIndex) -> tuple[np.ndarray, np.ndarray]:
        """For each of `rows` [R] the place [R] of the first nearly the same that stays, and if it is exchanged [R]."""
        self._responses = [np.concatenate(self._responses)]
        responses, prompt, signed = self._responses[0], prompts.rows, prompts.signatures
        turns = np.array(self._turns)[rows] << 32

        def match(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            """The lesser similarity [M] of two responses with their counterparts: straight, and exchanged."""
            a, other_a = 2 * rows[pairs.T]
            return tuple(
                np.minimum(similarity(responses, a, other_a + side), similarity(responses, a + 1, other_a + 1 - side))
                for side in (0, 1)
            )

        def is_similar(pairs: np.ndarray) -> np.ndarray:
            similar = similarity(signed, *prompt[rows[pairs.T]]) >= NEAR_SIMILARITY
            similar[similar] = np.maximum(*match(pairs[similar])) >= NEAR_SIMILARITY
            return similar

        bands = (
            turns | _band(signed[prompt[rows], place], responses[2 * rows, place], responses[2 * rows + 1, place])
            for place in range(NUM_BANDS)
        )
        pairs = near_pairs(bands, np.arange(len(rows)), is_similar)
        pairs = pairs[np.lexsort(pairs.T)]  # by the later battle: of all before it is known whether they stay
        stays = np.arange(len(rows))
        for before, after in pairs.tolist():
            if stays[after] == after and stays[before] == before:
                stays[after] = before
        straight, exchanged = match(np.stack([stays, np.arange(len(rows))], axis=1))
        return stays, exchanged > straight


def _band(prompts: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """32 bits [N] of one hash of each prompt and response, [N] each; the same if the responses are exchanged."""
    low, high = np.minimum(one, other).astype(np.int64), np.maximum(one, other).astype(np.int64)
    return prompts.astype(np.int64) << 16 | low << 8 | high


def count_disagreeing(representatives: np.ndarray, exchanged: np.ndarray, verdicts: np.ndarray) -> int:
    """How many of the battles [N] left out have another verdict [N], a name or None, than the one that stays."""
    rows = np.flatnonzero((representatives >= 0) & (representatives != np.arange(len(verdicts))))
    said, stayed = (
        verdicts[places][:, None] == np.array(VERDICTS, dtype=object) for places in (rows, representatives[rows])
    )
    said[exchanged[rows]] = swap(said[exchanged[rows]])
    return int((said.any(axis=1) & (said != stayed).any(axis=1)).sum())
