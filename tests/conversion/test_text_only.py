"""A judge of a class that also sees images: what `merge` leaves of it, and who asks for that."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, Gemma3ForCausalLM, Gemma3ForConditionalGeneration
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from helpers.merging import add_adapter, judge_of, merge, stored, tiny_model
from sft_judge.cli import main
from sft_judge.conversion.text_only import find_text_only
from sft_judge.conversion.weight_files import WeightFiles
from sft_judge.inference.engines.vllm_engine import PROCESSOR, why_not
from sft_judge.modeling.loading import load_config, load_model
from sft_judge.modeling.tiny_models import perturb_weights

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module", params=[True, False], ids=["tied head", "head of its own"])
def seeing(request, judge, tmp_path_factory):
    """A base of Gemma-3's class with an image tower, in several files, with the judge's tokenizer."""
    torch.manual_seed(0)
    model = tiny_model("gemma3", torch.float32, tie_word_embeddings=request.param)
    model.resize_token_embeddings(AutoConfig.from_pretrained(judge).vocab_size)
    assert isinstance(model, Gemma3ForConditionalGeneration)
    folder = tmp_path_factory.mktemp("seeing") / "base"
    model.save_pretrained(folder, max_shard_size="300KB")
    assert ("language_model.lm_head.weight" in stored(folder)) != request.param
    return folder


def logits(folder) -> torch.Tensor:
    torch.manual_seed(1)
    model = load_model(str(folder), "float32")
    ids = torch.randint(0, model.config.get_text_config().vocab_size, (3, 90))  # beyond the sliding window of 64
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def test_a_merged_judge_is_of_the_texts_own_class_and_says_the_same(seeing, judge, tmp_path, capsys):
    adapter = judge_of(add_adapter(seeing, tmp_path / "adapter", target_modules=["q_proj", "down_proj"]), judge)
    assert merge(adapter, output=tmp_path / "merged") == 0
    assert "Gemma3ForCausalLM, without the image modules" in capsys.readouterr().out
    load_model(str(adapter)).merge_and_unload().save_pretrained(tmp_path / "whole")
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"), Gemma3ForCausalLM)
    assert torch.equal(logits(tmp_path / "merged"), logits(tmp_path / "whole"))
    assert not torch.equal(logits(tmp_path / "merged"), logits(seeing))


def test_its_files_hold_the_text_alone_with_a_right_index(seeing, judge, tmp_path):
    adapter = judge_of(add_adapter(seeing, tmp_path / "adapter", target_modules=["q_proj"]), judge)
    assert merge(adapter, output=tmp_path / "merged") == 0
    index = json.loads((tmp_path / "merged" / SAFE_WEIGHTS_INDEX_NAME).read_text())
    weights = stored(tmp_path / "merged")
    assert index["weight_map"].keys() == weights.keys() and not any("vision" in name for name in weights)
    assert index["metadata"]["total_size"] == sum(weight.nbytes for weight in weights.values())
    for name, file in index["weight_map"].items():
        assert name in load_file(tmp_path / "merged" / file)
    own_head = weights.pop("lm_head.weight", None)
    whole = load_model(str(adapter)).merge_and_unload()
    assert own_head is None or torch.equal(own_head, whole.get_output_embeddings().weight)
    by_hand = whole.model.language_model.state_dict()
    assert weights.keys() == {f"model.{name}" for name in by_hand}
    assert all(torch.equal(weights[f"model.{name}"], weight) for name, weight in by_hand.items())


def test_whole_judges_of_such_a_class_are_averaged_in_the_texts_class(seeing, judge, tmp_path):
    torch.manual_seed(5)
    other = load_model(str(seeing))
    perturb_weights(other, 0.1)
    other.save_pretrained(tmp_path / "other", max_shard_size="300KB")
    load_model(str(seeing)).save_pretrained(tmp_path / "one")
    judges = [judge_of(tmp_path / name, judge) for name in ("one", "other")]
    assert merge(*judges, output=tmp_path / "merged", weights="0.25,0.75") == 0
    one, two = (load_model(str(folder)).model.language_model.state_dict() for folder in judges)
    merged = stored(tmp_path / "merged")
    assert merged.keys() - {"lm_head.weight"} == {f"model.{name}" for name in one}
    for name, weight in one.items():
        torch.testing.assert_close(merged[f"model.{name}"], 0.25 * weight + 0.75 * two[name])


def test_a_model_of_text_alone_has_no_such_part(judge):
    assert find_text_only(load_config(str(judge)), WeightFiles(str(judge))) is None


def test_quantize_and_vllm_say_that_merge_makes_what_they_take(seeing, judge, tmp_path, capsys):
    load_model(str(seeing)).save_pretrained(tmp_path / "judge")
    whole = judge_of(tmp_path / "judge", judge)
    battles = tmp_path / "battles.parquet"
    assert main(["plant", "--rows", "40", "--test-rows", "1", "--output", str(tmp_path / "planted")]) == 0
    assert main(["import", str(tmp_path / "planted" / "train.csv"), "--output", str(battles)]) == 0
    words = ["quantize", "--model", str(whole), "--battles", str(battles), "--seqlen", "64", "--nsamples", "8"]
    assert main([*words, "--output", str(tmp_path / "four-bit")]) == 2
    error = capsys.readouterr().err
    assert "is multimodal" in error and f"sft-judge merge {whole}" in error and "Traceback" not in error
    assert "sft-judge merge" in why_not(str(whole))
    assert merge(whole, output=tmp_path / "merged") == 0
    assert "images" not in (why_not(str(tmp_path / "merged")) or "")
    (whole / PROCESSOR).write_text("{}")  # the family's own, beside an untrained judge
    assert "images" not in (why_not(str(whole)) or "")
