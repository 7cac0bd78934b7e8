"""Prediction: exchanged responses exchange the result, no judge labels what it saw, and a killed run goes on."""

import json
import shutil

import numpy as np
import pytest

from helpers.judges import exchange, make_judge, naive, predict
from sft_judge.cli import main
from sft_judge.core.errors import InputError
from sft_judge.data.battles import write_battles
from sft_judge.data.probs import average_orders, read_probs
from sft_judge.inference.engines.transformers_engine import TransformersEngine
from sft_judge.inference.jobs import open_jobs
from sft_judge.inference.parity import TOLERANCES

pytestmark = pytest.mark.unit  # random judges: nothing is trained


@pytest.fixture
def judge(each_judge):
    return each_judge


def test_probabilities_are_those_of_whole_logits_one_row_at_a_time(judge, synthetic_rows, synthetic_file, tmp_path):
    assert predict(judge, synthetic_file, tmp_path / "probs.parquet", "--limit", "12") == 0
    probs = read_probs(tmp_path / "probs.parquet")
    assert probs.ids.tolist() == [row["id"] for row in synthetic_rows[:12] for _ in "ab"]
    assert probs.orders.tolist() == ["ab", "ba"] * 12
    seen = np.exp(probs.logp).reshape(12, 2, 3)
    np.testing.assert_allclose(seen, naive(judge, synthetic_rows[:12]), atol=1e-5)
    assert seen.std(axis=0).max() > 1e-3  # else nothing was tested


def test_exchanged_responses_exchange_a_and_b(judge, synthetic_table, synthetic_file, tmp_path):
    write_battles(tmp_path / "exchanged.parquet", exchange(synthetic_table))
    assert predict(judge, synthetic_file, tmp_path / "one.parquet") == 0
    assert predict(judge, tmp_path / "exchanged.parquet", tmp_path / "other.parquet") == 0
    one, other = (average_orders(read_probs(tmp_path / name))[1] for name in ("one.parquet", "other.parquet"))
    np.testing.assert_allclose(one[:, [1, 0, 2]], other, atol=1e-6)
    assert np.abs(one[:, 0] - one[:, 1]).max() > 1e-3


def test_one_order_is_the_first_of_both(judge, synthetic_file, tmp_path):
    assert predict(judge, synthetic_file, tmp_path / "both.parquet") == 0
    assert predict(judge, synthetic_file, tmp_path / "one.parquet", "--swap", "none") == 0
    both, one = read_probs(tmp_path / "both.parquet"), read_probs(tmp_path / "one.parquet")
    assert set(one.orders) == {"ab"}
    np.testing.assert_allclose(one.logp, both.logp[::2], atol=1e-5)


def test_two_verdicts_leave_no_probability_to_a_tie(bases, synthetic_file, tmp_path):
    judge = make_judge(tmp_path / "two", bases["gemma2"], words=("A", "B"))
    assert predict(judge, synthetic_file, tmp_path / "probs.parquet") == 0
    probs = read_probs(tmp_path / "probs.parquet")
    assert probs.num_verdicts == 2 and np.isneginf(probs.logp[:, 2]).all()


def test_several_files_are_scored_as_each_alone(judge, synthetic_file, synthetic_table, tmp_path):
    write_battles(tmp_path / "few.parquet", synthetic_table.slice(3, 4))
    outputs = [str(tmp_path / "out" / name) for name in ("one.parquet", "two.parquet")]
    words = ["--battles", str(synthetic_file), str(tmp_path / "few.parquet"), "--output", *outputs]
    assert main(["predict", "--model", str(judge), *words]) == 0
    assert predict(judge, tmp_path / "few.parquet", tmp_path / "alone.parquet") == 0
    alone, two, one = (read_probs(path) for path in (tmp_path / "alone.parquet", outputs[1], outputs[0]))
    np.testing.assert_allclose(two.logp, alone.logp, atol=1e-6)
    np.testing.assert_allclose(two.logp, one.logp[6:14], atol=1e-5)


def test_the_engine_check_passes_against_itself(judge, synthetic_file, tmp_path, capsys):
    assert predict(judge, synthetic_file, tmp_path / "probs.parquet", "--check", "5") == 0
    assert "max |Δp| 0.00e+00" in capsys.readouterr().out


def test_a_refused_check_writes_nothing_and_is_not_passed_by_running_again(
    judge, synthetic_file, tmp_path, monkeypatch
):
    monkeypatch.setattr("sft_judge.inference.parity.TOLERANCES", dict.fromkeys(TOLERANCES, -1.0))
    for _ in range(2):
        assert predict(judge, synthetic_file, tmp_path / "probs.parquet", "--check", "5") == 3
        assert not (tmp_path / "probs.parquet").exists()


