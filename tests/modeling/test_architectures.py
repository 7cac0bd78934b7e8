"""Published sizes are right: they add up to the parameters of the model cards."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from sft_judge.modeling.architectures import KNOWN_ARCHITECTURES, model_config_of

unit = pytest.mark.unit


@unit
@pytest.mark.parametrize("model", KNOWN_ARCHITECTURES)
def test_published_sizes_add_up_to_the_model_cards_parameters(model):
    with torch.device("meta"):
        parameters = AutoModelForCausalLM.from_config(model_config_of(model)).num_parameters()
    assert parameters / 1e9 == pytest.approx(KNOWN_ARCHITECTURES[model].billions, abs=1e-3)
