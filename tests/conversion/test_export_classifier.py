"""A judge as a classifier: the same probabilities, in transformers' own pipeline too; what has no such form."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, pipeline

from helpers.judges import make_judge
from helpers.merging import tiny_model
from sft_judge.cli import main
from sft_judge.core.swap_orders import ORDERS
from sft_judge.inference.engines import open_engine
from sft_judge.inference.scoring import score_battles
from sft_judge.modeling.judge_spec import read_spec
from sft_judge.modeling.loading import load_model, load_tokenizer
from sft_judge.modeling.logit_scale import scale_after_head
from sft_judge.modeling.tiny_models import perturb_weights
from sft_judge.modeling.tiny_tokenizers import tokenizer_of
from sft_judge.prompts.prompt import JudgePrompt

unit = pytest.mark.unit


def export(model, output, **options) -> int:
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return main(["export", "--model", str(model), "--output", str(output), *words])


@pytest.fixture(scope="module")
def exported(judge, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "classifier"
    assert export(judge, folder) == 0
    return folder


@unit
def test_a_classifier_is_its_judge_for_the_engine_and_for_the_plain_pipeline(exported, judge, synthetic_rows):
    """The pipeline tokenises texts by itself: those whose tokens are the judge's are compared."""
    spec, tokenizer, rows = read_spec(judge), load_tokenizer(str(judge)), synthetic_rows[:40]
    prompt = JudgePrompt.of(tokenizer, spec)
    scores = []
    for folder in (judge, exported):
        with open_engine("transformers", str(folder), read_spec(folder)) as engine:
            scores.append(np.exp(score_battles(engine, prompt, rows, ORDERS)))
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-6)
    assert scores[0].std(axis=0).min() > 5e-3

    classify = pipeline("text-classification", model=str(exported), top_k=None)
    compared = 0
    for row, shown, expected in zip(rows, prompt.encode(rows, ORDERS), scores[0], strict=True):
        text = tokenizer.decode(shown[0])
        if tokenizer(text, add_special_tokens=False)["input_ids"] != shown[0]:
            continue
        said = {each["label"]: each["score"] for each in classify([text], add_special_tokens=False)[0]}
        assert [said[name] for name in ("a", "b", "tie")] == pytest.approx(expected[0], abs=1e-5), row["id"]
        compared += 1
    assert compared >= 8


@unit
@pytest.mark.parametrize("scaling", [1.0, 8.0])
def test_a_logit_scale_is_found_and_a_soft_cap_is_told_from_it(scaling):
    tokenizer = tokenizer_of("llama3")
    granite = AutoConfig.for_model("granite", logits_scaling=scaling, vocab_size=512)
    assert scale_after_head(granite, tokenizer) == pytest.approx(1 / scaling, rel=1e-5)
    for cap in (None, 30.0):
        gemma = AutoConfig.for_model("gemma2", final_logit_softcapping=cap, vocab_size=512)
        assert scale_after_head(gemma, tokenizer) == (1.0 if cap is None else None)
    assert scale_after_head(AutoConfig.for_model("phi", vocab_size=512), tokenizer) is None  # its head has a bias


@unit
@pytest.mark.parametrize("family", ["qwen3", "llama", "mistral", "phi3", "gemma3", "qwen3_moe"])
def test_families_with_a_sequence_classification_form_have_the_same_probabilities(family, judge, tmp_path):
    """gemma3 has an image tower; the gate of `export` compares on synthetic battles."""
    torch.manual_seed(3)
    model = tiny_model(family, torch.float32, vocab_size=AutoConfig.from_pretrained(judge).vocab_size)
    model.resize_token_embeddings(AutoConfig.from_pretrained(judge).vocab_size)
    perturb_weights(model)
    model.save_pretrained(tmp_path / "base")
    whole = tmp_path / "judge"
    shutil.copytree(judge, whole, ignore=shutil.ignore_patterns("model*", "config.json", "generation_config.json"))
    for file in (tmp_path / "base").iterdir():
        shutil.copy(file, whole)
    assert export(whole, tmp_path / "classifier", limit=8) == 0
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "classifier")
    assert classifier.config.id2label == {0: "a", 1: "b", 2: "tie"}
    head = load_model(str(whole)).get_output_embeddings().weight
    assert torch.equal(classifier.score.weight, head[read_spec(whole).verdict_ids])


@unit
def test_what_has_no_such_form_is_refused_in_a_line(bases, exported, tmp_path, capsys):
    gemma = make_judge(tmp_path / "gemma", bases["gemma2"])
    adapter = make_judge(tmp_path / "adapter", bases["qwen2"], adapter=True)
    quantised = make_judge(tmp_path / "quantised", bases["qwen2"])
    config = json.loads((quantised / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "auto-round", "bits": 4}
    (quantised / "config.json").write_text(json.dumps(config))
    reasons = {gemma: "a soft-cap", adapter: "sft-judge merge", quantised: "is quantised", exported: "is a classifier"}
    for folder, reason in reasons.items():
        capsys.readouterr()
        assert export(folder, tmp_path / "out") == 2
        error = capsys.readouterr().err
        assert reason in error and len(error.strip().splitlines()) == 1 and not (tmp_path / "out").exists()
