"""Probs files as their calibration has them: that of the judge that made them, wherever both of them stand."""

import logging
import os
import shutil

import numpy as np
import pytest

from sft_judge.core.errors import InputError
from sft_judge.data.probs import Probs, read_probs, write_probs
from sft_judge.inference.calibrated import calibrate_probs, describe_judge, find_judge, judge_files
from sft_judge.modeling.judge_spec import Budget, JudgeSpec, read_spec, write_spec
from sft_judge.modeling.temperature_scaling import apply_scaling

pytestmark = pytest.mark.unit

RAW = np.array([[0.7, 0.2, 0.1]])


@pytest.fixture
def judge(tmp_path):
    """A judge's folder, not calibrated, and a probs file of it, predicted from their common folder."""
    folder = tmp_path / "here" / "judge"
    folder.mkdir(parents=True)
    write_spec(folder, JudgeSpec(["A", "B", "tie"], [1, 2, 3], "{{ prompt }}", Budget(), training={"folds_seen": [0]}))
    file = folder.with_name("p.parquet")
    write_probs(file, Probs(np.array(["x"]), np.array(["ab"]), np.log(RAW), describe_judge(str(folder), file)))
    return folder


def calibrate(folder, temperature):
    spec = read_spec(folder)
    spec.calibration = {"temperature": temperature}
    write_spec(folder, spec)


def carry(file, temperature):
    """Have a probs file carry a calibration of its own."""
    probs = read_probs(file)
    probs.metadata["calibration"] = {"temperature": temperature}
    write_probs(file, probs)


def test_the_calibration_of_the_judges_folder_is_applied_from_whatever_directory(judge, tmp_path, monkeypatch):
    calibrate(judge, 2.0)
    for directory in (judge.parent, tmp_path, "/"):
        monkeypatch.chdir(directory)
        file = os.path.relpath(judge.with_name("p.parquet"))
        np.testing.assert_allclose(calibrate_probs(read_probs(file)).probs, apply_scaling(RAW, 2.0))
        np.testing.assert_allclose(calibrate_probs(read_probs(file), raw=True).probs, RAW)


def test_a_probs_file_that_was_moved_with_its_judge_finds_it(judge, tmp_path):
    calibrate(judge, 2.0)
    shutil.move(judge.parent, tmp_path / "there")
    read = calibrate_probs(read_probs(tmp_path / "there" / "p.parquet"))
    assert read.calibration == {"temperature": 2.0}
    assert str(tmp_path / "there" / "judge") in read.reason


def test_a_judge_that_happens_to_stand_in_its_place_is_not_believed(judge, tmp_path):
    other = tmp_path / "elsewhere" / "judge"
    other.mkdir(parents=True)
    write_spec(other, JudgeSpec(["A", "B", "tie"], [1, 2, 9], "t", Budget(), calibration={"temperature": 5.0}))
    file = shutil.copy(judge.with_name("p.parquet"), tmp_path / "elsewhere")
    carry(file, 3.0)
    assert "no calibration in" in calibrate_probs(read_probs(file)).reason  # of the first judge, which is still there
    shutil.rmtree(judge)
    read = calibrate_probs(read_probs(file))
    assert read.calibration == {"temperature": 3.0}
    assert "another judge now" in read.reason


def test_a_judge_that_was_trained_again_in_its_place_is_refused(judge):
    spec = read_spec(judge)
    spec.training["steps"], spec.calibration = 7, {"temperature": 5.0}
    write_spec(judge, spec)
    with pytest.raises(InputError, match="is another judge now"):
        calibrate_probs(read_probs(judge.with_name("p.parquet")))
    carry(judge.with_name("p.parquet"), 3.0)
    assert calibrate_probs(read_probs(judge.with_name("p.parquet"))).calibration == {"temperature": 3.0}


def test_a_judge_calibrated_anew_is_named_as_such(judge):
    carry(judge.with_name("p.parquet"), 3.0)
    calibrate(judge, 2.0)
    read = calibrate_probs(read_probs(judge.with_name("p.parquet")))
    assert read.calibration == {"temperature": 2.0}
    assert "since it predicted" in read.reason


def test_without_its_judge_a_file_says_that_a_later_calibration_is_unknown(judge, tmp_path, caplog):
    shutil.rmtree(judge)
    with caplog.at_level(logging.WARNING):
        read = calibrate_probs(read_probs(judge.with_name("p.parquet")))
    assert read.calibration is None
    assert "was not found" in caplog.text
    assert "no metadata" in calibrate_probs(Probs(np.array(["x"]), np.array(["ab"]), np.log(RAW))).reason


def test_a_file_without_a_hash_of_its_judge_is_read_by_what_it_carries(judge):
    calibrate(judge, 2.0)
    probs = Probs(np.array(["x"]), np.array(["ab"]), np.log(RAW), {"model": str(judge)})
    assert find_judge(probs.metadata, None) is None
    assert calibrate_probs(probs).calibration is None


def test_the_judge_json_behind_a_probs_file_is_named_as_an_input(judge, tmp_path):
    (tmp_path / "p.csv").write_text("id\n")
    paths = [judge.with_name("p.parquet"), tmp_path / "p.csv", tmp_path / "not-there.parquet"]
    assert judge_files(paths) == [judge / "judge.json"]


def test_a_calibration_that_was_withdrawn_is_not_applied(judge):
    carry(judge.with_name("p.parquet"), 3.0)
    read = calibrate_probs(read_probs(judge.with_name("p.parquet")))
    assert read.calibration is None
    assert "any more (when it predicted: temperature 3)" in read.reason


def test_a_calibration_in_a_file_is_checked(judge):
    carry(judge.with_name("p.parquet"), -1.0)
    with pytest.raises(InputError, match="p.parquet: its calibration has temperature -1"):
        calibrate_probs(read_probs(judge.with_name("p.parquet")))
