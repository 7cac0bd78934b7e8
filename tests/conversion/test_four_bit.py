"""Adapters of 4-bit and 8-bit bases: read and merged as the numbers that they learnt on."""

import json
import sys

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from helpers.merging import add_adapter, differences, edit, judge_of, merge, refuses, stored
from helpers.training_runs import losses, trained_models
from sft_judge.inference.engines import open_engine
from sft_judge.modeling.bnb import settings_of
from sft_judge.modeling.judge_spec import read_spec, write_spec
from sft_judge.modeling.loading import base_of, load_model

unit, engine = pytest.mark.unit, pytest.mark.engine


@pytest.fixture
def on_4_bits(train, bases, monkeypatch):
    """A judge trained for some steps on the base in 4 bits, and the model that its trainer had at the end."""
    pytest.importorskip("bitsandbytes")
    kept = trained_models(monkeypatch)
    settings = {"load_in_4bit": "true", "use_bnb_nested_quant": "true", "dtype": "bfloat16", "learning_rate": "1e-2"}
    return train("trained", **settings), kept


@engine
def test_an_adapter_of_a_4_bit_base_is_merged_into_the_weights_that_it_learnt_on(
    on_4_bits, bases, synthetic_file, tmp_path, capsys
):
    """Against the trainer's own layers, read back by bitsandbytes; --onto plain against PEFT on the base as stored."""
    import bitsandbytes

    adapter, [trainers] = on_4_bits
    assert merge(adapter, output=tmp_path / "merged", battles=synthetic_file) == 0
    assert "adapter against merged (bfloat16)" in capsys.readouterr().out
    merged, base = stored(tmp_path / "merged"), stored(bases["qwen2"])
    layers = {
        name.removeprefix("base_model.model.").removesuffix(".base_layer"): module
        for name, module in trainers.named_modules()
        if isinstance(module, bitsandbytes.nn.Linear4bit) and name.endswith("base_layer")
    }
    factors = load_file(adapter / "adapter_model.safetensors")
    for name, layer in layers.items():
        values = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
        up, down = (factors[f"base_model.model.{name}.lora_{side}.weight"].float() for side in "BA")
        torch.testing.assert_close(merged[f"{name}.weight"], values + 8 * (up @ down), atol=1e-6, rtol=1e-5)
        assert (values - base[f"{name}.weight"]).abs().max() > 1e-3
    assert len(layers) == 14
    for name in base.keys() - {f"{name}.weight" for name in layers}:
        assert torch.equal(merged[name], base[name])
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())
    assert read_spec(tmp_path / "merged").training["merged_onto"] == "trained"

    assert merge(adapter, output=tmp_path / "plain", onto="plain", battles=synthetic_file) == 0
    load_model(str(adapter)).merge_and_unload().save_pretrained(tmp_path / "by-peft")
    assert not differences(tmp_path / "plain", tmp_path / "by-peft")
    assert differences(tmp_path / "plain", tmp_path / "merged") == {f"{name}.weight" for name in layers}


