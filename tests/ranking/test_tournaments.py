"""The methods of finding the best of n, on outcomes that are made up: each says what its definition says."""

from itertools import combinations, permutations
from types import SimpleNamespace

import numpy as np
import pytest

from sft_judge.ranking.candidate_judging import shown_pair
from sft_judge.ranking.tournaments import Contest, num_battles

pytestmark = pytest.mark.unit


# The methods, on outcomes that are made up


def contest(method, table, anchor=0) -> Contest:
    """A contest played to the end with the outcomes [n, n] of a table."""
    made = Contest(len(table), method, anchor)
    while due := made.due():
        for one, two in due:
            assert one < two and (one, two) not in made.judged
            made.judged[one, two] = SimpleNamespace(a=table[one, two], b=1 - table[one, two], tie=0.0)
    return made


def drawn(num, seed=0):
    table = np.random.default_rng(seed).uniform(size=(num, num))
    return np.triu(table, 1) + np.tril(1 - table.T, -1) + np.eye(num) / 2


@pytest.mark.parametrize("method", ["round-robin", "anchor", "knockout"])
@pytest.mark.parametrize("num", [1, 2, 3, 5, 8, 13])
def test_a_contest_takes_as_many_battles_as_it_says_and_each_pair_at_most_once(method, num):
    assert len(contest(method, drawn(num)).judged) == num_battles(method, num)


def test_a_candidate_that_beats_all_others_wins_by_every_method():
    for seed in range(20):
        table = drawn(11, seed)
        table[4], table[:, 4] = 0.9, 0.1
        assert contest("round-robin", table).standing(list(range(11)))["best"] == 4
        assert contest("knockout", table).standing(list(range(11)))["best"] == 4
        assert contest("round-robin", table).standing(list(range(11)))["condorcet_winner"] == 4


def test_scores_are_mean_outcomes_outcomes_against_the_anchor_and_rounds_survived():
    table = drawn(5)
    off = ~np.eye(5, dtype=bool)
    np.testing.assert_allclose(
        contest("round-robin", table).scores(), [row[keep].mean() for row, keep in zip(table, off, strict=True)]
    )
    np.testing.assert_allclose(contest("anchor", table, anchor=3).scores(), table[:, 3])
    strong = np.array([[0.5 if i == j else float(i > j) for j in range(5)] for i in range(5)])  # the later wins
    assert contest("knockout", strong).scores().tolist() == [0, 1, 0, 2, 3]


def test_half_of_a_tie_counts_for_each():
    made = Contest(2, "round-robin")
    made.judged[0, 1] = SimpleNamespace(a=0.2, b=0.3, tie=0.5)
    assert made.scores().tolist() == pytest.approx([0.45, 0.55])


def test_circles_are_those_that_trying_all_triples_finds():
    for seed in range(10):
        table = drawn(7, seed)
        wins = table > 0.5
        circles = sum(
            any(wins[i, j] and wins[j, k] and wins[k, i] for i, j, k in permutations(triple))
            for triple in combinations(range(7), 3)
        )
        standing = contest("round-robin", table).standing(list(range(7)))
        assert standing["cyclic_triples"] == circles
        champion = [i for i in range(7) if all(wins[i, j] for j in range(7) if j != i)]
        assert standing["condorcet_winner"] == (champion[0] if champion else None)


@pytest.mark.parametrize("method", ["round-robin", "anchor", "knockout"])
def test_of_equals_the_first_is_best_and_said_to_be_tied(method):
    standing = contest(method, np.full((4, 4), 0.5)).standing([0, 1, 2, 3])
    assert (standing["best"], standing["tied"]) == (0, True)
    assert not contest(method, drawn(4)).standing([0, 1, 2, 3])["tied"]


def test_in_a_round_robin_everyone_is_shown_first_about_half_of_the_time():
    for num in (2, 5, 8):
        first = [0] * num
        for pair in combinations(range(num), 2):
            assert set(shown_pair(pair)) == set(pair)
            first[shown_pair(pair)[0]] += 1
        assert all(abs(2 * count - (num - 1)) <= 1 for count in first)
