"""How many weights share a scale: whole groups in every row that is quantised, as kernels read no parts of them."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sft_judge.conversion.quantize import group_size_of
from sft_judge.modeling.architectures import KNOWN_ARCHITECTURES, model_config_of

pytestmark = pytest.mark.unit
SMALL = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 1, "vocab_size": 96}


def group_of(config) -> int:
    with torch.device("meta"):
        return group_size_of(AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize("model", KNOWN_ARCHITECTURES)
def test_known_models_have_groups_of_128_but_smollm2_which_is_576_wide(model):
    assert group_of(model_config_of(model)) == (64 if "SmolLM2" in model else 128)


@pytest.mark.parametrize(
    ("kind", "sizes", "group"),
    [
        ("llama", {"hidden_size": 96, "intermediate_size": 256, "head_dim": 64}, 32),
        ("llama", {"hidden_size": 256, "intermediate_size": 320, "head_dim": 64}, 64),
        ("llama", {"hidden_size": 256, "intermediate_size": 272, "head_dim": 64}, 128),  # 272: stays in 16 bits
        ("qwen3_moe", {"hidden_size": 256, "moe_intermediate_size": 96, "head_dim": 64, "num_experts": 4}, 32),
    ],
)
def test_the_group_divides_the_rows_of_every_layer_that_is_quantised(kind, sizes, group):
    assert group_of(AutoConfig.for_model(kind, **SMALL, **sizes)) == group
