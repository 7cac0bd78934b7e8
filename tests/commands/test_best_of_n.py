"""The best of n: what each method says is what its definition says, and a killed run goes on."""

import shutil
from itertools import combinations

import numpy as np
import pyarrow.parquet as pq
import pytest

from helpers.candidates import ANSWERS, best_of_n, rows_of, written
from sft_judge import Judge
from sft_judge.data.candidates import make_group
from sft_judge.inference.contests import Entry, shown_pair
from sft_judge.inference.engines.transformers_engine import TransformersEngine
from sft_judge.inference.tournaments import MAX_ROUND_ROBIN, default_method
from sft_judge.modeling.judge_spec import read_spec, write_spec

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


def better(model, one, two) -> str:
    return one if outcome(model, "p", one, two) >= 0.5 else two


def lots(prompt, texts) -> list[str]:
    """The texts as the lot orders them."""
    return [text for (text,) in Entry.of(make_group(prompt, texts), None).texts]


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
    assert [default_method(num) for num in (1, MAX_ROUND_ROBIN, MAX_ROUND_ROBIN + 1)] == [
        "round-robin",
        "round-robin",
        "knockout",
    ]
    texts = [f"answer {number} {'very ' * number} well" for number in range(MAX_ROUND_ROBIN + 1)]
    written(tmp_path / "in.jsonl", [{"prompt": "p", "candidates": texts}])
    assert best_of_n(tmp_path / "in.jsonl", judge, tmp_path / "out.parquet") == 0
    (row,) = pq.read_table(tmp_path / "out.parquet").to_pylist()
    alive = lots("p", texts)
    alive = [better(judge, *alive[:2]), *alive[2:]]  # of nine one has to go before the others meet
    while len(alive) > 1:
        alive = [better(judge, *pair) for pair in zip(alive[::2], alive[1::2], strict=True)]
    found = row["best_index"], row["method"], row["calls"]
    assert found == (texts.index(alive[0]), "knockout", 2 * MAX_ROUND_ROBIN)
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
    table, drawn = np.full((4, 4), np.nan), lots("p", ANSWERS[:4])
    with Judge.load(str(judge)) as loaded:
        for pair in combinations(range(4), 2):
            texts = [drawn[place] for place in shown_pair(pair)]
            one, two = (ANSWERS.index(text) for text in texts)
            found = loaded.judge("p", *texts, swap="none")
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
