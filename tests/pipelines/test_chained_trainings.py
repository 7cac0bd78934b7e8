"""Stages one after the other in a pipeline: each starts from the weights of the one before, with its own warm-up."""

import json
from pathlib import Path

import pytest

from helpers.training_runs import losses
from sft_judge.cli import main
from sft_judge.modeling.judge_spec import read_spec

ROOT = Path(__file__).parents[2]


@pytest.mark.engine
def test_each_stage_warms_up_anew_on_the_weights_of_the_one_before(bases, synthetic_file, tmp_path):
    settings = {
        "run": tmp_path / "run",
        "model": bases["qwen2"],
        "preferences": synthetic_file,
        "battles": synthetic_file,
    }
    for stage in ("postpretrain", "train", "anneal"):
        settings |= {f"{stage}.config": "tiny/train", f"{stage}.warmup_steps": 2, f"{stage}.logging_steps": 1}
        settings |= {f"{stage}.max_steps": 4, f"{stage}.save_strategy": "no"}
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    assert main(["run", str(ROOT / "recipes/stages/pipeline.yaml"), *words]) == 0
    folders = [tmp_path / "run" / name for name in ("postpretrain", "trained", "annealed")]
    bases_seen = [read_spec(folder).training["base"] for folder in folders]
    assert bases_seen == [str(bases["qwen2"]), *(str(tmp_path / "run" / name) for name in ("base", "trained-base"))]
    for folder, peak in zip(folders, (1e-3, 1e-3, 1e-5), strict=True):
        log = json.loads((folder / "trainer_log.json").read_text())
        rates = [entry["learning_rate"] for entry in log if "learning_rate" in entry]
        assert rates[0] == 0 and max(rates) == rates[2] == pytest.approx(peak)
    assert losses(folders[1])[0] < losses(folders[0])[0]  # the same first batch, seen by trained weights
    assert (tmp_path / "run" / "judge" / "model.safetensors").is_file()
