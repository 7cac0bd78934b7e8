"""Out of fold: each row is scored by the judge that did not see it, or nothing is scored."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers.judges import naive, predict
from sft_judge.core.errors import GateError
from sft_judge.core.files import content_hash
from sft_judge.data.battles import battle_table, write_battles
from sft_judge.data.probs import read_probs
from sft_judge.inference import predict as prediction
from sft_judge.inference.out_of_fold import assign_rows
from sft_judge.modeling.judge_spec import read_spec, write_spec

pytestmark = pytest.mark.unit  # random judges: nothing is trained


def test_out_of_fold_each_row_is_scored_by_the_judge_that_did_not_see_it(
    folds, synthetic_rows, synthetic_file, tmp_path
):
    assert predict(folds, synthetic_file, tmp_path / "probs.parquet", "--out-of-fold") == 0
    probs = read_probs(tmp_path / "probs.parquet")
    seen = np.exp(probs.logp).reshape(len(synthetic_rows), 2, 3)
    for fold in range(3):
        rows = [place for place, row in enumerate(synthetic_rows) if row["fold"] == fold][:4]
        expected = naive(folds / f"fold-{fold}", [synthetic_rows[row] for row in rows])
        np.testing.assert_allclose(seen[rows], expected, atol=1e-5)
    assert probs.metadata["battles_sha256"] == content_hash(synthetic_file)
    for fold, proof in probs.metadata["folds"].items():
        assert proof["model"].endswith(f"fold-{fold}") and int(fold) not in proof["folds_seen"]


def test_a_row_without_a_fold_is_the_mean_of_all_judges(folds, synthetic_rows, tmp_path):
    rows = [{**row, "fold": None if place else 1} for place, row in enumerate(synthetic_rows[:3])]
    write_battles(tmp_path / "battles.parquet", battle_table(rows))
    assert predict(folds, tmp_path / "battles.parquet", tmp_path / "probs.parquet", "--out-of-fold") == 0
    seen = np.exp(read_probs(tmp_path / "probs.parquet").logp).reshape(3, 2, 3)
    each = np.stack([naive(folds / f"fold-{fold}", rows) for fold in range(3)])
    np.testing.assert_allclose(seen[1:], each[:, 1:].mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(seen[0], each[1, 0], atol=1e-5)


def test_a_folder_of_folds_is_averaged_where_it_is_not_asked_for_out_of_fold(
    folds, synthetic_rows, synthetic_file, tmp_path
):
    assert predict(folds, synthetic_file, tmp_path / "probs.parquet", "--limit", "3") == 0
    seen = np.exp(read_probs(tmp_path / "probs.parquet").logp).reshape(3, 2, 3)
    each = [naive(folds / f"fold-{fold}", synthetic_rows[:3]) for fold in range(3)]
    np.testing.assert_allclose(seen, np.mean(each, axis=0), atol=1e-5)


def test_a_judge_that_saw_the_fold_is_refused_with_status_3(folds, synthetic_file, tmp_path, capsys):
    copy = shutil.copytree(folds, tmp_path / "folds")
    spec = read_spec(copy / "fold-1")
    spec.training["folds_seen"] = [0, 1]
    write_spec(copy / "fold-1", spec)
    capsys.readouterr()
    assert predict(copy, synthetic_file, tmp_path / "probs.parquet", "--out-of-fold") == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "trained on fold 1" in error
    assert [path.name for path in tmp_path.iterdir()] == ["folds"]


def test_a_fold_without_its_judge_is_an_error(folds, synthetic_file, tmp_path, capsys):
    copy = shutil.copytree(folds, tmp_path / "folds")
    shutil.rmtree(copy / "fold-2")
    assert predict(copy, synthetic_file, tmp_path / "probs.parquet", "--out-of-fold") == 2
    assert "there is no judge fold-2" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["folds"]


def test_plan_refuses_before_anything_is_scored(folds, synthetic_table):
    judges = prediction.find_judges(str(folds))
    judges[str(folds / "fold-0")].training["folds_seen"] = [0]
    with pytest.raises(GateError, match="in-sample"):
        prediction.assign_rows(judges, synthetic_table, True, "another")


def test_a_battle_without_a_verdict_is_scored_by_all_judges_whatever_its_fold(folds, synthetic_rows):
    rows = [
        {**row, "fold": 1, "verdict": row["verdict"] if place else None}
        for place, row in enumerate(synthetic_rows[:3])
    ]
    judges = {str(folds / f"fold-{fold}"): read_spec(folds / f"fold-{fold}") for fold in range(3)}
    found = assign_rows(judges, battle_table(rows), True, "another file")
    assert {Path(folder).name: list(indices) for folder, indices in found.items()} == {
        "fold-0": [0],
        "fold-1": [0, 1, 2],
        "fold-2": [0],
    }


def test_a_labelled_battle_without_a_fold_of_the_file_that_a_judge_was_trained_on_is_refused(folds, synthetic_rows):
    table = battle_table([{**row, "fold": None} for row in synthetic_rows[:2]])
    judges = {str(folds / "fold-0"): read_spec(folds / "fold-0")}
    judges[str(folds / "fold-0")].training["battles_sha256"] = "this file"
    with pytest.raises(GateError, match="has a verdict and no fold"):
        assign_rows(judges, table, True, "this file")
    assert assign_rows(judges, table, True, "another file")
