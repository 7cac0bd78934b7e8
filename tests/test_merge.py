"""
Merged weights against PEFT's in memory and against averages by hand; the files they come in; what is refused.

The tiny models are random, of each family that a recipe names, and adapters are random too.
"""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from test_predict import make_judge
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from sft_judge import weight_files
from sft_judge.architectures import KNOWN
from sft_judge.cli import main
from sft_judge.engines import open_engine
from sft_judge.families import tokenizer_of
from sft_judge.merge_adapter import AdapterByShards, NotByShards
from sft_judge.models import load_model
from sft_judge.shrink import shrink_config
from sft_judge.spec import read_spec, write_spec
from sft_judge.weight_files import WeightFiles, write_shards

unit, engine = pytest.mark.unit, pytest.mark.engine
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


def tiny_model(family: str, dtype: torch.dtype = torch.bfloat16, **sizes):
    """A random model with the features of the family."""
    sizes = next((known.sizes for known in KNOWN.values() if known.model_type == family), {}) | sizes
    return AutoModelForCausalLM.from_config(
        shrink_config(AutoConfig.for_model(family, **sizes), tokenizer_of("llama3")), dtype=dtype
    )


def add_adapter(base, folder, seed=0, **settings):
    """A random adapter on the model in the folder `base`; every factor and magnitude is away from its start."""
    torch.manual_seed(seed)
    whole = {"r": 4, "lora_alpha": 6, "target_modules": "all-linear", "init_lora_weights": False, **settings}
    model = get_peft_model(load_model(str(base)), LoraConfig(**whole))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "magnitude" in name or "modules_to_save" in name:
                weight.mul_(1 + torch.rand_like(weight))
    model.save_pretrained(folder)
    return folder


def stored(folder) -> dict[str, torch.Tensor]:
    return {name: weight for file in folder.glob("*.safetensors") for name, weight in load_file(file).items()}


def differences(one, other) -> set[str]:
    """The names whose tensors are not the same to the bit."""
    one, other = stored(one), stored(other)
    return {name for name in one.keys() | other.keys() if not torch.equal(one[name], other[name])}


def judge_of(folder, judge):
    """The files that make `folder` a judge, as those of `judge`."""
    for file in judge.iterdir():
        if "model" not in file.name and file.name not in ("config.json", "generation_config.json"):
            shutil.copy(file, folder)
    return folder


def merge(*models, output, **options) -> int:
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return main(["merge", *map(str, models), "--output", str(output), *words])


def refuses(capsys, models, reason, tmp_path, **options):
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    assert merge(*models, output=tmp_path / "merged", **options) == 2
    error = capsys.readouterr().err
    assert reason in error and sum(line.startswith("sft-judge:") for line in error.splitlines()) == 1
    assert "Traceback" not in error and sorted(tmp_path.rglob("*")) == before


@pytest.fixture(scope="module")
def judge(bases, tmp_path_factory):
    """A whole judge of random weights."""
    return make_judge(tmp_path_factory.mktemp("judge") / "judge", bases["qwen2"], folds_seen=[0])


@pytest.fixture(scope="module")
def base(judge, tmp_path_factory):
    """Its weights in several files and in half precision, as a base."""
    folder = tmp_path_factory.mktemp("base") / "base"
    load_model(str(judge), "bfloat16").save_pretrained(folder, max_shard_size="100KB")
    return folder


@pytest.fixture
def adapters(base, judge, tmp_path):
    """Two judges that are adapters on one base: LoRA, and DoRA with its own rank."""
    folders = [
        add_adapter(base, tmp_path / "one", 1),
        add_adapter(base, tmp_path / "two", 2, use_dora=True, r=3),
    ]
    return [judge_of(folder, judge) for folder in folders]


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
def test_a_merged_judges_files_are_its_bases_with_a_right_index(adapters, base, tmp_path):
    assert merge(adapters[0], output=tmp_path / "merged") == 0
    index, old = (json.loads((folder / SAFE_WEIGHTS_INDEX_NAME).read_text()) for folder in (tmp_path / "merged", base))
    assert index == {"metadata": {"total_size": old["metadata"]["total_size"]}, "weight_map": old["weight_map"]}
    assert len(set(index["weight_map"].values())) > 1 and "lm_head.weight" not in index["weight_map"]  # tied
    for name, file in index["weight_map"].items():
        assert name in load_file(tmp_path / "merged" / file)
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "merged" / name).read_text()) == json.loads((base / name).read_text())
    spec = read_spec(tmp_path / "merged")
    assert spec.calibration is None and spec.training["folds_seen"] == [0]
    load_model(str(tmp_path / "merged"))


