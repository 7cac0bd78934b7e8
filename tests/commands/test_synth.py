"""`sft-judge plant`: the same bytes of the same seed, in the competition's format, and bad knobs in a line."""

import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from sft_judge.cli import main
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.synthetic.preference_model import (
    SPLITS,
)

pytestmark = pytest.mark.unit
SMALL = ["--rows", "300", "--test-rows", "50", "--shifted-rows", "60"]


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name, seed in (("one", "5"), ("two", "5"), ("other", "6")):
        assert main(["plant", "--output", str(tmp_path / name), "--preset", "full", "--seed", seed, *SMALL]) == 0
    files = [p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.name != "manifest.json"]
    assert len([file for file in files if file.suffix]) == 8
    for file in files:
        if file.suffix:
            assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert (tmp_path / "one/train.csv").read_bytes() != (tmp_path / "other/train.csv").read_bytes()


def test_files_have_the_competition_format_and_agree_with_the_truth(tmp_path):
    assert main(["plant", "--output", str(tmp_path / "p"), *SMALL]) == 0
    read = {name: list(csv.DictReader(open(tmp_path / "p" / f"{name}.csv", encoding="utf-8"))) for name in SPLITS}
    assert list(read["test"][0]) == ["id", "prompt", "response_a", "response_b"]
    assert list(read["train"][0])[-3:] == ["winner_model_a", "winner_model_b", "winner_tie"]
    ids = [row["id"] for rows in read.values() for row in rows]
    assert len(set(ids)) == len(ids) == 410
    for split in ("train", "shifted"):
        truth = pq.read_table(tmp_path / "p" / "truth" / f"{split}.parquet").to_pylist()
        for row, true in zip(read[split], truth, strict=True):
            assert row["id"] == true["id"]
            winners = [row["winner_model_a"], row["winner_model_b"], row["winner_tie"]]
            assert VERDICTS[winners.index("1")] == true["verdict"] and winners.count("0") == 2
        probs = np.array([[true["p_a"], true["p_b"], true["p_tie"]] for true in truth])
        drawn = np.array([[true["verdict"] == verdict for verdict in VERDICTS] for true in truth])
        spread = np.sqrt((probs * (1 - probs) * probs**2).sum())  # of the sum of p over drawn verdicts, entries apart
        assert abs((probs * drawn).sum() - (probs**2).sum()) < 4 * spread
    sample = list(csv.DictReader(open(tmp_path / "p/sample_submission.csv")))
    assert [row["id"] for row in sample] == [row["id"] for row in read["test"]]
    summary = json.loads((tmp_path / "p/truth/summary.json").read_text())
    assert summary["train"]["best_log_loss"] < summary["train"]["class_frequency_log_loss"]


@pytest.mark.parametrize(
    "knob, said",
    [
        (["--rows", "0"], "--rows 0: expected a number from 1"),
        (["--tie-rate", "1.5"], "--tie-rate 1.5"),
        (["--label-noise", "nan"], "--label-noise nan"),
        (["--verdicts", "4"], "--verdicts 4"),
        (["--languages", "en,eo"], "--languages eo"),
        (["--rows", "many"], "many"),
        (["--preset", "hard"], "hard"),
        (["--tie-rat", "0.3"], "--tie-rate"),
    ],
)
def test_bad_knobs_are_one_clear_line(knob, said, tmp_path, capsys):
    assert main(["plant", "--output", str(tmp_path / "p"), *knob]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
