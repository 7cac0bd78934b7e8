"""How often one policy's answer beats another's: by hand, against simulation, with verdicts and without."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.browser import assert_self_contained
from sft_judge.cli import main
from sft_judge.core.swap_orders import swap
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.battles import battle_table, write_battles
from sft_judge.data.probs import Probs, write_probs
from sft_judge.evaluation.policy_wins import win_figures

pytestmark = pytest.mark.unit
TUNED, BASE = "dpo", "base"


def judgements(rows=200, seed=0):
    rng = np.random.default_rng(seed)
    return rng.dirichlet([1, 1, 0.5], rows), rng.random(rows) < 0.5, rng.integers(rows // 2, size=rows)


def test_wins_are_those_of_the_most_probable_verdict_and_ties_are_half():
    probs = np.array([[0.6, 0.3, 0.1], [0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.3, 0.6, 0.1], [0.5, 0.4, 0.1]])
    first = np.array([True, False, True, True, False])
    said = np.array([True, True, True, True, False])  # of the last one the judge said nothing
    found = win_figures(probs, said, first, np.arange(5))
    assert (found["n"], found["won"], found["lost"], found["tied"]) == (4, 1, 2, 1)
    assert found["win_rate"]["value"] == pytest.approx(1.5 / 4)
    assert found["win_rate_decided"]["value"] == pytest.approx(1 / 3)
    assert found["mean_probability"]["value"] == pytest.approx((0.65 + 0.35 + 0.5 + 0.35) / 4)


def test_which_of_the_two_stands_as_a_makes_no_difference_and_the_other_policy_has_the_rest():
    probs, first, clusters = judgements()
    said = np.ones(len(probs), dtype=bool)
    probs[:5] = [0.45, 0.45, 0.1]  # an exact tie of a and b
    plain = win_figures(probs, said, first, clusters)
    turned = win_figures(swap(probs), said, ~first, clusters)
    other = win_figures(probs, said, ~first, clusters)
    assert turned == plain and plain["tied"] >= 5
    assert (other["won"], other["lost"]) == (plain["lost"], plain["won"])
    for name in ("win_rate", "win_rate_decided", "mean_probability"):
        assert other[name]["value"] == pytest.approx(1 - plain[name]["value"])
        assert other[name]["low"] == pytest.approx(1 - plain[name]["high"])


def test_intervals_hold_the_true_rate_about_as_often_as_they_say_also_where_a_prompts_battles_agree():
    rng = np.random.default_rng(0)
    covered, clusters = 0, np.repeat(np.arange(80), 3)
    for trial in range(200):
        won = np.repeat(rng.random(80) < 0.28, 3)
        probs = np.where(won[:, None], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1])
        found = win_figures(probs, np.ones(240, dtype=bool), np.ones(240, dtype=bool), clusters, seed=trial)[
            "win_rate"
        ]
        covered += found["low"] <= 0.28 <= found["high"]
    assert 0.89 <= covered / 200 <= 0.99


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """120 battles of two policies, either as a, and 30 of others; what two judges said of them; votes on some."""
    folder = tmp_path_factory.mktemp("policies")
    probs, first, _ = judgements(150)
    models = [(TUNED, BASE) if there else (BASE, TUNED) for there in first[:120]] + [("x", BASE)] * 30
    rows = [
        {
            "id": f"{place}",
            "prompt": [f"prompt {place % 50}"],
            "response_a": ["secret text"],
            "response_b": ["secret text again"],
            "verdict": VERDICTS[place % 3] if place % 2 else None,
            "model_a": a,
            "model_b": b,
            "fold": place % 2,
        }
        for place, (a, b) in enumerate(models)
    ]
    write_battles(folder / "voted.parquet", battle_table(rows))
    write_battles(folder / "unvoted.parquet", battle_table([row | {"verdict": None} for row in rows]))
    ids = np.array([row["id"] for row in rows], dtype=object)
    for name, said in (("good", probs), ("poor", np.roll(probs, 1, axis=0))):
        write_probs(
            folder / f"{name}.parquet", Probs(ids, np.full(150, "ab", dtype=object), np.log(said), {"model": "m"})
        )
    return SimpleNamespace(folder=folder, probs=probs, first=first, rows=rows)


def evaluate(world, battles, output, *more):
    probs = [str(world.folder / f"{name}.parquet") for name in ("good", "poor")]
    battles = str(world.folder / f"{battles}.parquet")
    return main(["evaluate", "--probs", *probs, "--battles", battles, "--output", str(output), *more])


def test_battles_without_a_verdict_are_enough(world, tmp_path, capsys):
    assert evaluate(world, "unvoted", tmp_path, "--policies", TUNED, BASE) == 0
    found = json.loads((tmp_path / "metrics.json").read_text())["policies"]
    assert found["battles"] == 120 and found["prompts"] == 50 and list(found["by"]) == ["good", "poor"]
    chosen = world.probs[:120].argmax(axis=1)
    won = (chosen == np.where(world.first[:120], 0, 1)).sum()
    rate = (won + (chosen == 2).sum() / 2) / 120
    assert found["by"]["good"]["won"] == won
    assert found["by"]["good"]["win_rate"]["value"] == pytest.approx(rate)
    said, page = capsys.readouterr().out, (tmp_path / "report.html").read_text()
    value = f"{100 * rate:.1f} %"
    assert f"{value} [" in said and f'{value}</span> <span class="interval">[' in page
    assert_self_contained(page)
    assert "secret text" not in page and (tmp_path / "metrics.json.manifest.json").is_file()


def test_where_there_are_votes_they_have_a_row_and_the_rest_of_the_report_stands(world, tmp_path, capsys):
    assert evaluate(world, "voted", tmp_path, "--policies", TUNED, BASE) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    votes = metrics["policies"]["by"]["the votes"]
    voted = [place for place in range(120) if place % 2]
    won = sum(place % 3 == (0 if world.first[place] else 1) for place in voted)
    assert (votes["n"], votes["won"], votes["tied"]) == (60, won, sum(place % 3 == 2 for place in voted))
    assert metrics["n"] == 75 and metrics["policies"]["by"]["good"]["n"] == 120  # the judge's row needs no votes
    assert "Policies" in capsys.readouterr().out and "Policies" in (tmp_path / "report.html").read_text()


def test_a_fold_and_a_limit_choose_the_battles(world, tmp_path):
    more = ["--policies", TUNED, BASE, "--fold", "1", "--limit", "40"]
    assert evaluate(world, "unvoted", tmp_path, *more) == 0
    found = json.loads((tmp_path / "metrics.json").read_text())["policies"]
    assert found["battles"] == 40 and found["prompts"] == 25


BAD = {
    "a misspelt policy": ([TUNED, "bases"], "unvoted", "Did you mean 'base'?"),
    "two that never met": ([TUNED, "x"], "unvoted", "no battle between 'dpo' and 'x'"),
    "one policy twice": ([BASE, BASE], "voted", "no battle between 'base' and 'base'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_nothing_is_written(world, tmp_path, capsys, case):
    policies, battles, said = BAD[case]
    assert evaluate(world, battles, tmp_path / "out", "--policies", *policies) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_judge_that_read_none_of_their_battles_is_named(world, tmp_path, capsys):
    ids = np.array(["120"], dtype=object)
    write_probs(
        tmp_path / "other.parquet", Probs(ids, np.array(["ab"], dtype=object), np.log(np.full((1, 3), 1 / 3)), {})
    )
    words = ["--battles", str(world.folder / "unvoted.parquet"), "--output", str(tmp_path / "out")]
    assert main(["evaluate", "--probs", str(tmp_path / "other.parquet"), *words, "--policies", TUNED, BASE]) == 2
    assert "other judged none of the 120 battles" in capsys.readouterr().err
