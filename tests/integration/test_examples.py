"""Each file of examples/ runs, word for word, on tiny models and a few battles."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from helpers.judges import make_judge
from helpers.serving import served
from sft_judge.data.battles import battle_table, write_battles

pytestmark = pytest.mark.engine
EXAMPLES = Path(__file__).parents[2] / "examples"
SHORT = ["--max_steps", "2", "--total_budget", "256"]
CPU = ["--use_cpu", "--bf16", "false", "--report_to", "none", "--save_strategy", "no"]


@pytest.fixture
def run(monkeypatch, capsys):
    """Run an example as a script, and give what it prints."""

    def run_example(name: str, *words) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run_example


@pytest.fixture
def judge_folder(bases, tmp_path) -> Path:
    """A judge of random weights."""
    make_judge(tmp_path / "a-judge", bases["qwen2"])
    return tmp_path / "a-judge"


@pytest.fixture
def preferences(synthetic_rows, tmp_path) -> Path:
    """A folder of preference data, as `load_dataset` takes it."""
    (tmp_path / "data").mkdir()
    names = {"prompt": "prompt", "chosen": "response_a", "rejected": "response_b"}
    rows = [{name: row[column][0] for name, column in names.items()} for row in synthetic_rows]
    (tmp_path / "data" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:40]))
    return tmp_path / "data"


def test_every_example_is_run_here():
    tested = Path(__file__).read_text(encoding="utf-8")
    assert all(f'run("{file.name}"' in tested for file in EXAMPLES.glob("*.py"))


def test_a_judge_is_trained_and_asked(run, bases, preferences, tmp_path):
    words = ["--model_name_or_path", bases["qwen2"], "--dataset_name", preferences, "--output_dir", tmp_path / "judge"]
    printed = run("train_judge.py", *words, *SHORT, *CPU)
    assert "Judgement(a=" in printed and (tmp_path / "judge" / "judge.json").is_file()


def test_two_teachers_are_distilled_into_a_student(run, bases, synthetic_rows, tmp_path):
    rows = [{**row, "fold": place % 2} for place, row in enumerate(synthetic_rows[:40])]
    write_battles(tmp_path / "folds.parquet", battle_table(rows))
    words = ["--battles", tmp_path / "folds.parquet", "--teachers", bases["qwen2"], bases["gemma2"]]
    run("distil_two_teachers.py", *words, "--student", bases["qwen2"], "--output", tmp_path / "runs", *SHORT)
    training = json.loads((tmp_path / "runs" / "student" / "judge.json").read_text())["training"]
    assert training["steps"] == 2 and training["folds_seen"] == [0, 1]


def test_grpo_trains_on_a_judges_rewards(run, judge_folder, bases, preferences, tmp_path):
    words = ["--judge", judge_folder, "--model_name_or_path", bases["qwen2"], "--dataset_name", preferences]
    words += ["--output_dir", tmp_path / "policy", "--num_generations", "4", "--per_device_train_batch_size", "4"]
    run("grpo_with_a_judge.py", *words, "--max_steps", "1", "--max_completion_length", "8", *CPU)
    assert (tmp_path / "policy" / "model.safetensors").is_file()


def test_models_are_ranked_by_votes(run, synthetic_rows, tmp_path):
    write_battles(tmp_path / "votes.parquet", battle_table(synthetic_rows))
    printed = run("rank_models.py", tmp_path / "votes.parquet")
    models = {row[side] for row in synthetic_rows for side in ("model_a", "model_b")}
    assert all(model in printed for model in models) and "battles" in printed


def test_the_best_of_several_answers_comes_first(run, judge_folder, bases):
    words = ["--judge", judge_folder, "--model", bases["qwen2"], "--prompt", "why rain often", "--n", "3"]
    printed = run("best_of_n.py", *words, "--max_new_tokens", "6").splitlines()
    rewards = [float(line.split()[0]) for line in printed if line[:2] in ("0.", "1.")]
    assert len(rewards) == 3 and rewards == sorted(rewards, reverse=True)
    assert sum(rewards) == pytest.approx(1.5, abs=0.01)


def test_a_served_judge_answers(run, judge_folder):
    with served(judge_folder) as (_, client):
        printed = run("ask_a_served_judge.py", "--url", str(client.base_url))
    assert "prime: a 0." in printed and "two turns: a 0." in printed
