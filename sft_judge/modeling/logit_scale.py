"""
Scale between the output of a model's LM head and its logits, which tells whether K rows of the head are sufficient.
"""

import torch
from transformers import AutoModelForCausalLM

from sft_judge.modeling.tiny_models import shrink_config


def scale_after_head(config, tokenizer) -> float | None:
    """
    Compute the factor between the output of the LM head and the logits of a model family.

    The factor is measured on a tiny model of the same class and features, whose head returns chosen numbers.

    Args:
        config: configuration of the model.
        tokenizer: its tokenizer.

    Returns:
        The factor, or None if the logits are not a multiple of the head's output.
    """
    small = AutoModelForCausalLM.from_config(shrink_config(config, tokenizer), dtype=torch.float32).eval()
    head = small.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        return None
    chosen = torch.linspace(-100.0, 100.0, len(head.weight))  # an even number of values, so that none is 0
    head.forward = lambda hidden: chosen.expand(1, 1, -1)
    with torch.no_grad():
        ratios = small(input_ids=torch.ones(1, 1, dtype=torch.long)).logits[0, 0] / chosen
    scale = float(ratios[0])
    return scale if torch.allclose(ratios, ratios[0], rtol=1e-5) else None
