"""What a family does to its head's output: whether K rows of the head alone can stand for its logits."""

import torch
from transformers import AutoModelForCausalLM

from sft_judge.modeling.tiny_models import shrink_config


def scale_after_head(config, tokenizer) -> float | None:
    """
    s where a family's logits are s times its head's weights by the hidden state, None where they are no multiple.

    Seen on a tiny model of the same class and features: chosen numbers take the place of its head's output.
    """
    small = AutoModelForCausalLM.from_config(shrink_config(config, tokenizer), dtype=torch.float32).eval()
    head = small.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        return None
    chosen = torch.linspace(-100.0, 100.0, len(head.weight))  # an even number: none is zero
    head.forward = lambda hidden: chosen.expand(1, 1, -1)
    with torch.no_grad():
        ratios = small(input_ids=torch.ones(1, 1, dtype=torch.long)).logits[0, 0] / chosen
    scale = float(ratios[0])
    return scale if torch.allclose(ratios, ratios[0], rtol=1e-5) else None
