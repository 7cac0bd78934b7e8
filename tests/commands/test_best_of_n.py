"""The best of n: what each method says is what its definition says, and a killed run goes on."""

import shutil
from itertools import combinations, permutations
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from helpers.candidates import ANSWERS, best_of_n, rows_of, written
from sft_judge import Judge
from sft_judge.inference.engines.transformers_engine import TransformersEngine
from sft_judge.modeling.judge_spec import read_spec, write_spec
from sft_judge.ranking.candidate_judging import shown
from sft_judge.ranking.tournaments import FEW, Contest, num_battles, usual_method

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def calibrated_judge(judge, tmp_path_factory):
    """The judge of random weights with a temperature, so that calibration shows."""
    folder = shutil.copytree(judge, tmp_path_factory.mktemp("calibrated") / "judge")
    spec = read_spec(folder)
    spec.calibration = {"temperature": 0.4}
    write_spec(folder, spec)
    return folder


def outcome(model, prompt, one, two) -> float:
    """What `one` gets against `two`, by the judge in Python, one battle at a time."""
    with Judge.load(str(model)) as judge:
        found = judge.judge(prompt, one, two)
    return found.a + found.tie / 2


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
            assert set(shown(pair)) == set(pair)
            first[shown(pair)[0]] += 1
        assert all(abs(2 * count - (num - 1)) <= 1 for count in first)


# Through the command line


def test_a_round_robin_is_what_the_judge_says_of_each_pair(calibrated_judge, tmp_path, capsys):
    rows = [
        {"id": "x", "prompt": "why rain", "candidates": ANSWERS[:4]},
        {"prompt": "name", "candidates": ANSWERS[2:5]},
    ]
    assert best_of_n(written(tmp_path / "in.jsonl", rows), calibrated_judge, tmp_path / "out.jsonl") == 0
    first, second = rows_of(tmp_path / "out.jsonl")
    table = np.full((4, 4), np.nan)
    for i, j in combinations(range(4), 2):
        table[i, j] = outcome(calibrated_judge, "why rain", ANSWERS[i], ANSWERS[j])
        table[j, i] = 1 - table[i, j]
    np.testing.assert_allclose(first["scores"], np.nanmean(table, axis=1), atol=1e-6)
    assert np.ptp(first["scores"]) > 1e-3  # else nothing was tested
    assert first["best_index"] == int(np.argmax(first["scores"])) and first["best"] == ANSWERS[first["best_index"]]
    assert (first["id"], second["id"], first["calls"], second["calls"]) == ("x", "2", 12, 6)
    assert first["method"] == "round-robin" and not first["tied"]
    printed = capsys.readouterr().out
    assert "9 battles, 18 calls (swap both)" in printed and "18 calls made" in printed


def test_the_field_of_the_anchor_is_met_by_all_and_is_never_the_best(judge, tmp_path):
    rows = [{"prompt": "why rain", "candidates": ANSWERS[:3], "gold": ANSWERS[4]}]
    assert best_of_n(written(tmp_path / "in.jsonl", rows), judge, tmp_path / "out.jsonl", "--anchor", "gold") == 0
    (row,) = rows_of(tmp_path / "out.jsonl")
    expected = [outcome(judge, "why rain", one, ANSWERS[4]) for one in ANSWERS[:3]]
    np.testing.assert_allclose(row["scores"], expected, atol=1e-6)
    assert row["best_index"] == int(np.argmax(expected)) and row["calls"] == 6 and row["method"] == "anchor"


def test_many_candidates_are_knocked_out_by_default_and_few_all_meet(judge, tmp_path):
    assert [usual_method(num) for num in (1, FEW, FEW + 1)] == ["round-robin", "round-robin", "knockout"]
    texts = [f"answer {number} {'very ' * number} well" for number in range(FEW + 1)]
    written(tmp_path / "in.jsonl", [{"prompt": "p", "candidates": texts}])
    assert best_of_n(tmp_path / "in.jsonl", judge, tmp_path / "out.parquet") == 0
    (row,) = pq.read_table(tmp_path / "out.parquet").to_pylist()
    alive = list(range(len(texts)))
    while len(alive) > 1:
        pairs = list(zip(alive[::2], alive[1::2], strict=False))
        alive = [a if outcome(judge, "p", texts[a], texts[b]) >= 0.5 else b for a, b in pairs] + alive[
            2 * len(pairs) :
        ]
    assert (row["best_index"], row["method"], row["calls"]) == (alive[0], "knockout", 2 * FEW)
    assert row["condorcet_winner"] is None and row["cyclic_triples"] is None


