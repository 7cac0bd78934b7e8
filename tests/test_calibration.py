"""The temperature: found where planted, symmetric, never harmful to its own rows, never fitted in-sample."""

import json

import numpy as np
import pytest

from sft_judge.battles.schema import battle_table, write_battles
from sft_judge.calibration import calibrated, fit_temperature, judge_files, mean_log_loss
from sft_judge.cli import main
from sft_judge.files import content_hash
from sft_judge.probs import Probs, write_probs
from sft_judge.spec import Budget, JudgeSpec, apply_temperature, read_spec, write_spec
from sft_judge.verdicts import VERDICTS, swap

pytestmark = pytest.mark.unit


def planted(temperature=1.0, rows=4000, num=3, seed=0):
    """Probabilities [N, K] that are right once raised to 1 / temperature, and verdicts drawn from the right ones."""
    rng = np.random.default_rng(seed)
    truth = rng.dirichlet(np.ones(num), rows)
    verdicts = (rng.random(rows)[:, None] > truth.cumsum(axis=1)).sum(axis=1).clip(max=num - 1)
    return apply_temperature(truth, 1 / temperature), verdicts


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("num", [2, 3])
def test_the_planted_temperature_is_recovered(temperature, num):
    probs, verdicts = planted(temperature, num=num)
    assert fit_temperature(probs, verdicts) == pytest.approx(temperature, rel=0.08)


@pytest.mark.parametrize("seed", range(5))
def test_the_fitted_rows_never_get_worse(seed):
    probs, verdicts = planted(rows=30, seed=seed)
    assert mean_log_loss(probs, verdicts, fit_temperature(probs, verdicts)) <= mean_log_loss(probs, verdicts)


@pytest.mark.parametrize("num", [2, 3])
def test_exchange_of_responses_exchanges_the_calibrated_result_to_the_bit(num):
    probs, verdicts = planted(1.7, num=num)
    exchanged = np.array([1, 0, 2])[verdicts]
    temperature = fit_temperature(probs, verdicts)
    assert fit_temperature(swap(probs), exchanged) == temperature
    np.testing.assert_array_equal(
        apply_temperature(swap(probs), temperature), swap(apply_temperature(probs, temperature))
    )


@pytest.fixture
def judge(tmp_path):
    """A judge folder, 400 battles in two folds, and what the judge said of them, too boldly by a temperature of 2."""
    probs, verdicts = planted(0.5, rows=400)
    folder = tmp_path / "judge"
    folder.mkdir()
    write_spec(folder, JudgeSpec(["A", "B", "tie"], [1, 2, 3], "{{ prompt }}", Budget(), training={"folds_seen": [0]}))
    rows = [
        {
            "id": str(i),
            "prompt": ["p"],
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
    write_probs(tmp_path / "p.parquet", Probs(ids, np.full(400, "ab"), np.log(probs), {"model": str(folder)}))
    return folder


def calibrate(folder, *more):
    files = ["--probs", str(folder.parent / "p.parquet"), "--battles", str(folder.parent / "battles.parquet")]
    return main(["calibrate", *files, "--model", str(folder), *more])


def test_calibrate_stores_the_temperature_beside_the_judge_without_changing_what_it_is(judge, capsys):
    before = content_hash(judge)
    assert calibrate(judge, "--fold", "1") == 0
    found = read_spec(judge).calibration
    assert found["temperature"] == pytest.approx(0.5, rel=0.25) and found["fitted_rows"] == 199
    assert found["log_loss_after"] < found["log_loss_before"]
    assert "1 without a verdict" in capsys.readouterr().out
    assert content_hash(judge) == before
    manifest = json.loads((judge / "calibration.manifest.json").read_text())
    assert manifest["calibration"] == found


def test_rows_of_a_fold_that_was_trained_on_are_refused(judge, capsys):
    assert calibrate(judge) == 3
    assert "in-sample" in capsys.readouterr().err
    assert read_spec(judge).calibration is None and not (judge / "calibration.manifest.json").exists()


@pytest.mark.parametrize("more", [["--fold", "7"], ["--fold", "1", "--limit", "1"]])
def test_nothing_to_fit_on_is_one_line_and_changes_nothing(judge, more, capsys):
    before = (judge / "judge.json").read_bytes()
    assert calibrate(judge, *more) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (judge / "judge.json").read_bytes() == before


def test_no_common_ids_is_refused(judge, capsys):
    write_probs(judge.parent / "p.parquet", Probs(np.array(["other"]), np.array(["ab"]), np.log([[0.5, 0.3, 0.2]])))
    assert calibrate(judge, "--fold", "1") == 2
    assert "no row to fit on" in capsys.readouterr().err


def test_the_judges_own_calibration_of_now_goes_before_that_of_the_file(judge):
    probs = Probs(np.array(["x"]), np.array(["ab"]), np.log([[0.7, 0.2, 0.1]]), {"model": str(judge)})
    probs.metadata["calibration"] = {"temperature": 3.0}
    assert calibrated(probs).calibration is None  # the folder says: not calibrated
    spec = read_spec(judge)
    spec.calibration = {"temperature": 2.0}
    write_spec(judge, spec)
    np.testing.assert_allclose(calibrated(probs).probs, apply_temperature(np.array([[0.7, 0.2, 0.1]]), 2.0))
    np.testing.assert_allclose(calibrated(probs, raw=True).probs, [[0.7, 0.2, 0.1]])
    probs.metadata["model"] = str(judge / "gone")
    assert calibrated(probs).calibration == {"temperature": 3.0}
    assert "no metadata" in calibrated(Probs(probs.ids, probs.orders, probs.logp)).reason


def test_the_judge_json_behind_a_probs_file_is_named_as_an_input(judge, tmp_path):
    (tmp_path / "p.csv").write_text("id\n")
    paths = [tmp_path / "p.parquet", tmp_path / "p.csv", tmp_path / "not-there.parquet"]
    assert judge_files(paths) == [judge / "judge.json"]
