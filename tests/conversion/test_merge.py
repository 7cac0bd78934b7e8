"""
Merged weights against PEFT's in memory and against averages by hand; the files they come in.

The tiny models are random, of each family that a recipe names, and adapters are random too.
"""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from helpers.judges import naive
from helpers.merging import add_adapter, differences, forget, judge_of, merge, refuses, stored, tiny_model
from sft_judge.conversion import weight_files
from sft_judge.conversion.merge_adapter import AdapterByShards, NotByShards
from sft_judge.conversion.weight_files import WeightFiles, write_shards
from sft_judge.modeling.judge_spec import read_spec
from sft_judge.modeling.loading import load_model
from sft_judge.modeling.tiny_models import perturb_weights

unit = pytest.mark.unit
KINDS = {
    "LoRA": {},
    "rsLoRA": {"use_rslora": True, "r": 8, "rank_pattern": {"o_proj": 3}, "alpha_pattern": {"down_proj": 5}},
    "DoRA": {"use_dora": True},
}
ATTENTION = {"target_modules": ["q_proj", "o_proj"]}
# all-linear of a mixture of experts takes the experts too, which are stored otherwise than they are loaded
CASES = [(family, kind, {}) for family in ("qwen2", "gemma2", "llama", "phi3", "gemma3") for kind in KINDS]
CASES += [("qwen3_moe", "LoRA", ATTENTION), ("qwen3_moe", "DoRA", ATTENTION)]
CASES += [("llama", "LoRA", {"modules_to_save": ["lm_head"]}), ("llama", "LoRA", {"target_modules": ["embed_tokens"]})]


# An adapter into its base


@unit
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family, kind, more", CASES)
def test_merged_by_shards_is_pefts_merge_to_the_bit(family, kind, more, dtype, tmp_path):
    torch.manual_seed(0)
    tiny_model(family, dtype).save_pretrained(tmp_path / "base", max_shard_size="100KB")
    adapter = add_adapter(tmp_path / "base", tmp_path / "adapter", **KINDS[kind], **more)
    load_model(str(adapter)).merge_and_unload().save_pretrained(tmp_path / "whole")
    files = WeightFiles(str(tmp_path / "base"))
    by_shards = AdapterByShards(str(adapter), files)
    (tmp_path / "merged").mkdir()
    write_shards(files, tmp_path / "merged", lambda name: by_shards.merge(name, files.read(name)))
    assert len(files.shards()) > 1 and not differences(tmp_path / "merged", tmp_path / "whole")
    changed = differences(tmp_path / "merged", tmp_path / "base")
    assert len(changed) == len(by_shards.layers) + len(by_shards.replaced) > 0


@unit
def test_a_merged_judges_files_are_its_bases_with_a_right_index(adapters, sharded_base, tmp_path):
    assert merge(adapters[0], output=tmp_path / "merged") == 0
    index, old = (
        json.loads((folder / SAFE_WEIGHTS_INDEX_NAME).read_text()) for folder in (tmp_path / "merged", sharded_base)
    )
    assert index == {"metadata": {"total_size": old["metadata"]["total_size"]}, "weight_map": old["weight_map"]}
    assert len(set(index["weight_map"].values())) > 1 and "lm_head.weight" not in index["weight_map"]  # tied
    for name, file in index["weight_map"].items():
        assert name in load_file(tmp_path / "merged" / file)
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "merged" / name).read_text()) == json.loads((sharded_base / name).read_text())
    spec = read_spec(tmp_path / "merged")
    assert spec.calibration is None and spec.training["folds_seen"] == [0]
    load_model(str(tmp_path / "merged"))


@unit
@pytest.mark.parametrize(
    "family, tied, settings, why",
    [
        ("qwen3_moe", False, {}, "target_parameters"),
        ("qwen2", True, {"modules_to_save": ["lm_head"], "ensure_weight_tying": True}, "tied to the head"),
        ("qwen2", False, {"bias": "all"}, "trained biases"),
        ("qwen2", False, {"init_lora_weights": "pissa"}, "its initialisation pissa"),
    ],
)
def test_what_cannot_be_merged_by_shards_is_merged_whole_as_peft_does(
    family, tied, settings, why, judge, tmp_path, capfd
):
    torch.manual_seed(0)
    vocabulary = AutoConfig.from_pretrained(judge).vocab_size
    model = tiny_model(family, torch.float32, tie_word_embeddings=tied)
    model.resize_token_embeddings(vocabulary)
    model.save_pretrained(tmp_path / "base")
    adapter = add_adapter(tmp_path / "base", tmp_path / "adapter", **settings)
    with pytest.raises(NotByShards, match=why):
        AdapterByShards(str(adapter), WeightFiles(str(tmp_path / "base")))
    load_model(str(adapter)).merge_and_unload().save_pretrained(tmp_path / "whole")
    assert merge(judge_of(adapter, judge), output=tmp_path / "merged") == 0
    assert why in capfd.readouterr().err
    assert not differences(tmp_path / "merged", tmp_path / "whole")
    tie = [AutoConfig.from_pretrained(tmp_path / name).tie_word_embeddings for name in ("merged", "whole")]
    assert tie[0] == tie[1]


