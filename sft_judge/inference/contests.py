"""
Contests among the candidate answers to a prompt: the battles that they need, and the numbers that follow.
"""

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

import numpy as np

from sft_judge.data.candidates import Group
from sft_judge.data.preparing.prompt_groups import text_hash
from sft_judge.inference.judge import Judgement
from sft_judge.inference.tournaments import Contest, default_method, num_battles

CLIP = 1e-4  # outcomes are clipped to [CLIP, 1 - CLIP], so that log-odds are within 9.2


@dataclass
class Entry:
    """
    A group's contest among its distinct responses.

    Distinct texts are numbered in random order, by a hash of the seed, the prompt and the text, whatever the order of
    rows and responses.

    Attributes:
        group: the group.
        contest: its contest.
        texts: the distinct responses `[num]`.
        places: index of each response `[n]` into `texts`.
    """

    group: Group
    contest: Contest
    texts: list[list[str]]
    places: list[int]

    @classmethod
    def of(cls, group: Group, method: str | None, seed: int = 0) -> "Entry":
        """
        Enter a group; the anchor is its reference if there is one, otherwise a random candidate.

        Args:
            group: the group.
            method: round-robin, anchor or knockout; None selects the default.
            seed: seed of the random order.
        """
        texts, places = group.distinct()
        lots = [text_hash(json.dumps([seed, group.prompts, text])) for text in texts]
        order = sorted(range(len(texts)), key=lots.__getitem__)
        texts, places = [texts[one] for one in order], [order.index(one) for one in places]
        anchor = places[-1] if group.has_reference else 0
        return cls(group, Contest(len(texts), method or default_method(len(texts)), anchor), texts, places)

    @property
    def num_battles(self) -> int:
        """Return the number of battles that the contest needs."""
        return num_battles(self.contest.method, self.contest.num)

    def battle(self, pair: tuple[int, int]) -> dict:
        """Return the battle of a pair, its two responses in the order of `shown_pair`."""
        one, two = (self.texts[place] for place in shown_pair(pair))
        group = self.group
        return {"prompt": group.prompts, "response_a": one, "response_b": two, "language": group.language}

    def record(self, pair: tuple[int, int], judgement: Judgement) -> None:
        """
        Store the judgement of a pair's battle.

        Args:
            pair: the pair.
            judgement: what the judge says of `battle(pair)`.
        """
        self.contest.judged[pair] = judgement if shown_pair(pair) == pair else exchange_judgement(judgement)


def shown_pair(pair: tuple[int, int]) -> tuple[int, int]:
    """
    Return the pair in the order (response_a, response_b).

    In a round robin every candidate is response_a about half of the time, which matters if only one order is judged.
    """
    return pair if sum(pair) % 2 else pair[::-1]


def exchange_judgement(judgement: Judgement) -> Judgement:
    """Return the judgement with a and b swapped."""
    names = {"a": "b", "b": "a", "tie": "tie"}
    return replace(judgement, a=judgement.b, b=judgement.a, verdict=names[judgement.verdict])


def rounds(entries: list[Entry]) -> Generator[list[dict], list[Judgement], None]:
    """
    Yield the battles of each round of the contests. Send their judgements back, in the same order.

    Args:
        entries: the contests.
    """
    while due := [(entry, pair) for entry in entries for pair in entry.contest.due()]:
        answers = yield [entry.battle(pair) for entry, pair in due]
        for (entry, pair), answer in zip(due, answers, strict=True):
            entry.record(pair, answer)


def play_contests(entries: list[Entry], judge: Callable[[list[dict]], list[Judgement]]) -> None:
    """
    Judge all battles that the contests need, round by round.

    Args:
        entries: the contests.
        judge: function from battles to judgements.
    """
    play = rounds(entries)
    battles = next(play, None)
    while battles is not None:
        try:
            battles = play.send(judge(battles))
        except StopIteration:
            return


def rewards(entry: Entry, log_odds: bool = False) -> np.ndarray:
    """
    Compute the rewards of a group's candidates after its contest.

    A round robin gives the mean outcome against the other candidates; against an identical one the outcome is 0.5. An
    anchor gives the outcome against it. A knockout gives the share of its rounds that the candidate survived.

    Args:
        entry: the group and its contest.
        log_odds: use log(outcome / (1 - outcome)) instead of the outcome; not for a knockout.

    Returns:
        Rewards of the candidates [n], without the reference.
    """
    places = np.array(entry.places)
    candidates = places[:-1] if entry.group.has_reference else places
    if entry.contest.method == "knockout":
        survived = entry.contest.scores()[candidates]
        return survived / max(1.0, survived.max())
    table = outcomes(entry)
    if log_odds:
        table = np.log(table.clip(CLIP, 1 - CLIP) / (1 - table).clip(CLIP, 1 - CLIP))
    if entry.contest.method == "anchor":
        return table[: len(candidates), places.tolist().index(entry.contest.anchor)]
    return (table.sum(axis=1) - np.diagonal(table)) / (len(table) - 1)


def outcomes(entry: Entry) -> np.ndarray:
    """Return the outcome of the row's response against the column's [n, n]; 0.5 for identical ones, else NaN."""
    places = np.array(entry.places)
    table = entry.contest.outcomes()[np.ix_(places, places)]
    table[places[:, None] == places] = 0.5
    return table


def choice_probabilities(table: np.ndarray) -> np.ndarray:
    """
    Compute the probability that each of n candidates is chosen from all of them.

    This is Luce's choice rule with the strengths of a Bradley-Terry model that is fitted to the outcomes of all pairs
    (Luce 1959, https://en.wikipedia.org/wiki/Luce%27s_choice_axiom). For two candidates it is the outcome itself.

    Args:
        table: outcome of the row's candidate against the column's [n, n].

    Returns:
        Probabilities [n], which sum to one.
    """
    from scipy.optimize import minimize
    from scipy.special import expit, softmax

    won = table.clip(CLIP, 1 - CLIP)
    np.fill_diagonal(won, 0.5)

    def loss_and_slope(strengths: np.ndarray) -> tuple[float, np.ndarray]:
        differences = strengths[:, None] - strengths
        return (won * np.logaddexp(0, -differences)).sum(), (expit(differences) - won).sum(axis=1)

    def curvature(strengths: np.ndarray) -> np.ndarray:
        weights = expit(strengths[:, None] - strengths)
        weights *= 1 - weights
        return np.diag(weights.sum(axis=1)) - weights

    if len(table) == 2:
        return table[~np.eye(2, dtype=bool)]
    found = minimize(loss_and_slope, np.zeros(len(won)), jac=True, hess=curvature, method="trust-exact", tol=1e-10)
    return softmax(found.x)
