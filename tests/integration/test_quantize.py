"""Every scheme and form of `quantize`, made and read back on a CPU, and the gate that it runs by itself."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from helpers.judges import make_judge
from sft_judge.cli import main
from sft_judge.core.resources import find_resource
from sft_judge.core.swap_orders import ORDERS
from sft_judge.inference.engines import open_engine
from sft_judge.inference.scoring import score_battles
from sft_judge.modeling.judge_spec import read_spec, write_spec
from sft_judge.modeling.loading import load_tokenizer
from sft_judge.modeling.tiny_models import make_base
from sft_judge.prompts.prompt import JudgePrompt

pytestmark = pytest.mark.engine


LADDER = """
vars: {run: null, judge: null, battles: null}
seeds: [1]
cells:
  unquantised: {drop: quantize, predict.model: "{judge}"}
  eight bits: {quantize.scheme: W8A16}
  four bits: {quantize.scheme: NF4}
reference: unquantised
score: {probs: "{run}/{cell}/{seed}.parquet", battles: "{battles}", fold: 0}
steps:
  quantize:
    {model: "{judge}", battles: "{battles}", holdout_fold: 0, seqlen: 128, nsamples: 8, iters: 0, gate: 0,
     seed: "{seed}", output: "{run}/{cell}/judge-{seed}"}
  predict: {model: "{run}/{cell}/judge-{seed}", battles: "{battles}", fold: 0, output: "{run}/{cell}/{seed}.parquet"}
"""


@pytest.fixture(scope="module")
def judge(synthetic_rows, tmp_path_factory) -> Path:
    """A judge of random weights, as wide as a group of auto-round's."""
    folder = tmp_path_factory.mktemp("wide")
    texts = [turn for row in synthetic_rows for name in ("prompt", "response_a", "response_b") for turn in row[name]]
    frame = find_resource("prompts", "compact").read_text(encoding="utf-8")
    make_base(folder / "base", "qwen2", [*texts, *[frame] * 100], hidden=128, vocab=1200, positions=512)
    return make_judge(folder / "judge", folder / "base", folds_seen=[1, 2])


def quantize(judge, battles, output, *words) -> int:
    small = ["--seqlen", "128", "--nsamples", "8", "--iters", "0", "--gate", "8", "--holdout-fold", "0"]
    return main(
        ["quantize", "--model", str(judge), "--battles", str(battles), "--output", str(output), *small, *words]
    )


def probabilities(folder, rows) -> np.ndarray:
    spec = read_spec(folder)
    with open_engine("transformers", str(folder), spec) as engine:
        return np.exp(score_battles(engine, JudgePrompt.of(load_tokenizer(str(folder)), spec), rows, ORDERS))


@pytest.fixture(scope="module")
def whole(judge, synthetic_rows) -> np.ndarray:
    return probabilities(judge, synthetic_rows[:8])


@pytest.mark.parametrize(
    "scheme, bits, within",
    [
        ("W8A16", 8, 0.02),
        ("NF4", None, 0.15),
        pytest.param("FP8_STATIC", 8, 0.1, marks=pytest.mark.full),
        pytest.param("INT8", None, 0.03, marks=pytest.mark.full),
    ],
)
def test_every_scheme_is_near_its_judge_held_to_it_and_read_back(
    scheme, bits, within, judge, whole, synthetic_rows, synthetic_file, tmp_path, capsys
):
    assert quantize(judge, synthetic_file, tmp_path / "q", "--scheme", scheme) == 0
    assert "log loss" in capsys.readouterr().out
    facts = json.loads((tmp_path / "q" / "manifest.json").read_text())
    assert len(facts["log_loss_rise"]) == 3 and facts["rows"] == 8
    config = json.loads((tmp_path / "q" / "config.json").read_text())["quantization_config"]
    assert config.get("bits") == bits
    difference = np.abs(probabilities(tmp_path / "q", synthetic_rows[:8]) - whole).max()
    print(f"{scheme}: max |Δp| {difference:.4f}")
    assert 0 < difference < within


