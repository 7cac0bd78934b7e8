"""A shrunk model keeps its class and its features, experts and a logit scale among them."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GraniteConfig, Qwen3MoeConfig

from sft_judge.modeling.architectures import KNOWN_ARCHITECTURES, model_config_of
from sft_judge.modeling.tiny_models import shrink_config
from sft_judge.modeling.tiny_tokenizers import tokenizer_of

unit = pytest.mark.unit
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size", "num_attention_heads", "head_dim")
KEPT = ("attn_logit_softcapping", "final_logit_softcapping", "hidden_act", "hidden_activation", "rms_norm_eps")


@unit
@pytest.mark.parametrize("model", KNOWN_ARCHITECTURES)
def test_a_shrunk_model_is_of_the_same_class_with_the_same_features(model):
    config = model_config_of(model)
    small = shrink_config(config, tokenizer_of(KNOWN_ARCHITECTURES[model].tokenizer))
    text, small_text = config.get_text_config(), small.get_text_config()
    assert type(small) is type(config) and type(small_text) is type(text)
    for name in (*KEPT, "tie_word_embeddings"):
        assert getattr(small_text, name, None) == getattr(text, name, None)
    assert all(getattr(small_text, name) <= getattr(text, name) for name in SIZES if getattr(text, name, None))
    kinds = getattr(text, "layer_types", None) or []
    assert len(getattr(small_text, "layer_types", None) or []) == (2 if kinds else 0)
    with torch.device("meta"):
        model, whole = (AutoModelForCausalLM.from_config(each) for each in (small, config))
    assert type(model) is type(whole) and model.num_parameters() < 5e6


@unit
@pytest.mark.parametrize(
    "config",
    [Qwen3MoeConfig(num_experts=128), GraniteConfig(logits_scaling=8.0)],
    ids=lambda config: config.model_type,
)
def test_experts_and_a_logit_scale_are_kept(config):
    small = shrink_config(config, tokenizer_of("qwen3"))
    assert getattr(small, "logits_scaling", None) == getattr(config, "logits_scaling", None)
    model = AutoModelForCausalLM.from_config(small)
    assert model.num_parameters() < 5e6
    with torch.no_grad():  # a router that picks more experts than there are fails here
        assert model(input_ids=torch.ones(1, 3, dtype=torch.long)).logits.isfinite().all()
    if hasattr(config, "num_experts"):
        assert 1 < small.num_experts_per_tok < small.num_experts


@unit
@pytest.mark.parametrize("model_type", ["qwen3_5_text", "qwen3_next", "llama4_text", "deepseek_v3"])
def test_a_family_of_mixed_layers_or_of_two_widths_of_head_runs_shrunk(model_type):
    """vLLM's engine asks such a model how the family scales its logits."""
    small = shrink_config(AutoConfig.for_model(model_type), tokenizer_of("qwen3"))
    model = AutoModelForCausalLM.from_config(small, dtype=torch.float32).eval()
    with torch.no_grad():
        assert model(input_ids=torch.ones(1, 3, dtype=torch.long)).logits.isfinite().all()