TIED = {
    "head": {"target_modules": ["lm_head", "q_proj"]},
    "embeddings": {"target_modules": ["embed_tokens", "q_proj"]},
    "both": {"target_modules": ["embed_tokens", "lm_head"]},
    "saved head": {"modules_to_save": ["lm_head"]},
    "saved embeddings": {"modules_to_save": ["embed_tokens"]},
}


@unit
@pytest.mark.parametrize("settings", TIED.values(), ids=TIED)
def test_an_adapter_on_one_of_two_tied_weights_leaves_the_other_as_it_is(
    settings, base, each_judge, synthetic_rows, tmp_path, capfd
):
    assert AutoConfig.from_pretrained(base).tie_word_embeddings
    adapter = judge_of(add_adapter(base, tmp_path / "adapter", **settings), each_judge)
    forget(adapter / "judge.json", "parts", "base")
    assert merge(adapter, output=tmp_path / "merged") == 0
    assert "tie_word_embeddings is false" in capfd.readouterr().err
    np.testing.assert_allclose(
        naive(tmp_path / "merged", synthetic_rows[:4]), naive(adapter, synthetic_rows[:4]), atol=1e-4
    )
    assert not AutoConfig.from_pretrained(tmp_path / "merged").tie_word_embeddings
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= stored(tmp_path / "merged").keys()


@unit
@pytest.mark.parametrize(
    "settings", [{"trainable_token_indices": [5, 6]}, {"ensure_weight_tying": True, **TIED["head"]}, {"bias": "all"}]
)
def test_tied_weights_that_an_adapter_leaves_equal_stay_tied(settings, bases, judge, tmp_path):
    adapter = judge_of(add_adapter(bases["qwen2"], tmp_path / "adapter", **settings), judge)
    forget(adapter / "judge.json", "parts", "base")
    assert merge(adapter, output=tmp_path / "merged") == 0
    assert AutoConfig.from_pretrained(tmp_path / "merged").tie_word_embeddings
    assert "lm_head.weight" not in stored(tmp_path / "merged")


@unit
def test_biases_of_an_adapter_for_layers_without_one_are_refused(bases, judge, tmp_path, capfd):
    adapter = judge_of(add_adapter(bases["qwen2"], tmp_path / "adapter", lora_bias=True), judge)
    forget(adapter / "judge.json", "parts", "base")
    refuses(
        capfd, [adapter], "it has lora_bias, but model.layers.0.self_attn.o_proj of its base has no bias", tmp_path
    )


@unit
def test_an_interrupted_merge_leaves_nothing(adapters, tmp_path, monkeypatch, capsys):
    written, save = [], weight_files.save_file

    def interrupted(tensors, file, **options):
        if written:
            raise KeyboardInterrupt
        written.append(file)
        save(tensors, file, **options)

    monkeypatch.setattr(weight_files, "save_file", interrupted)
    before = sorted(tmp_path.rglob("*"))
    assert merge(adapters[0], output=tmp_path / "merged") == 130
    assert written and sorted(tmp_path.rglob("*")) == before


# Averages


@unit
def test_one_whole_judge_is_itself_to_the_bit(sharded_base, judge, tmp_path):
    whole = judge_of(shutil.copytree(sharded_base, tmp_path / "whole"), judge)
    assert merge(whole, output=tmp_path / "merged", weights="1") == 0
    assert merge(whole, whole, output=tmp_path / "twice", weights="0.3,0.7") == 0
    assert merge(judge, judge, output=tmp_path / "in-float32", weights="0.3,0.7") == 0
    assert not differences(tmp_path / "in-float32", judge)
    for folder in (tmp_path / "merged", tmp_path / "twice"):
        assert not differences(folder, whole)
        assert {file.name for file in folder.glob("*.safetensors*")} == {
            file.name for file in whole.glob("*.safetensors*")
        }


