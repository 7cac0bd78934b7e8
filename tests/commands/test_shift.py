"""`sft-judge shift`: figures are those of plain loops, the page keeps names as text, and bad input is one line."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from helpers.browser import assert_self_contained, opened
from sft_judge.cli import main
from sft_judge.core import registry
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.battles import battle_table, read_battles, set_column, write_battles
from sft_judge.data.probs import Probs, read_probs, write_probs
from sft_judge.data.synthetic.generator import generate_split
from sft_judge.data.synthetic.preference_model import preset_settings
from sft_judge.evaluation.dataset_shift import RULES
from sft_judge.pipelines import execution

ROWS = 600


def synthetic(seed: int, **knobs):
    return generate_split(preset_settings("easy", rows=ROWS, test_rows=1, shifted_rows=1, seed=seed, **knobs), "train")


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Two synthetic sets, and steps that train nothing: each judge says what `opinions[judge]` makes of the truth."""
    sets = {"ours": synthetic(1), "theirs": synthetic(2)}
    truth = {}
    for name, split in sets.items():
        rows = [{**row, "id": f"{name}{row['id']}"} for row in split.rows]
        write_battles(tmp_path / f"{name}.parquet", battle_table(rows))
        truth |= {row["id"]: p for row, p in zip(rows, split.probs, strict=True)}
    opinions = {"ref": lambda p: p, "other": lambda p: p}

    def run_steps(steps, forced, folder):
        for step in steps:
            args = registry.parse(step.stage, step.argv)
            if step.stage == "train":
                assert {"--holdout_fold", "--battles", "--output_dir", "--max_steps"} <= set(step.argv)
                continue
            for battles_file, output in zip(args.battles, args.output, strict=True):
                ids = read_battles(battles_file)["id"].to_pylist()
                says = np.log(np.array([opinions[Path(args.model).name](truth[name]) for name in ids]))
                orders = np.repeat(["ab", "ba"], len(ids))
                write_probs(output, Probs(np.array(ids * 2, dtype=object), orders, np.concatenate([says, says]), {}))
        return 0

    monkeypatch.setattr(execution, "run_steps", run_steps)
    return tmp_path, opinions


def shift(folder, *more):
    words = ["shift", str(folder / "ours.parquet"), str(folder / "theirs.parquet"), "--output", str(folder / "o")]
    return main([*words, "--config", "tiny/train", "--model_name_or_path", "nowhere", "--max_steps", "3", *more])


OPINIONS = {
    "mix": (lambda p: p, lambda p: p),
    "leave out": (lambda p: p, lambda p: p[[1, 0, 2]]),
    "cannot tell": (lambda p: p, lambda p: np.full(3, 1 / 3)),
}


@pytest.mark.unit
@pytest.mark.parametrize("verdict", OPINIONS)
def test_judges_of_one_law_mix_and_one_of_exchanged_answers_is_left_out(world, verdict, capsys):
    folder, opinions = world
    opinions["ref"], opinions["other"] = OPINIONS[verdict]
    if verdict == "leave out":  # theirs prefer what ours reject
        theirs = read_battles(folder / "theirs.parquet")
        exchanged = [{"a": "b", "b": "a"}.get(name, name) for name in theirs["verdict"].to_pylist()]
        write_battles(folder / "theirs.parquet", set_column(theirs, "verdict", pa.array(exchanged)))
    assert shift(folder) == 0
    result = json.loads((folder / "o/shift.json").read_text())
    assert result["verdict"] == verdict and result["rule"] == RULES[verdict]
    printed = capsys.readouterr().out
    assert f"verdict: {verdict} ({RULES[verdict]})" in printed
    page = (folder / "o/shift.html").read_text(encoding="utf-8")
    assert_self_contained(page)
    assert f"verdict: {verdict}" in page and all(name in page for name in RULES)


