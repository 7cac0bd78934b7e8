"""What `merge` refuses, each in a line that names it, with nothing written."""

import json
import shutil

import pytest
from peft import PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from helpers.merging import add_adapter, edit, judge_of, refuses
from sft_judge.modeling.loading import load_model

unit = pytest.mark.unit


@pytest.fixture
def twin(judge, tmp_path):
    """A copy of the judge that a test makes unlike it."""
    return shutil.copytree(judge, tmp_path / "twin")


@unit
@pytest.mark.parametrize(
    "name, value, reason",
    [("rope_parameters", {"rope_theta": 5.0, "rope_type": "default"}, "'rope_parameters.rope_theta' of config.json")],
)
def test_judges_of_unlike_configurations_are_refused_by_the_name_of_the_field(
    name, value, reason, judge, twin, tmp_path, capsys
):
    edit(twin / "config.json", **{name: value})
    refuses(capsys, [judge, twin], reason, tmp_path)


@unit
def test_different_vocabularies_are_refused_in_a_line(judge, twin, tmp_path, capsys):
    size = AutoConfig.from_pretrained(judge).vocab_size
    edit(twin / "config.json", vocab_size=size + 64)
    refuses(capsys, [judge, twin], "different vocabularies cannot be merged", tmp_path)
    edit(twin / "config.json", vocab_size=size)
    weights = load_file(twin / "model.safetensors")
    head = weights["model.embed_tokens.weight"]
    save_file(
        weights | {"model.embed_tokens.weight": head[:-64].clone()}, twin / "model.safetensors", {"format": "pt"}
    )
    refuses(capsys, [judge, twin], f"model.embed_tokens.weight is {list(head.shape)} in", tmp_path)
    save_file({**weights, "more": head.clone()}, twin / "model.safetensors", {"format": "pt"})
    refuses(capsys, [judge, twin], f"more is only in {twin}", tmp_path)


@unit
@pytest.mark.parametrize("what", ["vocabulary", "added tokens", "split", "special tokens", "chat template"])
def test_tokenizers_that_differ_are_refused_by_what_differs(what, judge, twin, tmp_path, capsys):
    judge = shutil.copytree(judge, tmp_path / "judge")
    for folder in (judge, twin):  # a family without a tokenizer of its own, which would take little of the file
        edit(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
        edit(folder / "config.json", model_type="phi3")
    file = twin / "tokenizer.json"
    state = json.loads(file.read_text())
    if what == "vocabulary":
        vocabulary = state["model"]["vocab"]
        one, two = list(vocabulary)[-2:]
        vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    if what == "added tokens":
        state["added_tokens"][0]["lstrip"] = True
    if what == "split":
        state["normalizer"] = {"type": "Lowercase"}
    if what == "special tokens":
        edit(twin / "tokenizer_config.json", eos_token="<|im_start|>")
    if what == "chat template":
        (twin / "chat_template.jinja").write_text("{{ messages }}")
    file.write_text(json.dumps(state))
    refuses(capsys, [judge, twin], what, tmp_path)


@unit
@pytest.mark.parametrize("damage", ["method", "prompt", "file", "shape"])
def test_what_cannot_be_merged_is_refused_in_a_line(damage, sharded_base, judge, tmp_path, capsys):
    own = shutil.copytree(sharded_base, tmp_path / "base")
    adapter = judge_of(add_adapter(own, tmp_path / "adapter"), judge)
    if damage == "method":
        edit(own / "config.json", quantization_config={"quant_method": "auto-round", "bits": 4})
        refuses(capsys, [adapter], "is quantised (auto-round)", tmp_path)
    if damage == "prompt":
        model = get_peft_model(load_model(str(own)), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
        model.save_pretrained(adapter)
        refuses(capsys, [adapter], "cannot be merged", tmp_path)
    if damage == "file":
        next(own.glob("model-00002*")).unlink()
        refuses(capsys, [adapter], "model-00002", tmp_path)
    if damage == "shape":
        index = json.loads((own / SAFE_WEIGHTS_INDEX_NAME).read_text())["weight_map"]
        name = "model.layers.0.mlp.up_proj.weight"
        weights = load_file(own / index[name])
        save_file(weights | {name: weights[name][:-1].clone()}, own / index[name], {"format": "pt"})
        refuses(capsys, [adapter], f"{name} is [127, 64], but", tmp_path)


@unit
def test_battles_for_an_average_are_refused(adapters, synthetic_file, tmp_path, capsys):
    refuses(capsys, adapters, "--battles compares one adapter", tmp_path, battles=synthetic_file)