@unit
@pytest.mark.parametrize(
    "family, tied, settings, why",
    [
        ("qwen3_moe", False, {}, "target_parameters"),
        ("qwen2", True, {"modules_to_save": ["lm_head"]}, "tied to the head"),
        ("qwen2", True, {"target_modules": ["embed_tokens", "q_proj"]}, "tied to the head"),
        ("qwen2", False, {"bias": "all"}, "trained biases"),
        ("qwen2", False, {"init_lora_weights": "pissa"}, "its start, pissa"),
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
def test_one_whole_judge_is_itself_to_the_bit(base, judge, tmp_path):
    whole = judge_of(shutil.copytree(base, tmp_path / "whole"), judge)
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
def test_adapters_of_one_base_are_averaged_as_the_products_they_add(adapters, base, tmp_path):
    """A second computation: each merged by PEFT in memory in float32, then the mean, rounded once."""
    assert merge(*adapters, output=tmp_path / "merged", weights="0.3,0.7") == 0
    wholes = [load_model(str(adapter), "float32").merge_and_unload().state_dict() for adapter in adapters]
    merged, before = stored(tmp_path / "merged"), stored(base)
    for name, weight in merged.items():
        mean = 0.3 * wholes[0][name].double() + 0.7 * wholes[1][name].double()
        assert weight.dtype == before[name].dtype
        torch.testing.assert_close(weight.double(), mean, atol=1e-6, rtol=2**-8)  # half a step of bfloat16
        if "proj.weight" not in name:
            assert torch.equal(weight, before[name])


@unit
def test_the_mean_of_factors_is_not_that_of_products(base, judge, tmp_path):
    """Two seeds of one adapter: the mean of the factors keeps half of each product, and adds what neither has."""
    folders = [judge_of(add_adapter(base, tmp_path / str(seed), seed), judge) for seed in range(2)]
    assert merge(*folders, output=tmp_path / "merged") == 0
    merged, before = stored(tmp_path / "merged"), stored(base)
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
def test_adapters_on_two_bases_are_each_merged_into_their_own(base, judge, tmp_path):
    torch.manual_seed(7)
    other = load_model(str(base))
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    other.save_pretrained(tmp_path / "other", max_shard_size="70KB")  # in other files, too
    folders = [
        judge_of(add_adapter(folder, tmp_path / f"on-{folder.name}", 3), judge)
        for folder in (base, tmp_path / "other")
    ]
    assert merge(*folders, output=tmp_path / "merged", weights="0.5,0.5") == 0
    wholes = [load_model(str(folder), "float32").merge_and_unload().state_dict() for folder in folders]
    for name, weight in stored(tmp_path / "merged").items():
        mean = (wholes[0][name] + wholes[1][name]) / 2
        torch.testing.assert_close(weight.float(), mean, atol=1e-6, rtol=2**-8)


@unit
def test_a_judge_whole_and_one_by_an_adapter_are_averaged(adapters, base, judge, tmp_path, capfd):
    """An adapter that is merged whole in memory takes its place too."""
    whole = judge_of(shutil.copytree(base, tmp_path / "whole"), judge)
    biased = judge_of(add_adapter(base, tmp_path / "biased", 4, bias="all"), judge)
    assert merge(whole, adapters[0], biased, output=tmp_path / "merged", weights="0.25,0.25,0.5") == 0
    assert "loaded whole into memory" in capfd.readouterr().err
    each = [
        load_model(str(whole), "float32"),
        *(load_model(str(each), "float32") for each in (adapters[0], biased)),
    ]
    one, two, three = (getattr(model, "merge_and_unload", lambda model=model: model)().state_dict() for model in each)
    for name, weight in stored(tmp_path / "merged").items():
        mean = 0.25 * one[name] + 0.25 * two[name] + 0.5 * three[name]
        torch.testing.assert_close(weight.float(), mean, atol=2**-9 * float(three[name].abs().max()), rtol=2**-8)


# What is refused


@pytest.fixture
def twin(judge, tmp_path):
    """A copy of the judge that a test makes unlike it."""
    return shutil.copytree(judge, tmp_path / "twin")


def edit(file, **fields):
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


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
    refuses(capsys, [judge, twin], f"more is in {twin} alone", tmp_path)


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
def test_what_cannot_be_merged_is_refused_in_a_line(damage, base, judge, tmp_path, capsys):
    own = shutil.copytree(base, tmp_path / "base")
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


# A base in 4 bits


@pytest.fixture
def on_4_bits(train, bases, monkeypatch):
    """A judge trained for some steps on the base in 4 bits, and the model that its trainer had at the end."""
    pytest.importorskip("bitsandbytes")
    from sft_judge import training

    kept = []

    class Watched(training.JudgeTrainer):
        def train(self, **options):
            kept.append(self.model)
            return super().train(**options)

    monkeypatch.setattr(training, "JudgeTrainer", Watched)
    settings = {"load_in_4bit": "true", "use_bnb_nested_quant": "true", "dtype": "bfloat16", "learning_rate": "1e-2"}
    return train("trained", **settings), kept


@engine
def test_an_adapter_of_a_4_bit_base_is_merged_into_the_weights_that_it_learnt_on(
    on_4_bits, bases, planted_file, tmp_path, capsys
):
    """Against the trainer's own layers, read back by bitsandbytes; --onto plain against PEFT on the base as stored."""
    import bitsandbytes

    adapter, [trainers] = on_4_bits
    assert merge(adapter, output=tmp_path / "merged", battles=planted_file) == 0
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

    assert merge(adapter, output=tmp_path / "plain", onto="plain", battles=planted_file) == 0
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
def test_battles_for_an_average_are_refused(adapters, planted_file, tmp_path, capsys):
    refuses(capsys, adapters, "--battles holds one adapter", tmp_path, battles=planted_file)


@unit
def test_a_4_bit_base_without_bitsandbytes_names_the_extra(adapters, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    spec = read_spec(adapters[0])
    spec.training["loaded_in_4bit"] = {"dtype": "bfloat16", "quantization_config": {"load_in_4bit": True}}
    write_spec(adapters[0], spec)
    refuses(capsys, adapters[:1], "pip install 'sft-judge[qlora]'", tmp_path)
    assert merge(adapters[0], output=tmp_path / "merged", onto="plain") == 0