@pytest.mark.unit
def test_every_cell_of_the_two_way_table_is_that_of_a_plain_loop(world):
    folder, opinions = world
    opinions["other"] = lambda p: 0.5 * p + 1 / 6
    assert shift(folder) == 0
    sets = json.loads((folder / "o/shift.json").read_text())["sets"]
    for name, side, sign in (("ours", "ref", 1), ("theirs", "other", -1)):
        held = read_battles(folder / f"o/held-{side}.parquet")
        everyone = read_battles(folder / f"o/battles-{side}.parquet")
        verdicts = [VERDICTS.index(verdict) for verdict in held["verdict"].to_pylist()]
        losses = {}
        for judge, called in (("ref", "ours"), ("other", "theirs")):
            probs = read_probs(folder / f"o/probs-{judge}-on-{side}.parquet")
            said = {i: np.exp(p) for i, o, p in zip(probs.ids, probs.orders, probs.logp, strict=True) if o == "ab"}
            rows = [said[row] for row in held["id"].to_pylist()]
            losses[called] = -np.mean([np.log(row[v]) for row, v in zip(rows, verdicts, strict=True)])
            scores = sets[name]["scores"][f"judge of {called}"]
            assert scores["log_loss"]["value"] == pytest.approx(losses[called])
            hits = [(row == row.max())[v] / (row == row.max()).sum() for row, v in zip(rows, verdicts, strict=True)]
            assert scores["accuracy"]["value"] == pytest.approx(np.mean(hits))
        seen = [
            v
            for v, f in zip(everyone["verdict"].to_pylist(), everyone["fold"].to_pylist(), strict=True)
            if f != sets[name]["fold"]
        ]
        shares = (np.array([seen.count(v) for v in VERDICTS]) + 1) / (len(seen) + 3)
        frequencies = -np.mean(np.log(shares[verdicts]))
        gains = sets[name]["gains"]
        native, foreign = (losses[n] for n in ("ours", "theirs")[::sign])
        assert gains["native"]["value"] == pytest.approx(frequencies - native)
        assert gains["foreign"]["value"] == pytest.approx(frequencies - foreign)
        assert sets[name]["difference"]["value"] == pytest.approx(foreign - native)
        assert sets[name]["share"]["value"] == pytest.approx((frequencies - foreign) / (frequencies - native))
        assert sets[name]["rows"] == held.num_rows and sets[name]["trained_on"] == len(seen)


@pytest.mark.unit
def test_a_browser_opens_the_shift_page_and_names_stay_text(world):
    folder, _ = world
    (folder / "theirs.parquet").rename(folder / "<script>alert(1)<.parquet")
    words = ["shift", str(folder / "ours.parquet"), str(folder / "<script>alert(1)<.parquet")]
    words += ["--config", "tiny/train", "--output", str(folder / "o"), "--model_name_or_path", "x", "--max_steps", "3"]
    assert main(words) == 0
    shown = opened(folder / "o/shift.html")
    assert "<script" not in shown and "&lt;script&gt;alert(1)" in shown and shown.count("<svg") == 1


@pytest.mark.unit
@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--folds", "1"], "expected 2 or more"),
        (["--holdout_fold", "2"], "shift sets it itself"),
        (["--learning_rats", "1"], "learning_rats"),
        (["--limit", "2"], "too few for 5 folds"),
        (["--config", "nothing"], "no such file"),
    ],
)
def test_bad_input_is_one_clear_line_and_makes_no_page(tmp_path, capsys, more, said):
    for name, seed in (("ours", 1), ("theirs", 2)):
        write_battles(tmp_path / f"{name}.parquet", battle_table(synthetic(seed).rows[:90]))
    assert shift(tmp_path, *more) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "o/shift.json").exists()


@pytest.mark.timeout(600)
def test_two_tiny_judges_are_trained_scored_and_not_trained_again(bases, tmp_path, capfd):
    for name, seed in (("ours", 1), ("theirs", 2)):
        write_battles(tmp_path / f"{name}.parquet", battle_table(synthetic(seed).rows[:90]))
    base = ["--model_name_or_path", str(bases["qwen2"]), "--folds", "3"]
    assert shift(tmp_path, *base) == 0
    first = (tmp_path / "o/shift.json").read_bytes()
    assert {side.name for side in (tmp_path / "o/judges").iterdir()} == {"ref", "other"}
    assert "up to date" not in capfd.readouterr().out
    assert shift(tmp_path, *base) == 0
    assert capfd.readouterr().out.count("up to date") == 4
    assert (tmp_path / "o/shift.json").read_bytes() == first
    assert json.loads(first)["verdict"] == "cannot tell"  # three steps teach nothing
