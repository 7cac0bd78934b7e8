"""
Which battles find the best of n candidates, and what their outcomes say.

An outcome is a candidate's probability to win plus half of that of a tie: 0.5 where neither is better. Nothing here
knows texts or engines: a contest says which battles it still needs, and is told their judgements.
"""

from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

MAX_ROUND_ROBIN = 8  # candidates up to which everyone meets everyone by default: 28 battles, where a knockout has 7
EQUAL = 1e-9  # outcomes and scores no further apart are equal


def default_method(num: int) -> str:
    """The method for `num` different candidates where none is named."""
    return "round-robin" if num <= MAX_ROUND_ROBIN else "knockout"


def num_battles(method: str, num: int) -> int:
    """How many battles `num` different candidates take."""
    return num * (num - 1) // 2 if method == "round-robin" else num - 1


@dataclass
class Contest:
    """
    Candidates 0 to `num` - 1, all different, and the judgements so far of pairs (i, j), i < j, `a` being i.

    Their numbers decide who meets whom and who is taken of equals, so they are to be drawn by lot (`Entry.of`).
    `method`: round-robin, anchor or knockout, as `sft-judge best-of-n --help` has them.
    """

    num: int
    method: str
    anchor: int = 0  # whom the others meet by the method `anchor`
    judged: dict[tuple[int, int], object] = field(default_factory=dict)

    def due(self) -> list[tuple[int, int]]:
        """The battles to judge next; none when it is over."""
        if self.method == "knockout":
            return self._bracket()[1]
        pairs = combinations(range(self.num), 2)
        return [
            pair for pair in pairs if pair not in self.judged and (self.method == "round-robin" or self.anchor in pair)
        ]

    def _bracket(self) -> tuple[list[list[int]], list[tuple[int, int]]]:
        """
        Who is in each round, and the battles that the next lacks. Neighbours meet; in the first round the last ones
        wait, as many as leave a power of two for the second, so that nobody waits twice.
        """
        rounds = [list(range(self.num))]
        while len(rounds[-1]) > 1:
            there = rounds[-1]
            waiting = (1 << (len(there) - 1).bit_length()) - len(there)
            meeting = there[: len(there) - waiting]
            pairs = list(zip(meeting[::2], meeting[1::2], strict=True))
            if missing := [pair for pair in pairs if pair not in self.judged]:
                return rounds, missing
            winners = [one if self.outcome(one, two) >= 0.5 - EQUAL else two for one, two in pairs]
            rounds.append(winners + there[len(meeting) :])
        return rounds, []

    def outcome(self, one: int, two: int) -> float:
        """What `one` got against `two`, 0 to 1."""
        judgement = self.judged[min(one, two), max(one, two)]
        won = judgement.a if one < two else judgement.b
        return won + judgement.tie / 2

    def outcomes(self) -> np.ndarray:
        """[num, num] of what the row's candidate got against the column's; NaN where they did not meet."""
        table = np.full((self.num, self.num), np.nan)
        for one, two in self.judged:
            table[one, two], table[two, one] = self.outcome(one, two), self.outcome(two, one)
        return table

    def scores(self) -> np.ndarray:
        """
        How good each candidate [num] is, by its method.

        round-robin: mean outcome against all others, 0.5 without others. anchor: outcome against the anchor, whose own
        is 0.5. knockout: rounds survived, one of them perhaps without a battle.
        """
        if self.method == "knockout":
            rounds = self._bracket()[0]
            return np.array([sum(one in there for there in rounds) - 1.0 for one in range(self.num)])
        table = self.outcomes()
        if self.method == "anchor":
            table[self.anchor, self.anchor] = 0.5
            return table[:, self.anchor]
        return np.full(1, 0.5) if self.num == 1 else np.nanmean(table, axis=1)

    def standing(self, eligible: list[int]) -> dict:
        """
        `best` of the `eligible` (the first of equals), whether it was `tied`, `condorcet_winner`, `cyclic_triples`.

        The Condorcet winner beats every other candidate; a cyclic triple is three that beat one another in a circle
        (Kendall and Babington Smith 1940). Both are None where not everyone met everyone.
        """
        scores = self.scores()
        top = max(scores[one] for one in eligible)
        first = [one for one in eligible if scores[one] >= top - EQUAL]
        best = first[0]
        met = [self.outcome(best, sum(pair) - best) for pair in self.judged if best in pair]
        by_rule = any(abs(value - 0.5) <= EQUAL for value in met) if self.method == "knockout" else len(first) > 1
        beats = self.outcomes() > 0.5 + EQUAL
        whole = self.method == "round-robin"
        winner = np.flatnonzero(beats.sum(axis=1) == self.num - 1).tolist() if whole else []
        triples = int(np.trace(np.linalg.matrix_power(beats.astype(int), 3))) // 3 if whole else None
        return {"best": best, "tied": by_rule, "condorcet_winner": (winner or [None])[0], "cyclic_triples": triples}
