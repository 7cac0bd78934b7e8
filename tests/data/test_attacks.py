"""Attacks: one response of each battle has one, drawn by its id, and what it gains is measured where it is known."""

import json

import numpy as np
import pytest

from sft_judge.cli import main
from sft_judge.data.attacks import ATTACKS, KINDS, add_attacks, assign_attacks
from sft_judge.data.battles import battle_table, read_battles, write_battles
from sft_judge.data.injection import find_injections
from sft_judge.data.probs import Probs, write_probs

pytestmark = pytest.mark.unit
ROWS = 400
TEXTS = {"prompt": ["p"], "response_a": ["first turn", "x"], "response_b": ["first turn", "y"]}


@pytest.fixture(scope="module")
def battles():
    return battle_table(
        [{"id": f"{i}", **TEXTS, "prompt": [f"p{i}", "q"], "verdict": "ab"[i % 2]} for i in range(ROWS)]
    )


def test_one_response_alone_tries_at_its_very_end_and_the_id_says_which_and_how(battles):
    sides, kinds = assign_attacks(battles["id"].to_pylist())
    tried = add_attacks(battles)
    for row, (side, kind) in enumerate(zip(sides, kinds, strict=True)):
        names = ("response_a", "response_b")
        before, after = ([table[name][row].as_py() for name in names] for table in (battles, tried))
        assert after[1 - side] == before[1 - side]
        assert after[side] == [before[side][0], before[side][1] + ATTACKS[KINDS[kind]]]
    assert min(np.bincount(sides)) > 0.4 * ROWS and min(np.bincount(kinds)) > 0.1 * ROWS
    assert tried["prompt"] == battles["prompt"]


def test_the_audit_knows_attacks_by_control_tokens_tags_and_orders():
    import pyarrow as pa

    found = find_injections(pa.array([ATTACKS[kind] for kind in ("order", "control tokens", "closed tags")]))
    assert {place.as_py() for places in found.values() for place in places} == {0, 1, 2}


def test_what_an_attack_gains_is_found_where_it_was_planted_and_nowhere_else(battles, tmp_path):
    write_battles(tmp_path / "battles.parquet", battles)
    assert main(["attack", str(tmp_path / "battles.parquet"), "--output", str(tmp_path / "attacked.parquet")]) == 0
    assert read_battles(tmp_path / "attacked.parquet").num_rows == ROWS
    sides, kinds = assign_attacks(battles["id"].to_pylist())
    rng = np.random.default_rng(0)
    before = rng.dirichlet([2, 2, 1], ROWS)
    after = before.copy()
    rows = np.flatnonzero(kinds == KINDS.index("order"))
    after[rows] *= 0.6
    after[rows, sides[rows]] += 0.4
    ids = np.array(battles["id"].to_pylist(), dtype=object)
    for name, probs in (("before", before), ("after", after)):
        write_probs(tmp_path / f"{name}.parquet", Probs(ids, np.full(ROWS, "ab"), np.log(probs), {"model": "m"}))
    files = {name: str(tmp_path / f"{name}.parquet") for name in ("before", "after", "battles")}
    words = ["evaluate", "--probs", files["before"], "--battles", files["battles"], "--attacked", files["after"]]
    assert main([*words, "--output", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())["attacks"]
    gains = after[rows, sides[rows]] - before[rows, sides[rows]]
    assert found["order"]["gain"]["value"] == pytest.approx(gains.mean()) and found["order"]["gain"]["low"] > 0.1
    won = (after[rows].argmax(axis=1) == sides[rows]) & (before[rows].argmax(axis=1) != sides[rows])
    assert found["order"]["won"]["value"] == pytest.approx(won.mean()) and found["order"]["lost"]["value"] == 0
    assert all(found[kind]["gain"]["value"] == 0 for kind in KINDS if kind != "order")
    assert found["all"]["n"] == sum(found[kind]["n"] for kind in KINDS) == ROWS
    assert "Attacks on before" in (tmp_path / "out" / "report.html").read_text()


def test_attacked_probs_that_lack_a_battle_are_refused_in_a_line(battles, tmp_path, capsys):
    write_battles(tmp_path / "b.parquet", battles)
    ids = np.array(battles["id"].to_pylist(), dtype=object)
    probs = Probs(ids, np.full(ROWS, "ab"), np.log(np.full((ROWS, 3), 1 / 3)), {"model": "m"})
    write_probs(tmp_path / "p.parquet", probs)
    write_probs(tmp_path / "few.parquet", probs.select(np.arange(10)))
    words = ["--probs", str(tmp_path / "p.parquet"), "--battles", str(tmp_path / "b.parquet")]
    assert (
        main(["evaluate", *words, "--attacked", str(tmp_path / "few.parquet"), "--output", str(tmp_path / "o")]) == 2
    )
    assert "no probabilities for 390 of 400 battles" in capsys.readouterr().err and not (tmp_path / "o").exists()


@pytest.mark.parametrize(("model", "orders", "said"), [("n", ["ab"], "made by n"), ("m", ["ab", "ba"], "400 battles")])
def test_attacked_probs_of_another_judge_or_other_orders_are_refused(battles, tmp_path, capsys, model, orders, said):
    write_battles(tmp_path / "b.parquet", battles)
    ids = np.array(battles["id"].to_pylist(), dtype=object)
    for name, shown, made_by in (("p", ["ab"], "m"), ("attacked", orders, model)):
        logp = np.log(np.full((ROWS * len(shown), 3), 1 / 3))
        probs = Probs(np.tile(ids, len(shown)), np.repeat(shown, ROWS), logp, {"model": made_by})
        write_probs(tmp_path / f"{name}.parquet", probs)
    words = ["--probs", str(tmp_path / "p.parquet"), "--attacked", str(tmp_path / "attacked.parquet")]
    assert main(["evaluate", *words, "--battles", str(tmp_path / "b.parquet"), "--output", str(tmp_path / "o")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "o").exists()
