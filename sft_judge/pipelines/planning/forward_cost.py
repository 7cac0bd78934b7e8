"""What it costs to read rows, on fake tensors as in step_cost.py; and a deep model's cost from two shallow ones."""

import copy
from dataclasses import dataclass, fields

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PretrainedConfig

from sft_judge.modeling.verdict_head import VerdictHead
from sft_judge.pipelines.planning.step_cost import Ledger, meta_model
from sft_judge.training.config import JudgeModelConfig


@dataclass(frozen=True)
class ForwardCost:
    """FLOPs of rows that are only read, the model's parameters, and those of its tables: embedding and head."""

    parameters: int
    tables: int
    linear_flops: int
    attention_flops: int


def forward_cost(model_config: PretrainedConfig, adapters: JudgeModelConfig, rows: int, tokens: int) -> ForwardCost:
    """The cost of scoring `rows` rows of `tokens` tokens each."""
    meta = meta_model(model_config, adapters)
    tables = {id(table.weight): table.weight.numel() for table in (meta.get_input_embeddings(), meta.lm_head)}
    parameters = meta.num_parameters()  # before `to_empty`, which parts tied weights
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        model = meta.to_empty(device="cpu").eval()
        ledger = Ledger([*model.parameters(), *model.buffers()])
        inputs = {"input_ids": torch.zeros(rows, tokens, dtype=torch.long), "attention_mask": None}
        with ledger:
            VerdictHead(model, [0, 1])(model, inputs, torch.full((rows,), tokens - 2))
    return ForwardCost(parameters, sum(tables.values()), ledger.linear_flops, ledger.attention_flops)


def extended(cost_of, model_config: PretrainedConfig, *settings):
    """
    `cost_of(model_config, *settings)` from the same model at two small depths: each layer adds what each other does.

    In seconds where a model of 80 layers takes a minute. The depths hold whole periods of a model's kinds of layers.
    """
    text = model_config.get_text_config()
    kinds, depth = getattr(text, "layer_types", None) or [None], text.num_hidden_layers
    period = next(size for size in range(1, len(kinds) + 1) if kinds[size:] == kinds[:-size])
    low, high = 2 * period, 4 * period
    if depth <= high:
        return cost_of(model_config, *settings)
    one, other = (cost_of(_of_depth(model_config, layers), *settings) for layers in (low, high))
    found = {}
    for field in fields(one):
        first, second = getattr(one, field.name), getattr(other, field.name)
        found[field.name] = first + (second - first) * (depth - low) // (high - low)
    return type(one)(**found)


def _of_depth(model_config: PretrainedConfig, layers: int) -> PretrainedConfig:
    shallow = copy.deepcopy(model_config)
    text = shallow.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    return shallow