# Going on, and bad input


def test_finished_blocks_are_not_scored_again_after_a_kill(judge, synthetic_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sft_judge.inference.shards.ROWS_A_BLOCK", 16)
    assert predict(judge, synthetic_file, tmp_path / "whole.parquet") == 0
    score, scored = TransformersEngine.score, []

    def failing(self, prompts):
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.append(len(prompts))
        return score(self, prompts)

    monkeypatch.setattr(TransformersEngine, "score", failing)
    capsys.readouterr()
    assert predict(judge, synthetic_file, tmp_path / "killed.parquet") == 130
    assert "To resume, run: sft-judge predict" in capsys.readouterr().err
    assert not (tmp_path / "killed.parquet").exists()
    scored.clear()
    monkeypatch.setattr(
        TransformersEngine, "score", lambda self, prompts: scored.append(len(prompts)) or score(self, prompts)
    )
    assert predict(judge, synthetic_file, tmp_path / "killed.parquet") == 0
    assert scored == [32, 24]  # 60 rows in blocks of 16, two orders each: the last two blocks
    whole, killed = read_probs(tmp_path / "whole.parquet"), read_probs(tmp_path / "killed.parquet")
    assert killed.ids.tolist() == whole.ids.tolist() and np.array_equal(killed.logp, whole.logp)
    assert not [path.name for path in tmp_path.iterdir() if "partial" in path.name]


def test_shards_score_each_row_once_and_the_last_one_writes_what_one_process_does(
    folds, synthetic_file, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("sft_judge.inference.shards.ROWS_A_BLOCK", 8)
    assert predict(folds, synthetic_file, tmp_path / "whole.parquet", "--out-of-fold") == 0
    score, scored = TransformersEngine.score, []
    monkeypatch.setattr(
        TransformersEngine, "score", lambda self, prompts: scored.append(len(prompts)) or score(self, prompts)
    )
    output = tmp_path / "shared.parquet"
    for place, shard in enumerate(("2/3", "0/3", "1/3")):
        assert not output.exists()
        assert predict(folds, synthetic_file, output, "--out-of-fold", "--shard", shard) == 0
        assert ("this shard is done" in capsys.readouterr().out) == (place < 2)
    assert sum(scored) == 120  # 60 rows in two orders
    whole, shared = read_probs(tmp_path / "whole.parquet"), read_probs(output)
    assert shared.ids.tolist() == whole.ids.tolist() and np.array_equal(shared.logp, whole.logp)
    assert shared.metadata["folds"] == whole.metadata["folds"]
    for wrong in ("3/3", "x", "1"):
        assert predict(folds, synthetic_file, tmp_path / "none.parquet", "--shard", wrong) == 2
        assert f"{wrong} is not a shard; expected I/N" in capsys.readouterr().err


@pytest.mark.parametrize("damage, reason", [("none", "no judge.json"), ("key", "unknown key"), ("ids", "ids")])
def test_a_folder_that_is_no_judge_is_one_line_and_status_2(damage, reason, judge, synthetic_file, tmp_path, capsys):
    copy = shutil.copytree(judge, tmp_path / "judge")
    file = copy / "judge.json"
    fields = json.loads(file.read_text())
    changed = {"key": fields | {"budgets": 1}, "ids": fields | {"verdict_ids": [1, 2, 3]}, "none": None}[damage]
    file.write_text(json.dumps(changed)) if changed else file.unlink()
    capsys.readouterr()
    assert predict(copy, synthetic_file, tmp_path / "probs.parquet") == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sft-judge:")]
    assert len(error) == 1 and reason in error[0]
    assert [path.name for path in tmp_path.iterdir()] == ["judge"]


def test_a_file_too_many_or_an_empty_fold_is_an_error(judge, synthetic_file, tmp_path, capsys):
    assert predict(judge, synthetic_file, tmp_path / "a.parquet", "--fold", "8") == 2
    assert "no battle in fold 8" in capsys.readouterr().err
    with pytest.raises(InputError, match="1 battles files for 2 outputs"):
        open_jobs([synthetic_file], [tmp_path / "a", tmp_path / "b"], None, None)


def test_folds_of_two_and_of_three_verdicts_are_refused_in_one_line(bases, synthetic_file, tmp_path, capsys):
    for fold, words in enumerate((("A", "B", "tie"), ("A", "B"))):
        make_judge(tmp_path / "folds" / f"fold-{fold}", bases["qwen2"], words=words)
    assert predict(tmp_path / "folds", synthetic_file, tmp_path / "probs.parquet", "--out-of-fold") == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "fold-0 has the verdicts A, B, tie, " in said and "fold-1 A, B; the judges of a folder need" in said
    assert [path.name for path in tmp_path.iterdir()] == ["folds"]
