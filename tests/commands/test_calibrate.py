"""`sft-judge calibrate`: what helps on held-out rows stands beside the judge, and all else is refused."""

import json

import numpy as np
import pytest

from helpers.drawn_probs import held, loss, synthetic
from sft_judge.cli import main
from sft_judge.core.files import content_hash
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.battles import battle_table, write_battles
from sft_judge.data.probs import Probs, read_probs, write_probs
from sft_judge.evaluation.calibration_fit import choose_calibration
from sft_judge.inference.calibrated import calibrate_probs, describe_judge
from sft_judge.modeling.judge_spec import Budget, JudgeSpec, read_spec, write_spec
from sft_judge.modeling.temperature_scaling import apply_calibration

pytestmark = pytest.mark.unit


def made_by(folder):
    """The metadata of a judge's probs in p.parquet beside it."""
    return describe_judge(folder, folder.parent / "p.parquet")


@pytest.fixture
def judge(tmp_path):
    """A judge folder, 400 battles in two folds, and what the judge said of them, too boldly by a temperature of 2."""
    probs, verdicts = synthetic(0.5, rows=400)
    folder = tmp_path / "judge"
    folder.mkdir()
    write_spec(folder, JudgeSpec(["A", "B", "tie"], [1, 2, 3], "{{ prompt }}", Budget(), training={"folds_seen": [0]}))
    rows = [
        {
            "id": str(i),
            "prompt": [f"p{i}"],
            "response_a": ["x"],
            "response_b": ["y"],
            "verdict": VERDICTS[v],
            "fold": i % 2,
        }
        for i, v in enumerate(verdicts)
    ]
    rows[1]["verdict"] = None
    write_battles(tmp_path / "battles.parquet", battle_table(rows))
    ids = np.array([row["id"] for row in rows], dtype=object)
    write_probs(
        tmp_path / "p.parquet",
        Probs(ids, np.full(400, "ab"), np.log(probs), made_by(folder)),
    )
    return folder


def calibrate(folder, *more):
    files = ["--probs", str(folder.parent / "p.parquet"), "--battles", str(folder.parent / "battles.parquet")]
    return main(["calibrate", *files, "--model", str(folder), *more])


def test_calibrate_stores_the_temperature_beside_the_judge_without_changing_what_it_is(judge, capsys):
    before = content_hash(judge)
    assert calibrate(judge, "--fold", "1") == 0
    found = read_spec(judge).calibration
    assert 0.5 < found["temperature"] < 0.8 and found["fitted_rows"] == 199  # drawn towards 1
    assert found["after"]["log_loss"]["value"] < found["before"]["log_loss"]["value"] and found["gain"]["value"] > 0
    assert "1 without a verdict" in capsys.readouterr().out
    assert content_hash(judge) == before
    manifest = json.loads((judge / "calibration.manifest.json").read_text())
    assert manifest["calibration"] == found


def test_rows_of_a_fold_that_was_trained_on_are_refused(judge, capsys):
    assert calibrate(judge) == 3
    assert "in-sample" in capsys.readouterr().err
    assert read_spec(judge).calibration is None and not (judge / "calibration.manifest.json").exists()


def test_a_calibration_that_does_not_help_is_refused_and_the_judge_stays_raw(judge, capsys):
    probs, verdicts = synthetic(1.0, rows=400, seed=3)
    rows = [{"id": str(i), "prompt": [f"p{i}"], "response_a": ["x"], "response_b": ["y"]} for i in range(400)]
    rows = [row | {"verdict": VERDICTS[v], "fold": 1} for row, v in zip(rows, verdicts, strict=True)]
    write_battles(judge.parent / "battles.parquet", battle_table(rows))
    ids = np.array([row["id"] for row in rows], dtype=object)
    write_probs(
        judge.parent / "p.parquet",
        Probs(ids, np.full(400, "ab"), np.log(probs), made_by(judge)),
    )
    assert choose_calibration(held(probs, verdicts, rows_a_prompt=1))[0] is None
    assert calibrate(judge) == 0
    assert "nothing fitted: on 400 rows" in capsys.readouterr().out and read_spec(judge).calibration is None
    assert calibrate(judge, "--form", "vector") == 0
    assert read_spec(judge).calibration.keys() >= {"temperature", "tie_temperature", "tie_offset"}


def test_ties_cannot_be_scaled_where_the_judge_has_none(judge, capsys):
    probs, _ = synthetic(1.0, rows=400, num=2)
    logp = np.column_stack([np.log(probs), np.full(400, -np.inf)])
    ids = np.array([str(i) for i in range(400)], dtype=object)
    write_probs(
        judge.parent / "p.parquet",
        Probs(ids, np.full(400, "ab"), logp, made_by(judge)),
    )
    assert calibrate(judge, "--fold", "1", "--form", "vector") == 2
    assert "has a and b alone" in capsys.readouterr().err


