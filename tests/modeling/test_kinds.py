"""Tiny models are of the same kind as real ones, whatever their sizes; where the tiny families differ is written."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sft_judge.modeling.architectures import KNOWN_ARCHITECTURES, model_config_of
from sft_judge.modeling.tiny_models import FAMILIES, shrink_config
from sft_judge.modeling.tiny_tokenizers import tokenizer_of

pytestmark = pytest.mark.unit
DOCS = Path(__file__).parents[2] / "docs" / "reference" / "tiny-models.md"
# Of the published config.json of each: what its kind depends on. Of Gemma's 18 layers, the first six.
SMOLLM2 = {
    "model_type": "llama",
    "attention_bias": False,
    "mlp_bias": False,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_theta": 100_000.0, "rope_type": "default"},
    "tie_word_embeddings": True,
    "vocab_size": 49_152,
}
GEMMA_3_270M = {
    "model_type": "gemma3_text",
    "attention_bias": False,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 640,
    "intermediate_size": 2048,
    "layer_types": [*["sliding_attention"] * 5, "full_attention"],
    "max_position_embeddings": 32_768,
    "num_attention_heads": 4,
    "num_hidden_layers": 6,
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {
        "full_attention": {"rope_theta": 1_000_000.0, "rope_type": "default"},
        "sliding_attention": {"rope_theta": 10_000.0, "rope_type": "default"},
    },
    "sliding_window": 512,
    "tie_word_embeddings": True,
    "vocab_size": 262_144,
}
REAL = {"SmolLM2-135M": SMOLLM2, "Gemma-3-270M": GEMMA_3_270M}


def config_of(facts: dict):
    return AutoConfig.for_model(**facts)


def kinds_of(config) -> dict[str, object]:
    """What a model of this configuration is made of, whatever its sizes; by its modules where they tell."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    text, decoder = config.get_text_config(), model.get_decoder()
    layer = decoder.layers[0]
    modules = dict(layer.named_modules())
    heads, keys, width = text.num_attention_heads, text.num_key_value_heads, layer.self_attn.head_dim
    attention = heads * width - text.hidden_size
    return {
        "bias on projections": sorted(name.split(".")[-1] for name, _ in layer.named_parameters() if "bias" in name),
        "tied head": model.get_output_embeddings().weight is model.get_input_embeddings().weight,
        "query and key norms": sorted({"self_attn.q_norm", "self_attn.k_norm"} & modules.keys()),
        "norms": sorted(name for name, _ in layer.named_children() if "norm" in name),
        "kinds of layers": sorted(set(getattr(text, "layer_types", None) or ["full_attention"])),
        "soft-caps": [getattr(text, f"{name}_logit_softcapping", None) for name in ("attn", "final")],
        "rope": text.rope_parameters,
        "width of heads": (attention > 0) - (attention < 0),
        "query scale": getattr(text, "query_pre_attn_scalar", width) == width,
        "grouped queries": (keys < heads, keys == 1),
        "activation": type(layer.mlp.act_fn).__name__,
    }


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_of("qwen3")


def differing(kinds: dict, others: dict) -> dict:
    """The kinds that are not the same, with both."""
    assert kinds.keys() == others.keys()
    return {name: (kind, others[name]) for name, kind in kinds.items() if kind != others[name]}


@pytest.mark.parametrize("facts", REAL.values(), ids=REAL)
def test_a_shrunk_real_model_is_of_its_kind_throughout(facts, tokenizer):
    config = config_of(facts)
    small = shrink_config(config, tokenizer)
    assert small.hidden_size < config.hidden_size and small.num_hidden_layers < config.num_hidden_layers
    assert differing(kinds_of(config), kinds_of(small)) == {}


@pytest.mark.parametrize("model", [name for name in KNOWN_ARCHITECTURES if "phi" not in name])  # it fuses its layers
def test_a_shrunk_known_model_is_of_its_kind_throughout(model):
    small = shrink_config(model_config_of(model), tokenizer_of(KNOWN_ARCHITECTURES[model].tokenizer))
    assert differing(kinds_of(model_config_of(model)), kinds_of(small)) == {}


def test_what_is_known_of_smollm2_without_its_files_is_of_its_kind():
    known = model_config_of("HuggingFaceTB/SmolLM2-135M-Instruct")
    assert differing(kinds_of(config_of(SMOLLM2)), kinds_of(known)) == {}
    sizes = [name for name, value in SMOLLM2.items() if type(value) is int]
    assert sizes and [name for name in sizes if getattr(known, name) != SMOLLM2[name]] == []


@pytest.mark.parametrize(("family", "real"), [("qwen2", "SmolLM2-135M"), ("gemma2", "Gemma-3-270M")])
def test_the_guide_lists_all_that_a_tiny_family_has_otherwise_than_a_real_model_of_its_line(family, real, tokenizer):
    tiny = FAMILIES[family][1](tokenizer, 128, 2, 512).config
    rows = [line.split("|")[1:-1] for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    listed = [kind.strip() for of, beside, kind, *_ in rows if (of.strip(), beside.strip()) == (f"`{family}`", real)]
    assert listed == list(differing(kinds_of(config_of(REAL[real])), kinds_of(tiny)))
