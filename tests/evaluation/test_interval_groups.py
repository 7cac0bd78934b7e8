"""Every interval resamples the groups that folds keep together: near-equal prompts and turns of one conversation."""

import json

import numpy as np
import pytest

from helpers.training_runs import make_prompt
from sft_judge.cli import main
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.battles import battle_table, read_battles, write_battles
from sft_judge.data.probs import Probs, write_probs
from sft_judge.training.config import JudgeConfig
from sft_judge.training.preparation import prepare_evaluation

pytestmark = pytest.mark.unit
QUESTIONS = 20


@pytest.fixture
def battles(tmp_path):
    """Battles of QUESTIONS questions, each with its follow-up and a near copy; and a judge's probabilities."""
    draw, rows = np.random.default_rng(0), []
    for _ in range(QUESTIONS):
        words = [f"w{word}" for word in draw.integers(0, 9999, 20)]
        for turns in (1, 2, 1):
            prompt = [" ".join([*words, *(["please"] if len(rows) % 3 == 2 else [])]), "and in short?"][:turns]
            answers = {"response_a": ["x"] * turns, "response_b": ["y"] * turns, "model_a": "m", "model_b": "n"}
            rows.append({"id": str(len(rows)), "prompt": prompt, "verdict": VERDICTS[len(rows) % 3], **answers})
    write_battles(tmp_path / "battles.parquet", battle_table(rows))
    ids = np.array([row["id"] for row in rows], dtype=object)
    probs = np.log(draw.dirichlet(np.ones(3), len(rows)))
    write_probs(tmp_path / "p.parquet", Probs(ids, np.full(len(rows), "ab", dtype=object), probs, {"model": "m"}))
    assert len({tuple(row["prompt"]) for row in rows}) == 3 * QUESTIONS
    return tmp_path


def test_evaluate_and_its_policies_count_groups_of_prompts(battles):
    words = ["--probs", str(battles / "p.parquet"), "--battles", str(battles / "battles.parquet")]
    assert main(["evaluate", *words, "--output", str(battles / "report"), "--policies", "m", "n"]) == 0
    metrics = json.loads((battles / "report/metrics.json").read_text())
    assert metrics["num_prompts"] == metrics["policies"]["prompts"] == QUESTIONS


def test_rank_counts_groups_of_prompts(battles):
    assert main(["rank", str(battles / "battles.parquet"), "--output", str(battles / "ranking")]) == 0
    assert json.loads((battles / "ranking/ranking.json").read_text())["prompts"] == QUESTIONS


def test_calibrate_fits_on_no_fewer_groups_of_prompts_than_it_needs(battles, capsys):
    words = ["--probs", str(battles / "p.parquet"), "--battles", str(battles / "battles.parquet")]
    assert main(["calibrate", *words, "--output", str(battles / "calibration.json")]) in (0, 3)
    assert f"{QUESTIONS} prompts, but 30 are needed" in "".join(capsys.readouterr())


def test_the_trainer_resamples_groups_of_prompts(battles, bases, tmp_path):
    config = JudgeConfig(output_dir=str(tmp_path), prompt_template="compact", total_budget=256)
    _, groups = prepare_evaluation(config, make_prompt(bases), read_battles(battles / "battles.parquet"))
    assert groups.tolist() == np.repeat(np.arange(QUESTIONS), 3).tolist()
