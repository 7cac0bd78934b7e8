"""
Tournaments among n candidates: the battles that are needed, and the scores that follow.

An outcome is a candidate's probability to win plus half the probability of a tie: 0.5 if neither is better. This
module knows no texts or engines: a contest lists the battles that it still needs, and is given their judgements.
"""

from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

MAX_ROUND_ROBIN = 8  # candidates; by default a round robin for up to this many (28 battles), a knockout for more
EQUAL = 1e-9  # outcomes and scores at most this far apart are equal


def default_method(num: int) -> str:
    """Return the default method for `num` different candidates."""
    return "round-robin" if num <= MAX_ROUND_ROBIN else "knockout"


def num_battles(method: str, num: int) -> int:
    """
    Return the number of battles for `num` different candidates.

    Args:
        method: round-robin, anchor or knockout.
        num: number of candidates.
    """
    return num * (num - 1) // 2 if method == "round-robin" else num - 1


@dataclass
class Contest:
    """
    Tournament among different candidates, with the judgements so far.

    The candidates' numbers decide the pairings and break ties, so they must be assigned at random (`Entry.of`).

    Attributes:
        num: number of candidates, numbered from 0.
        method: round-robin, anchor or knockout, see `sft-judge best-of-n --help`.
        anchor: candidate that all others meet, for the method `anchor`.
        judged: judgements of pairs (i, j) with i < j; i is `a`.
    """

    num: int
    method: str
    anchor: int = 0
    judged: dict[tuple[int, int], object] = field(default_factory=dict)

    def due(self) -> list[tuple[int, int]]:
        """Return the battles to judge next; empty if the tournament is over."""
        if self.method == "knockout":
            return self._bracket()[1]
        pairs = combinations(range(self.num), 2)
        return [
            pair for pair in pairs if pair not in self.judged and (self.method == "round-robin" or self.anchor in pair)
        ]

    def _bracket(self) -> tuple[list[list[int]], list[tuple[int, int]]]:
        """
        Return the candidates of each round, and the battles that are missing for the next round.

        Neighbours meet. In the first round the last candidates get a bye, so many that a power of two is left for the
        second round. No candidate gets a second bye.
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
        """
        Return the outcome of candidate `one` against candidate `two`, from 0 to 1.

        Args:
            one: a candidate.
            two: its opponent.
        """
        judgement = self.judged[min(one, two), max(one, two)]
        won = judgement.a if one < two else judgement.b
        return won + judgement.tie / 2

    def outcomes(self) -> np.ndarray:
        """Return the outcome of the row's candidate against the column's `[num, num]`, NaN if they did not meet."""
        table = np.full((self.num, self.num), np.nan)
        for one, two in self.judged:
            table[one, two], table[two, one] = self.outcome(one, two), self.outcome(two, one)
        return table

    def scores(self) -> np.ndarray:
        """
        Return the score of each candidate `[num]`.

        round-robin: mean outcome against all others, 0.5 without others. anchor: outcome against the anchor, whose own
        score is 0.5. knockout: number of rounds survived, including a bye.
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
        Return the winner among the eligible candidates.

        Args:
            eligible: candidates that may win.

        Returns:
            `best` (the first of equals); `tied`, True if the winner was decided by its number; `condorcet_winner`, the
            candidate that beats every other; `cyclic_triples`, the number of triples of candidates that beat each
            other in a circle (Kendall and Babington Smith 1940). The last two are None unless all candidates met.
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