def test_somebody_elses_probs_are_calibrated_in_a_copy_that_stays_raw(judge, tmp_path):
    probs = read_probs(tmp_path / "p.parquet")
    lines = [f"{i},{a},{b},{t}" for i, (a, b, t) in zip(probs.ids, np.exp(probs.logp), strict=True)]
    (tmp_path / "theirs.csv").write_text("\n".join(["id,p_a,p_b,p_tie", *lines]) + "\n")
    (tmp_path / "test.csv").write_text("id,p_a,p_b,p_tie\nnew,0.7,0.2,0.1\n")
    words = ["calibrate", "--probs", str(tmp_path / "theirs.csv"), "--battles", str(tmp_path / "battles.parquet")]
    assert main([*words, "--output", str(tmp_path / "out.parquet"), "--apply", str(tmp_path / "test.csv")]) == 0
    copy = read_probs(tmp_path / "out.parquet")
    np.testing.assert_allclose(np.exp(copy.logp), [[0.7, 0.2, 0.1]] * 2)
    found = calibrate_probs(copy)
    assert found.calibration["temperature"] == pytest.approx(0.5, rel=0.25)
    np.testing.assert_allclose(found.probs, apply_calibration(np.array([[0.7, 0.2, 0.1]]), found.calibration))
    assert main([*words[:2], str(tmp_path / "p.parquet"), *words[3:], "--output", str(tmp_path / "no.parquet")]) == 2


def test_a_copy_that_carries_the_calibration_submits_without_its_judge(judge, tmp_path):
    assert calibrate(judge, "--fold", "1", "--output", str(tmp_path / "copy.parquet")) == 0
    with_judge = calibrate_probs(read_probs(tmp_path / "p.parquet"))
    judge.rename(tmp_path / "gone")
    without = calibrate_probs(read_probs(tmp_path / "copy.parquet"))
    assert without.calibration == with_judge.calibration is not None
    np.testing.assert_array_equal(without.probs, with_judge.probs)


def test_probs_of_another_judge_are_refused(judge, capsys):
    spec = read_spec(judge)
    spec.training["steps"] = 8
    write_spec(judge, spec)
    assert calibrate(judge, "--fold", "1") == 2
    assert "is another judge than" in capsys.readouterr().err
    assert read_spec(judge).calibration is None


@pytest.mark.parametrize("more", [["--fold", "7"], ["--fold", "1", "--limit", "1"]])
def test_nothing_to_fit_on_is_one_line_and_changes_nothing(judge, more, capsys):
    before = (judge / "judge.json").read_bytes()
    assert calibrate(judge, *more) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (judge / "judge.json").read_bytes() == before


@pytest.mark.parametrize("told", [True, False])
def test_languages_count_only_where_the_probs_file_tells_them_to_its_readers(tmp_path, told):
    found = [synthetic(0.4, rows=900, seed=1), synthetic(2.5, rows=900, seed=2)]
    probs, verdicts = (np.concatenate(parts) for parts in zip(*found, strict=True))
    languages = np.array(["English", "German"], dtype=object).repeat(900)
    rows = [{"id": str(i), "prompt": [f"p{i}"], "response_a": ["x"], "response_b": ["y"]} for i in range(1800)]
    rows = [
        row | {"verdict": VERDICTS[v], "language": name}
        for row, v, name in zip(rows, verdicts, languages, strict=True)
    ]
    write_battles(tmp_path / "b.parquet", battle_table(rows))
    ids = np.array([row["id"] for row in rows], dtype=object)
    said = Probs(ids, np.full(1800, "ab"), np.log(probs), languages=languages if told else None)
    write_probs(tmp_path / "p.parquet", said)
    words = ["--probs", str(tmp_path / "p.parquet"), "--battles", str(tmp_path / "b.parquet")]
    assert main(["calibrate", *words, "--output", str(tmp_path / "o.parquet")]) == 0
    calibration = read_probs(tmp_path / "o.parquet").metadata["calibration"]
    assert ("languages" in calibration) == told
    after = loss(calibrate_probs(read_probs(tmp_path / "o.parquet")).probs, verdicts)
    assert after == pytest.approx(calibration["after"]["log_loss"]["value"])  # what was said is what a reader gets


def test_rows_that_support_nothing_are_said_and_the_judge_stays_raw(judge, capsys):
    assert calibrate(judge, "--fold", "1", "--limit", "9") == 0
    said = capsys.readouterr().out
    assert "nothing fitted on 8 rows: they cover 8 prompts" in said
    assert read_spec(judge).calibration is None


def test_rows_without_errors_fit_nothing_but_a_form_that_is_asked_for_without_an_interval(tmp_path, capsys):
    rows = [
        {"id": str(i), "prompt": [f"p{i}"], "response_a": ["x"], "response_b": ["y"], "verdict": VERDICTS[i % 2]}
        for i in range(40)
    ]
    write_battles(tmp_path / "b.parquet", battle_table(rows))
    lines = [f"{i},{0.97 - 0.94 * (i % 2)},{0.03 + 0.94 * (i % 2)}" for i in range(40)]
    (tmp_path / "p.csv").write_text("\n".join(["id,p_a,p_b", *lines]) + "\n")
    words = ["calibrate", "--probs", str(tmp_path / "p.csv"), "--battles", str(tmp_path / "b.parquet")]
    words += ["--output", str(tmp_path / "o.parquet")]
    assert main(words) == 0
    assert "nothing fitted on 40 rows: the judge makes no error on them" in capsys.readouterr().out
    assert read_probs(tmp_path / "o.parquet").metadata["calibration"] is None
    assert main([*words, "--form", "temperature"]) == 0
    assert "the judge errs in 0 of the rows, and an interval needs 10 errors" in capsys.readouterr().out


def test_no_common_ids_is_refused(judge, capsys):
    write_probs(judge.parent / "p.parquet", Probs(np.array(["other"]), np.array(["ab"]), np.log([[0.5, 0.3, 0.2]])))
    assert calibrate(judge, "--fold", "1") == 2
    assert "no row to fit on" in capsys.readouterr().err
