"""
The verdict loss: cross-entropy and distillation over K logits a row, K = 2 or 3.

Shapes: B rows, K verdicts in the order of VERDICTS. Plain means over rows: with one answer token a battle, the mean
is right under gradient accumulation and on any number of processes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def verdict_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of logits [B, K] against probabilities [B, K], averaged over B. Hard labels are one-hot."""
    return -(targets * F.log_softmax(logits.float(), dim=-1)).sum(dim=-1).mean()


def distill_loss(logits: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """
    KL(teacher || student) over verdicts, both softened: logits [B, K] against probabilities [B, K], mean over B.

    Zero where the student equals the teacher. Scaled by temperature**2 so that the gradient keeps its size as the
    temperature changes (Hinton et al. 2015, section 2, https://arxiv.org/abs/1503.02531).
    """
    softened = torch.softmax(teacher.clamp_min(torch.finfo(teacher.dtype).tiny).log() / temperature, dim=-1)
    student = F.log_softmax(logits.float() / temperature, dim=-1)
    return F.kl_div(student, softened, reduction="batchmean") * temperature**2


def judge_loss(logits: Tensor, targets: Tensor, teacher: Tensor | None, weight: float, temperature: float) -> Tensor:
    """(1 - weight) * hard + weight * distillation; without teacher probabilities, the hard part alone."""
    if teacher is None or weight == 0:
        return verdict_loss(logits, targets)
    return (1 - weight) * verdict_loss(logits, targets) + weight * distill_loss(logits, teacher, temperature)
