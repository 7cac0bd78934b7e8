"""
Duplicates of battles within a source or across sources, exact or near.

Exact duplicates have the same prompt and responses, whichever response is shown first. Near-duplicates have the same
number of turns, similar prompts, and responses that are each similar to their counterpart, straight or swapped. A
battle is left out only if it is a duplicate of a battle that stays, so that a chain of small changes does not merge
different battles. A question and the same question with a follow-up are two battles, because the verdict is on another
turn.
"""

import numpy as np

from sft_judge.core.swap_orders import swap
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.importing.votes import pair_key
from sft_judge.data.preparing.minhash import NEAR_SIMILARITY, near_pairs, signatures, similarity
from sft_judge.data.preparing.prompt_groups import PromptIndex

NUM_BANDS = 32  # two battles whose three texts each have similarity 0.65 share a band with probability 0.99996


class DuplicateIndex:
    """
    Index of streamed battles that finds duplicates: a key of each battle's texts and, for near-duplicates, signatures.

    Args:
        near: find near-duplicates too.
    """

    def __init__(self, near: bool):
        self.near = near
        self._keys: list[int] = []
        self._ordered: list[bool] = []
        self._turns: list[int] = []
        self._responses: list[np.ndarray] = []

    def add(self, rows: list[dict]) -> None:
        """Add more battles."""
        for key, ordered in map(pair_key, rows):
            self._keys.append(int.from_bytes(key[:8], "little") >> 1)
            self._ordered.append(ordered)
        if self.near:
            self._turns += [len(row["prompt"]) for row in rows]
            texts = ("\n".join(row[name]) for row in rows for name in ("response_a", "response_b"))
            # keep 8 bits of each hash: different hashes collide with probability 1/256
            self._responses.append(signatures(texts).astype(np.uint8))

    def find_representatives(
        self, eligible: np.ndarray, labelled: np.ndarray, ids: np.ndarray, prompts: PromptIndex
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Find the battle that stays for each battle.

        Labelled battles come first, then battles in the order of their ids. A battle stays unless an earlier battle
        stays and is its duplicate.

        Args:
            eligible: mask of the battles to consider `[N]`.
            labelled: mask of the battles with a label `[N]`.
            ids: battle ids `[N]`.
            prompts: index of the prompts of the same battles.

        Returns:
            The row of the battle that stays for each battle `[N]`, its own row if it stays and -1 if it is not
            eligible; and a mask `[N]` of battles whose responses are swapped relative to the battle that stays.
        """
        # `rows` are the eligible battles in order of precedence. From here on all numbers are positions in `rows`, so
        # a smaller number takes precedence. Exact duplicates are merged first; near-duplicates then only compare one
        # battle of each exact group.
        rows = np.argsort(ids)
        rows = rows[eligible[rows]]
        rows = rows[np.argsort(~labelled[rows], kind="stable")]
        keys, ordered = (np.array(values)[rows] for values in (self._keys, self._ordered))
        _, first, group = np.unique(keys, return_index=True, return_inverse=True)
        stays = first[group]
        swapped = ordered != ordered[stays]
        if self.near:
            different = np.sort(first)
            nearest, near_swapped = self._keep_first(rows[different], prompts)
            place = np.searchsorted(different, stays)
            swapped ^= near_swapped[place]
            stays = different[nearest[place]]
        representatives, is_swapped = np.full(len(ids), -1), np.zeros(len(ids), dtype=bool)
        representatives[rows], is_swapped[rows] = rows[stays], swapped
        return representatives, is_swapped

    def _keep_first(self, rows: np.ndarray, prompts: PromptIndex) -> tuple[np.ndarray, np.ndarray]:
        """
        Find the first near-duplicate that stays for each of `rows` `[R]`, and whether its responses are swapped.

        Candidate pairs share a band: the number of turns, one hash of the prompt (16 bits) and one of each response (8
        bits). A pair is a near-duplicate if its prompts and, in the better of the two orientations, both responses
        reach NEAR_SIMILARITY.

        Args:
            rows: battles in order of precedence `[R]`.
            prompts: index of the prompts of all battles.

        Returns:
            Positions in `rows` of the battles that stay `[R]`, and a mask of swapped responses `[R]`.
        """
        self._responses = [np.concatenate(self._responses)]
        responses, prompt, signed = self._responses[0], prompts.rows, prompts.signatures
        turns = np.array(self._turns)[rows] << 32

        def match(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            """
            Compute the smaller similarity of the two response pairs `[M]`, in straight and in swapped orientation.
            """
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
        pairs = pairs[np.lexsort(pairs.T)]  # sort by the later battle, so that all earlier battles are already decided
        stays = np.arange(len(rows))
        for before, after in pairs.tolist():
            if stays[after] == after and stays[before] == before:
                stays[after] = before
        straight, swapped = match(np.stack([stays, np.arange(len(rows))], axis=1))
        return stays, swapped > straight


def _band(prompts: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """
    Combine one hash of each prompt and response `[N]` into 32 bits `[N]` that stay the same if responses are swapped.
    """
    low, high = np.minimum(one, other).astype(np.int64), np.maximum(one, other).astype(np.int64)
    return prompts.astype(np.int64) << 16 | low << 8 | high


def count_disagreeing(representatives: np.ndarray, swapped: np.ndarray, verdicts: np.ndarray) -> int:
    """
    Count the battles left out whose verdict differs from that of the battle that stays.

    Args:
        representatives: the battle that stays for each battle `[N]`, see `find_representatives`.
        swapped: mask of battles with swapped responses `[N]`.
        verdicts: verdict names or None `[N]`.
    """
    rows = np.flatnonzero((representatives >= 0) & (representatives != np.arange(len(verdicts))))
    said, stayed = (
        verdicts[places][:, None] == np.array(VERDICTS, dtype=object) for places in (rows, representatives[rows])
    )
    said[swapped[rows]] = swap(said[swapped[rows]])
    return int((said.any(axis=1) & (said != stayed).any(axis=1)).sum())