@engine
def test_an_adapter_of_a_4_bit_base_is_read_on_one_by_every_stage(on_4_bits):
    """Else a teacher's labels would be those of another model than was trained."""
    import bitsandbytes

    adapter, _ = on_4_bits
    for onto, layers in (("trained", 14), ("plain", 0)):
        with open_engine("transformers", str(adapter), read_spec(adapter), onto=onto) as engine:
            kinds = [module for module in engine.model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
            assert len([each for each in kinds if not hasattr(each, "lora_A")]) == layers
            assert engine.score([[5, 6, 7]]).shape == (1, 3)


@pytest.fixture
def packing_cpu():
    """A CPU for which bitsandbytes packs 4-bit weights at the first forward in evaluation."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    if torch.cuda.is_available() or not bitsandbytes.functional.has_avx512bf16():
        pytest.skip("not a CPU with AVX-512 for bfloat16, for which bitsandbytes packs weights")


DORA_SETTINGS = {"load_in_4bit": "true", "use_dora": "true", "dtype": "bfloat16", "learning_rate": "2e-2"}


@engine
def test_dora_on_4_bits_in_bfloat16_takes_its_norms_of_the_weights_and_not_of_packed_bytes(packing_cpu, train):
    """Against PEFT and bitsandbytes with the packing turned off by hand."""
    adapter = str(train("dora", **DORA_SETTINGS))
    bits = settings_of(read_spec(adapter).training["loaded_in_4bit"])
    ours = load_model(adapter, "bfloat16", quantization_config=bits)
    base = AutoModelForCausalLM.from_pretrained(base_of(adapter), dtype=torch.bfloat16, quantization_config=bits)
    theirs = PeftModel.from_pretrained(base, adapter).eval()
    for module in theirs.modules():
        module.support_avx512bf16_for_cpu = False
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        for _ in range(2):
            assert torch.equal(ours(tokens).logits, theirs(tokens).logits)


@engine
@pytest.mark.parametrize("use_dora", ["true", "false"])
def test_an_evaluation_between_steps_on_4_bits_changes_no_step_after_it(use_dora, packing_cpu, train):
    settings = {**DORA_SETTINGS, "use_dora": use_dora, "lora_dropout": 0.0, "fold": 0, "max_steps": 4}
    evaluated = train("evaluated", eval_strategy="steps", eval_steps=2, **settings)
    assert losses(evaluated) == losses(train("plain", **settings))


@engine
def test_an_adapter_of_an_8_bit_base_is_read_on_one_and_merged_only_where_that_is_said(train, tmp_path, capsys):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    adapter = train("trained", load_in_8bit="true", dtype="bfloat16", max_steps=1)
    with open_engine("transformers", str(adapter), read_spec(adapter)) as engine:
        assert any(isinstance(module, bitsandbytes.nn.Linear8bitLt) for module in engine.model.modules())
    capsys.readouterr()
    assert merge(adapter, output=tmp_path / "merged") == 2
    assert "--onto plain" in capsys.readouterr().err and not (tmp_path / "merged").exists()
    assert merge(adapter, output=tmp_path / "merged", onto="plain") == 0
    assert read_spec(tmp_path / "merged").training["merged_onto"] == "plain"


@engine
@pytest.mark.parametrize("bias", ["none", "all"])  # by shards, and whole in memory
def test_4_bit_weights_that_are_stored_so_are_merged_as_the_numbers_they_stand_for(bias, bases, judge, tmp_path):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype="bfloat16",
    )
    load_model(str(bases["qwen2"]), "bfloat16", quantization_config=config).save_pretrained(tmp_path / "base")
    adapter = judge_of(add_adapter(tmp_path / "base", tmp_path / "adapter", bias=bias), judge)
    assert merge(adapter, output=tmp_path / "merged") == 0
    numbers = load_model(str(bases["qwen2"]), "bfloat16")
    for name, layer in load_model(str(tmp_path / "base")).named_modules():
        if isinstance(layer, bitsandbytes.nn.Linear4bit):
            values = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            numbers.get_submodule(name).weight.data = values
    numbers.save_pretrained(tmp_path / "numbers")
    edit(adapter / "adapter_config.json", base_model_name_or_path=str(tmp_path / "numbers"))
    load_model(str(adapter)).merge_and_unload().save_pretrained(tmp_path / "whole")
    assert not differences(tmp_path / "merged", tmp_path / "whole")
    assert len(differences(tmp_path / "merged", tmp_path / "numbers")) == 14
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())
    load_model(str(tmp_path / "merged"))


@unit
def test_a_4_bit_base_without_bitsandbytes_names_the_extra(adapters, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    spec = read_spec(adapters[0])
    spec.training["loaded_in_4bit"] = {"dtype": "bfloat16", "quantization_config": {"load_in_4bit": True}}
    write_spec(adapters[0], spec)
    refuses(capsys, adapters[:1], "pip install 'bitsandbytes>=0.50'", tmp_path)
    assert merge(adapters[0], output=tmp_path / "merged", onto="plain") == 0
