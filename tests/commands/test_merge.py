"""`sft-judge merge`: held to the probabilities of what is merged, averaged by weight, and refused in a line."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from helpers.judges import make_judge, naive
from sft_judge.cli import main
from sft_judge.modeling.judge_spec import read_spec

pytestmark = pytest.mark.unit  # random judges: nothing is trained


@pytest.fixture
def judge(each_judge):
    return each_judge


def test_a_merged_adapter_gives_the_adapters_probabilities(base, synthetic_rows, synthetic_file, tmp_path, capsys):
    adapter = make_judge(tmp_path / "adapter", base, adapter=True)
    merged = tmp_path / "merged"
    words = ["--output", str(merged), "--battles", str(synthetic_file), "--limit", "8"]
    assert main(["merge", str(adapter), *words]) == 0
    assert "adapter against merged" in capsys.readouterr().out
    assert (merged / "model.safetensors").is_file() and not (merged / "adapter_config.json").exists()
    np.testing.assert_allclose(naive(merged, synthetic_rows[:8]), naive(adapter, synthetic_rows[:8]), atol=1e-4)


@pytest.mark.parametrize("given", [True, False], ids=["on given battles", "on synthetic battles"])
def test_a_merge_that_changes_probabilities_is_refused_with_status_3(
    given, bases, synthetic_file, tmp_path, monkeypatch, capsys
):
    from sft_judge.conversion.merge_adapter import AdapterByShards

    adapter = make_judge(tmp_path / "adapter", bases["qwen2"], adapter=True)
    monkeypatch.setattr(AdapterByShards, "merge", lambda self, name, weight: weight)  # forgets the adapter
    before = {path.name for path in tmp_path.iterdir()}
    words = ["merge", str(adapter), "--output", str(tmp_path / "merged"), "--limit", "4"]
    assert main([*words, *(["--battles", str(synthetic_file)] if given else [])]) == 3
    assert "Parity gate" in capsys.readouterr().err and {path.name for path in tmp_path.iterdir()} == before
    assert main([*words[:-1], "0"]) == 0  # no gate


def test_a_model_that_does_not_fit_into_memory_is_merged_without_a_gate_and_with_a_warning(
    bases, tmp_path, monkeypatch, capsys
):
    from sft_judge.conversion import merge_gate

    adapter = make_judge(tmp_path / "adapter", bases["qwen2"], adapter=True)
    monkeypatch.setattr(merge_gate, "free_memory", lambda device: 0)
    assert main(["merge", str(adapter), "--output", str(tmp_path / "merged")]) == 0
    said = capsys.readouterr()
    assert "is not compared with its merged form: that needs" in said.err and "adapter against merged" not in said.out


def test_a_judge_merged_with_itself_is_itself(judge, tmp_path):
    assert main(["merge", str(judge), str(judge), "--output", str(tmp_path / "merged"), "--weights", "0.25,0.75"]) == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (judge, tmp_path / "merged"))
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=1e-7, rtol=1e-6)


def test_merged_weights_are_the_weighted_mean(folds, tmp_path):
    models = [str(folds / f"fold-{fold}") for fold in range(2)]
    assert main(["merge", *models, "--output", str(tmp_path / "merged"), "--weights", "0.75,0.25"]) == 0
    one, two, merged = (load_file(f"{folder}/model.safetensors") for folder in (*models, tmp_path / "merged"))
    for name, value in merged.items():
        torch.testing.assert_close(value, 0.75 * one[name] + 0.25 * two[name], atol=1e-6, rtol=1e-5)
    assert read_spec(tmp_path / "merged").training["folds_seen"] == [0, 1, 2]


@pytest.mark.parametrize(
    "weights, reason",
    [
        ("1", "1 weights"),
        ("1,0", "above 0"),
        ("1,-1", "above 0"),
        ("a,b", "numbers"),
        ("3,1", "sum to 4"),
        ("0.5,0.49", "sum to 0.99"),
    ],
)
def test_bad_weights_are_an_error(weights, reason, folds, tmp_path, capsys):
    models = [str(folds / f"fold-{fold}") for fold in range(2)]
    assert main(["merge", *models, "--output", str(tmp_path / "merged"), f"--weights={weights}"]) == 2
    assert reason in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_judges_of_two_families_or_prompts_are_not_merged(bases, folds, tmp_path, capsys):
    gemma = make_judge(tmp_path / "gemma", bases["gemma2"])
    two = make_judge(tmp_path / "two", bases["qwen2"], words=("A", "B"))
    for other, reason in ((gemma, "verdict_ids"), (two, "verdict_words")):
        assert main(["merge", str(folds / "fold-0"), str(other), "--output", str(tmp_path / "merged")]) == 2
        assert f"differ in '{reason}'" in capsys.readouterr().err
