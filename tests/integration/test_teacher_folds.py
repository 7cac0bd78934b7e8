"""The teacher stage of a 72B, shrunk: DeepSpeed on two processes a fold, labels out of fold, a student, a merge."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sft_judge.cli import main
from sft_judge.data.battles import battle_table, read_battles, write_battles
from sft_judge.data.probs import read_probs
from sft_judge.inference.verify import score
from sft_judge.modeling.judge_spec import read_spec

pytestmark = pytest.mark.engine
ROOT = Path(__file__).parents[2]
UNQUANTISED = ["--load_in_4bit", "false", "--use_bnb_nested_quant", "false"]  # ZeRO-3 bears no 4 bits
LAUNCHES = [("zero2", []), ("zero3", UNQUANTISED)]


def train_fold(fold: int, launcher: str, changes: list[str], battles: Path, output: Path) -> None:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    command += ["--config_file", str(ROOT / f"recipes/accelerate/{launcher}.yaml"), str(ROOT / "scripts/train.py")]
    command += ["--config", str(ROOT / "recipes/qwen2.5-72b/teacher.yaml"), "--shrink", "--battles", str(battles)]
    command += ["--fold", str(fold), "--output_dir", str(output), *changes]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.full
def test_folds_of_a_72b_label_what_they_did_not_see_and_one_of_them_is_merged(train, synthetic_rows, tmp_path, capsys):
    battles, labels, teacher = tmp_path / "battles.parquet", tmp_path / "labels.parquet", tmp_path / "teacher"
    rows = [{**row, "fold": place % 2} for place, row in enumerate(synthetic_rows[:24])]
    write_battles(battles, battle_table([*rows, {**rows[0], "id": "new", "fold": None, "verdict": None}]))
    for fold, (launcher, changes) in enumerate(LAUNCHES):
        train_fold(fold, launcher, changes, battles, teacher / f"fold-{fold}")
    four_bit = ["loaded_in_4bit" in read_spec(teacher / f"fold-{fold}").training for fold in (0, 1)]
    assert four_bit == [True, False]

    words = ["--model", str(teacher), "--battles", str(battles), "--out-of-fold", "--output", str(labels)]
    assert main(["predict", *words]) == 0
    seen = read_probs(labels)
    rows = read_battles(battles).to_pylist()
    each = [score(str(teacher / f"fold-{fold}"), rows, "transformers")[0].reshape(-1, 2, 3) for fold in (0, 1)]
    assert np.abs(np.exp(each[0]) - np.exp(each[1])).max() > 1e-4
    for place, (row, logp) in enumerate(zip(rows, seen.logp.reshape(-1, 2, 3), strict=True)):
        of_row = np.exp(each[0][place]), np.exp(each[1][place])
        expected = np.mean(of_row, axis=0) if row["fold"] is None else of_row[row["fold"]]
        np.testing.assert_allclose(np.exp(logp), expected, atol=2e-3)  # in bfloat16, the batch moves the last bits
    assert {fold: known["folds_seen"] for fold, known in seen.metadata["folds"].items()} == {"0": [1], "1": [0]}

    student = train("student", labels=labels, battles=battles, max_steps=2)
    counted = read_spec(student).training
    assert (counted["rows"], counted["unlabelled"]) == (25, 0)  # the battle without a verdict learns from both
    words = ["--output", str(tmp_path / "merged"), "--battles", str(battles)]
    assert main(["merge", str(teacher / "fold-0"), *words]) == 0
    assert "adapter against merged" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "merged" / "manifest.json").read_text())
    assert manifest["parity"]["rows"] == 50
