"""What vLLM is given: whole weights as safetensors, and nothing that is pickled."""

import json

import pytest
import torch

from sft_judge.core.errors import InputError
from sft_judge.inference.engines.vllm_engine import check_usable, engine_settings
from sft_judge.modeling.judge_spec import Budget, JudgeSpec

pytestmark = pytest.mark.unit


def test_pickled_weights_alone_are_refused_before_vllm_starts(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    torch.save({"x": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickled weights are not opened"):
        check_usable(str(tmp_path), "")


def test_vllm_is_told_to_read_safetensors_alone():
    assert engine_settings("m", JudgeSpec(["A"], [1], "", Budget()), "auto")["load_format"] == "safetensors"
