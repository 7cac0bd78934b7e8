"""A damaged manifest beside an output: the step is done once more, and nothing is read into it."""

import shutil

import pytest

from sft_judge.cli import main
from sft_judge.core.manifest import manifest_path
from sft_judge.pipelines.pipeline import Step, up_to_date

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"outputs": [], "fingerprint": "x"}', '{"outputs": {}}'])
def test_a_step_whose_manifest_is_damaged_is_to_be_done(text, synthetic_file, tmp_path):
    shutil.copy(synthetic_file, tmp_path / "b.parquet")
    words = [str(tmp_path / "b.parquet"), "--output", str(tmp_path / "c.parquet"), "--folds", "2"]
    assert main(["prepare", *words]) == 0
    step = Step("prepare", "prepare", words)
    assert up_to_date(step)
    manifest_path(tmp_path / "c.parquet").write_text(text)
    assert not up_to_date(step)


def test_a_pipeline_that_names_no_folder_for_its_run_is_one_line(tmp_path, capsys):
    (tmp_path / "p.yaml").write_text("vars: {}\nsteps:\n  doctor: {}\n")
    assert main(["run", str(tmp_path / "p.yaml")]) == 2
    assert "no variable 'run'" in capsys.readouterr().err