@unit
def test_adapters_of_one_base_are_averaged_as_the_products_they_add(adapters, sharded_base, tmp_path):
    """A second computation: each merged by PEFT in memory in float32, then the mean, rounded once."""
    assert merge(*adapters, output=tmp_path / "merged", weights="0.3,0.7") == 0
    wholes = [load_model(str(adapter), "float32").merge_and_unload().state_dict() for adapter in adapters]
    merged, before = stored(tmp_path / "merged"), stored(sharded_base)
    for name, weight in merged.items():
        mean = 0.3 * wholes[0][name].double() + 0.7 * wholes[1][name].double()
        assert weight.dtype == before[name].dtype
        torch.testing.assert_close(weight.double(), mean, atol=1e-6, rtol=2**-8)  # half a step of bfloat16
        if "proj.weight" not in name:
            assert torch.equal(weight, before[name])


@unit
def test_the_mean_of_factors_is_not_that_of_products(sharded_base, judge, tmp_path):
    """Two seeds of one adapter: the mean of the factors keeps half of each product, and adds what neither has."""
    folders = [judge_of(add_adapter(sharded_base, tmp_path / str(seed), seed), judge) for seed in range(2)]
    assert merge(*folders, output=tmp_path / "merged") == 0
    merged, before = stored(tmp_path / "merged"), stored(sharded_base)
    one, two = (load_file(folder / "adapter_model.safetensors") for folder in folders)
    ratios = []
    for name in one:
        if "lora_A" not in name:
            continue
        own = name.removeprefix("base_model.model.").replace("lora_A.", "")
        other = name.replace("lora_A", "lora_B")
        products = 1.5 * (one[other] @ one[name] + two[other] @ two[name]) / 2
        factors = 1.5 * (one[other] + two[other]) / 2 @ ((one[name] + two[name]) / 2)
        added = merged[own].float() - before[own].float()
        torch.testing.assert_close(added, products, atol=2e-2, rtol=1e-1)  # of a bfloat16 base
        ratios.append(float((factors - products).norm() / products.norm()))
    print(f"|factors - products| / |products|: {np.mean(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]")
    assert min(ratios) > 0.5


@unit
def test_adapters_on_two_bases_are_each_merged_into_their_own(sharded_base, judge, tmp_path):
    torch.manual_seed(7)
    other = load_model(str(sharded_base))
    perturb_weights(other, 0.1)
    other.save_pretrained(tmp_path / "other", max_shard_size="70KB")  # in other files, too
    folders = [
        judge_of(add_adapter(folder, tmp_path / f"on-{folder.name}", 3), judge)
        for folder in (sharded_base, tmp_path / "other")
    ]
    assert merge(*folders, output=tmp_path / "merged", weights="0.5,0.5") == 0
    wholes = [load_model(str(folder), "float32").merge_and_unload().state_dict() for folder in folders]
    for name, weight in stored(tmp_path / "merged").items():
        mean = (wholes[0][name] + wholes[1][name]) / 2
        torch.testing.assert_close(weight.float(), mean, atol=1e-6, rtol=2**-8)


@unit
def test_a_judge_whole_and_one_by_an_adapter_are_averaged(adapters, sharded_base, judge, tmp_path, capfd):
    """An adapter that is merged whole in memory takes its place too."""
    whole = judge_of(shutil.copytree(sharded_base, tmp_path / "whole"), judge)
    biased = judge_of(add_adapter(sharded_base, tmp_path / "biased", 4, bias="all"), judge)
    assert merge(whole, adapters[0], biased, output=tmp_path / "merged", weights="0.25,0.25,0.5") == 0
    assert "base is loaded into memory" in capfd.readouterr().err
    each = [
        load_model(str(whole), "float32"),
        *(load_model(str(each), "float32") for each in (adapters[0], biased)),
    ]
    one, two, three = (getattr(model, "merge_and_unload", lambda model=model: model)().state_dict() for model in each)
    for name, weight in stored(tmp_path / "merged").items():
        mean = 0.25 * one[name] + 0.25 * two[name] + 0.5 * three[name]
        torch.testing.assert_close(weight.float(), mean, atol=2**-9 * float(three[name].abs().max()), rtol=2**-8)
