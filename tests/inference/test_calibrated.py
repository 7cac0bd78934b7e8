"""Probs files as their calibration has them: the judge's own of now goes before that of the file."""

import numpy as np
import pytest

from sft_judge.data.probs import Probs, write_probs
from sft_judge.inference.calibrated import calibrate_probs, judge_files
from sft_judge.modeling.judge_spec import Budget, JudgeSpec, read_spec, write_spec
from sft_judge.modeling.temperature_scaling import apply_scaling

pytestmark = pytest.mark.unit


@pytest.fixture
def judge(tmp_path):
    """A judge's folder, not calibrated, and a probs file of it."""
    folder = tmp_path / "judge"
    folder.mkdir()
    write_spec(folder, JudgeSpec(["A", "B", "tie"], [1, 2, 3], "{{ prompt }}", Budget(), training={"folds_seen": [0]}))
    said = Probs(np.array(["x"]), np.array(["ab"]), np.log([[0.7, 0.2, 0.1]]), {"model": str(folder)})
    write_probs(tmp_path / "p.parquet", said)
    return folder


def test_the_judges_own_calibration_of_now_goes_before_that_of_the_file(judge):
    probs = Probs(np.array(["x"]), np.array(["ab"]), np.log([[0.7, 0.2, 0.1]]), {"model": str(judge)})
    probs.metadata["calibration"] = {"temperature": 3.0}
    assert calibrate_probs(probs).calibration is None  # the folder says: not calibrated
    spec = read_spec(judge)
    spec.calibration = {"temperature": 2.0}
    write_spec(judge, spec)
    np.testing.assert_allclose(calibrate_probs(probs).probs, apply_scaling(np.array([[0.7, 0.2, 0.1]]), 2.0))
    np.testing.assert_allclose(calibrate_probs(probs, raw=True).probs, [[0.7, 0.2, 0.1]])
    probs.metadata["model"] = str(judge / "gone")
    assert calibrate_probs(probs).calibration == {"temperature": 3.0}
    assert "no metadata" in calibrate_probs(Probs(probs.ids, probs.orders, probs.logp)).reason


def test_the_judge_json_behind_a_probs_file_is_named_as_an_input(judge, tmp_path):
    (tmp_path / "p.csv").write_text("id\n")
    paths = [tmp_path / "p.parquet", tmp_path / "p.csv", tmp_path / "not-there.parquet"]
    assert judge_files(paths) == [judge / "judge.json"]
