"""
K rows of the LM head at the answer position, and nothing else.

The head's forward is replaced, not the model's: the family's own forward still runs around it, so its logit scale and
soft-cap are applied by its own code, and the hooks by which DeepSpeed and FSDP gather the head's weights still fire.
Rows without an answer position set fall through to the full head, so the model can still generate.
"""

from types import MethodType

import torch
import torch.nn.functional as F
from torch import Tensor


class VerdictHead:
    """Calling it runs a (wrapped) model once and returns verdict logits [B, K]; no [B, T, V] is ever built."""

    def __init__(self, model, verdict_ids: list[int]):
        """Attach to `model`'s output embeddings. `model` may be a PEFT model; wrap it for training afterwards."""
        self.verdict_ids = list(verdict_ids)
        self._positions: Tensor | None = None
        head = model.get_output_embeddings()
        full_forward = head.forward
        verdict_head = self

        def forward(self, hidden: Tensor) -> Tensor:  # [B, T, D] -> [B, 1, K]
            positions = verdict_head._positions
            if positions is None:
                return full_forward(hidden)
            answer = hidden[torch.arange(len(positions), device=hidden.device), positions]  # [B, D]
            rows = torch.tensor(verdict_head.verdict_ids, device=hidden.device)
            bias = None if self.bias is None else self.bias[rows]
            return F.linear(answer, self.weight[rows], bias)[:, None]

        head.forward = MethodType(forward, head)

    def __call__(self, model, input_ids: Tensor, attention_mask: Tensor, positions: Tensor) -> Tensor:
        """Verdict logits [B, K] for right-padded ids [B, T]; `positions` [B] is the last token of each prompt."""
        self._positions = positions
        try:
            output = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        finally:
            self._positions = None
        return output.logits[:, 0]