def test_identical_candidates_are_judged_once_and_one_alone_is_the_best_without_a_call(judge, tmp_path, capsys):
    rows = [
        {"prompt": "p", "candidates": ["same", "same", "other", "same"]},
        {"prompt": "p", "responses": ["alone"]},
        {"prompt": "p", "completions": ["", ""]},
    ]
    assert best_of_n(written(tmp_path / "in.jsonl", rows), judge, tmp_path / "out.jsonl") == 0
    twice, alone, empty = rows_of(tmp_path / "out.jsonl")
    assert len(set(twice["scores"][:2] + twice["scores"][3:])) == 1 and twice["calls"] == 2
    assert sum(set(twice["scores"])) == pytest.approx(1)
    for row, best in ((alone, "alone"), (empty, "")):
        assert (row["best"], row["best_index"], row["calls"], row["tied"]) == (best, 0, 0, False)
        assert set(row["scores"]) == {0.5}
    assert "3 candidates are copies" in capsys.readouterr().out


def test_exchanging_the_candidates_exchanges_the_scores(judge, tmp_path):
    for name, order in (("one", [0, 1, 2, 3]), ("two", [2, 0, 3, 1])):
        written(tmp_path / f"{name}.jsonl", [{"prompt": "p", "candidates": [ANSWERS[place] for place in order]}])
        assert best_of_n(tmp_path / f"{name}.jsonl", judge, tmp_path / f"{name}-out.jsonl") == 0
    one, two = (rows_of(tmp_path / f"{name}-out.jsonl")[0] for name in ("one", "two"))
    np.testing.assert_allclose(two["scores"], [one["scores"][place] for place in (2, 0, 3, 1)], atol=1e-6)
    assert one["best"] == two["best"]


def test_with_one_order_a_pair_is_judged_as_it_is_shown(judge, tmp_path, capsys):
    written(tmp_path / "in.jsonl", [{"prompt": "p", "candidates": ANSWERS[:4]}])
    assert best_of_n(tmp_path / "in.jsonl", judge, tmp_path / "out.jsonl", "--swap", "none") == 0
    table = np.full((4, 4), np.nan)
    with Judge.load(str(judge)) as loaded:
        for pair in combinations(range(4), 2):
            one, two = shown(pair)
            found = loaded.judge("p", ANSWERS[one], ANSWERS[two], swap="none")
            table[one, two], table[two, one] = found.a + found.tie / 2, found.b + found.tie / 2
    np.testing.assert_allclose(rows_of(tmp_path / "out.jsonl")[0]["scores"], np.nanmean(table, axis=1), atol=1e-6)
    assert "6 battles, 6 calls (swap none)" in capsys.readouterr().out


def test_a_killed_knockout_goes_on_with_the_rounds_that_are_there(judge, tmp_path, monkeypatch, capsys):
    texts = [f"answer {number} {'very ' * number} well" for number in range(8)]
    written(tmp_path / "in.jsonl", [{"prompt": f"p{row}", "candidates": texts} for row in range(3)])
    words = ("--method", "knockout")
    assert best_of_n(tmp_path / "in.jsonl", judge, tmp_path / "whole.jsonl", *words) == 0
    score, scored = TransformersEngine.score, []

    def failing(self, prompts):
        if scored:
            raise KeyboardInterrupt
        scored.append(len(prompts))
        return score(self, prompts)

    monkeypatch.setattr(TransformersEngine, "score", failing)
    assert best_of_n(tmp_path / "in.jsonl", judge, tmp_path / "killed.jsonl", *words) == 130
    assert not (tmp_path / "killed.jsonl").exists()
    scored.clear()
    monkeypatch.setattr(
        TransformersEngine, "score", lambda self, prompts: scored.append(len(prompts)) or score(self, prompts)
    )
    capsys.readouterr()
    assert best_of_n(tmp_path / "in.jsonl", judge, tmp_path / "killed.jsonl", *words) == 0
    assert scored == [12, 6]  # of three rounds of 12, 6 and 3 battles, two orders each, the last two
    assert "18 calls made, 24 more kept from an earlier run" in capsys.readouterr().out
    assert (tmp_path / "killed.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()
    assert not [path.name for path in tmp_path.iterdir() if "partial" in path.name]
