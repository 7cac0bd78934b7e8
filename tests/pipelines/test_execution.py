"""Trainings that do not need one another run at once; all other steps run in order."""

from pathlib import Path

import pytest
import yaml

from sft_judge.core.files import content_hash
from sft_judge.pipelines.execution import group_steps, run_steps
from sft_judge.pipelines.pipeline import Step, read_pipeline, steps_of, up_to_date

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[2]


def names(steps: list[Step]) -> list[list[str]]:
    return [[steps[place].name for place in group] for group in group_steps(steps)]


def test_of_the_demo_the_bases_the_first_trainings_and_the_folds_run_at_once(tmp_path):
    pipeline = read_pipeline(ROOT / "recipes/demo/pipeline.yaml")
    groups = names(steps_of(pipeline, ROOT / "recipes/demo/pipeline.yaml"))
    assert [group for group in groups if len(group) > 1] == [
        ["base", "base"],
        ["student-votes", "teacher-base"],
        ["teacher"] * 4,
    ]


def test_a_training_that_reads_what_another_makes_waits_for_it(tmp_path):
    steps = {
        "first": {"stage": "train", "battles": "b.parquet", "model_name_or_path": "m", "output_dir": "one"},
        "second": {"stage": "train", "battles": "b.parquet", "model_name_or_path": "one", "output_dir": "two"},
        "third": {"stage": "train", "battles": "b.parquet", "model_name_or_path": "m", "output_dir": "three"},
    }
    file = tmp_path / "p.yaml"
    file.write_text(yaml.safe_dump({"vars": {"run": str(tmp_path)}, "steps": steps}))
    assert names(steps_of(read_pipeline(file), file)) == [["first"], ["second", "third"]]


@pytest.fixture
def bases(tmp_path, synthetic_file):
    """Two steps that each make a tiny base, and their outputs."""

    def make(folder: str, *more) -> list[Step]:
        words = ["--battles", str(synthetic_file), "--hidden", "64", "--vocab", "600", *more]
        return [
            Step(family, "base", ["--family", family, *words, "--output", str(tmp_path / folder / family)])
            for family in ("qwen2", "gemma2")
        ]

    return make


def test_steps_at_once_make_what_steps_in_order_make_and_are_up_to_date(bases, tmp_path):
    assert run_steps(bases("in-order"), set(), tmp_path / "in-order") == 0
    steps = bases("at-once")
    assert run_steps(steps, set(), tmp_path / "at-once", jobs=2) == 0
    assert all(map(up_to_date, steps))
    for family in ("qwen2", "gemma2"):
        weights = [
            content_hash(tmp_path / folder / family / "model.safetensors") for folder in ("in-order", "at-once")
        ]
        assert weights[0] == weights[1]


def test_a_forced_step_runs_again_and_the_others_do_not(bases, tmp_path, caplog):
    steps = bases("run")
    assert run_steps(steps, set(), tmp_path / "run", jobs=2) == 0
    caplog.clear()
    assert run_steps(steps, {"gemma2"}, tmp_path / "run", jobs=2) == 0
    assert "qwen2: up to date" in caplog.text and "gemma2: sft-judge base" in caplog.text


def test_the_end_of_the_log_of_a_step_that_fails_is_shown_with_its_status(bases, tmp_path, capfd):
    steps = [*bases("run")[:1], *bases("run", "--battles", "nowhere.parquet")[1:]]
    assert run_steps(steps, set(), tmp_path / "run", jobs=2) == 2
    assert "nowhere.parquet" in capfd.readouterr().err