def test_the_gate_takes_what_neither_tuned_the_copy_nor_trained_the_judge(
    judge, synthetic_rows, synthetic_file, tmp_path, capsys
):
    words = ["--model", str(judge), "--battles", str(synthetic_file), "--scheme", "W8A16", "--iters", "0"]
    words += ["--seqlen", "128", "--tolerance", "0.5"]
    assert main(["quantize", *words, "--output", str(tmp_path / "q"), "--nsamples", "5000"]) == 0
    said = capsys.readouterr()
    facts = json.loads((tmp_path / "q" / "manifest.json").read_text())
    trained = sum(row["fold"] in (1, 2) for row in synthetic_rows)
    assert facts["calibration_battles"] <= trained and facts["rows"] == len(synthetic_rows) - trained
    assert "gate:" not in said.out and f"fill {facts['calibration_rows']} rows of 128 tokens" in said.err
    spec = read_spec(judge)
    write_spec(judge, replace(spec, training={**spec.training, "folds_seen": [0, 1, 2]}))
    assert main(["quantize", *words, "--output", str(tmp_path / "all"), "--nsamples", "8"]) == 0
    write_spec(judge, spec)
    said = capsys.readouterr()
    facts = json.loads((tmp_path / "all" / "manifest.json").read_text())
    assert facts["rows"] == len(synthetic_rows) - facts["calibration_battles"] and "--nsamples" not in said.err
    assert f"gate: {facts['rows']} of {facts['rows']} battles are in folds that the judge was trained on" in said.out


def test_gptqs_form_holds_the_same_numbers_as_auto_rounds_own(judge, synthetic_rows, synthetic_file, tmp_path):
    for form in ("auto_round", "auto_gptq"):
        assert (
            quantize(judge, synthetic_file, tmp_path / form, "--scheme", "W8A16", "--format", form, "--gate", "0") == 0
        )
    stored = json.loads((tmp_path / "auto_gptq" / "config.json").read_text())["quantization_config"]
    assert stored["quant_method"] == "gptq"
    own, gptq = (load_file(tmp_path / form / "model.safetensors") for form in ("auto_round", "auto_gptq"))
    packed = [name for name in own if name.endswith("qweight")]
    assert len(packed) == 14 and all(own[name].equal(gptq[name]) for name in packed)
    one, other = (probabilities(tmp_path / form, synthetic_rows[:8]) for form in ("auto_round", "auto_gptq"))
    np.testing.assert_allclose(one, other, atol=5e-3)  # scales are stored in half precision there


def test_a_ladder_ends_on_the_smallest_copy_that_is_no_worse_or_on_none(judge, synthetic_file, tmp_path, capsys):
    (tmp_path / "ladder.yaml").write_text(LADDER)
    words = ["--ladder", str(tmp_path / "ladder.yaml"), "--margin"]
    assert quantize(judge, synthetic_file, tmp_path / "q", *words, "0.2") == 0
    said = capsys.readouterr().out
    assert "four bits: the cheapest that is no worse by 0.2" in said and "rows/s" in said
    assert read_spec(tmp_path / "q").training["quantized"]["scheme"] == "NF4"
    table = json.loads((tmp_path / "q.ladder" / "ladder.json").read_text())["cells"]
    sizes = [table[name]["costs"]["megabytes"] for name in ("unquantised", "eight bits", "four bits")]
    assert sizes == sorted(sizes, reverse=True)
    worst = {name: table[name]["difference"]["high"] for name in ("eight bits", "four bits")}
    assert worst["eight bits"] < worst["four bits"] < 0.2

    between = (worst["eight bits"] + worst["four bits"]) / 2  # nothing is run again: the rungs are done
    assert quantize(judge, synthetic_file, tmp_path / "q", *words, str(between)) == 0
    assert read_spec(tmp_path / "q").training["quantized"]["scheme"] == "W8A16"
    assert quantize(judge, synthetic_file, tmp_path / "none", *words, "-1") == 3
    assert "None of 2 settings is certainly no worse" in capsys.readouterr().err and not (tmp_path / "none").exists()
