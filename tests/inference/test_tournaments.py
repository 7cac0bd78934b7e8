"""The methods of finding the best of n, on outcomes that are made up: each says what its definition says."""

from itertools import combinations, permutations
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import chisquare

from sft_judge.data.candidates import make_group
from sft_judge.inference.contests import Entry, play_contests, shown_pair
from sft_judge.inference.judge import Judgement
from sft_judge.inference.tournaments import Contest, num_battles

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
    assert contest("knockout", strong).scores().tolist() == [0, 1, 2, 1, 3]  # the last three wait in the first round


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


# Who wins of equals


def decided(a: float) -> Judgement:
    return Judgement(a, 1 - a, 0.0, "a" if a > 0.5 else "b", None)


RNG = np.random.default_rng(0)
JUDGES = {
    "a coin": lambda battles: [decided(RNG.integers(2)) for _ in battles],
    "ties": lambda battles: [decided(0.5) for _ in battles],
    "the first shown": lambda battles: [decided(0.9) for _ in battles],
}


def winners(method: str, num: int, judge, prompts: int, seed: int = 0) -> list[int]:
    """Of each prompt the place of the best of `num` candidates that say the same of themselves."""
    groups = [make_group(f"prompt {prompt}", [f"answer {place}" for place in range(num)]) for prompt in range(prompts)]
    entries = [Entry.of(group, method, seed) for group in groups]
    play_contests(entries, judge)
    return [entry.places.index(entry.contest.standing(sorted(set(entry.places)))["best"]) for entry in entries]


@pytest.mark.parametrize("judge", JUDGES)
@pytest.mark.parametrize(
    "method, nums", [("knockout", range(2, 41)), ("round-robin", (2, 3, 5, 8)), ("anchor", (2, 3, 9))]
)
def test_of_equal_candidates_every_place_wins_as_often(judge, method, nums):
    if judge != "a coin":
        nums = [num for num in nums if num in (2, 3, 8, 9, 17, 33)]
    for num in nums:
        wins = np.bincount(winners(method, num, JUDGES[judge], prompts=max(60, 4 * num)), minlength=num)
        assert len(wins) == num and chisquare(wins).pvalue > 1e-4, (num, wins)


def test_nobody_waits_after_the_first_round_of_a_knockout():
    for num in range(2, 41):
        rounds = contest("knockout", drawn(num))._bracket()[0]
        assert [len(there) for there in rounds[1:]] == [2**power for power in reversed(range(len(rounds) - 1))]


@pytest.mark.parametrize("method", ["knockout", "anchor", "round-robin"])
def test_which_of_equals_wins_depends_on_the_seed_and_not_on_the_order_of_rows_or_candidates(method):
    texts = [f"answer {place}" for place in range(11)]
    taken = []
    for seed, given in ((0, texts), (0, texts[::-1]), (1, texts)):
        groups = [make_group(f"prompt {prompt}", given) for prompt in range(20)]
        entries = [Entry.of(group, method, seed) for group in groups]
        play_contests(entries, JUDGES["ties"])
        taken.append([entry.texts[entry.contest.standing(list(range(11)))["best"]] for entry in entries])
    assert taken[0] == taken[1] != taken[2]
