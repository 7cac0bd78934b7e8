"""
What a row costs: cross-entropy over K verdict logits, distillation, and two terms that are off by default.

Shapes: R rows (a battle in one order each), K verdicts in the order of VERDICTS, K = 2 or 3. Every function gives the
rows' losses [R], in nats. The trainer sums them over a step: it alone knows how many rows all its batches hold.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sft_judge.core.swap_orders import swap


def verdict_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy [R] of logits [R, K] against probabilities [R, K]. Hard labels are one-hot."""
    return -(targets * F.log_softmax(logits.float(), dim=-1)).sum(dim=-1)


def distill_loss(logits: Tensor, teacher: Tensor, temperature: float = 1.0, kind: str = "kl") -> Tensor:
    """
    How far a student is from a teacher over verdicts [R], both softened: logits [R, K] against probabilities [R, K].

    `kl` is KL(teacher || student), `cosine` one less the cosine of the two distributions, `both` their mean. Zero
    where the student equals the teacher. Scaled by temperature**2 so that the gradient keeps its size as the
    temperature changes (Hinton et al. 2015, section 2, https://arxiv.org/abs/1503.02531).
    """
    softened = torch.softmax(teacher.clamp_min(torch.finfo(teacher.dtype).tiny).log() / temperature, dim=-1)
    student = F.log_softmax(logits.float() / temperature, dim=-1)
    kl = F.kl_div(student, softened, reduction="none").sum(dim=-1)
    if kind == "kl":
        return kl * temperature**2
    cosine = 1 - F.cosine_similarity(student.exp(), softened, dim=-1)
    return (cosine if kind == "cosine" else (kl + cosine) / 2) * temperature**2


def hard_loss(logits: Tensor, targets: Tensor, smoothing: float = 0.0, margin: Tensor | None = None) -> Tensor:
    """
    Cross-entropy [R] of logits [R, K] with the battles' own labels [R, K].

    `smoothing` of their mass is spread evenly over the verdicts (off by default: the LMSYS Arena write-up found it to
    help below 1B parameters alone). `margin` [R] is taken from the preferred verdict's logit, so that a clear
    preference must show clearly: for K = 2 that is -log sigmoid(r_chosen - r_rejected - margin) (Touvron et al. 2023,
    Llama 2, section 3.2.2, https://arxiv.org/abs/2307.09288).
    """
    if margin is not None:
        logits = logits - margin[:, None] * targets
    if smoothing > 0:
        targets = targets * (1 - smoothing) + smoothing / targets.shape[-1]
    return verdict_loss(logits, targets)


def judge_loss(
    hard: Tensor,
    logits: Tensor,
    teachers: Tensor | None,
    weights: list[float],
    temperatures: list[float],
    kind: str = "kl",
    confidence: bool = False,
) -> Tensor:
    """
    Sum of weight_t * distillation from teacher t at its temperature, and what is left of 1 times the hard part [R].

    `teachers` [R, N, K] are probabilities, or None: then the hard part alone. With `confidence`, a teacher's weight in
    a row is multiplied by one less its entropy over that of a uniform distribution: rows of which it knows nothing are
    left to their own verdict.
    """
    if teachers is None or not any(weights):
        return hard
    shares = torch.tensor(weights, device=hard.device).expand(teachers.shape[:2])  # [R, N]
    if confidence:
        entropy = torch.special.entr(teachers.float()).sum(dim=-1)
        shares = shares * (1 - entropy / math.log(teachers.shape[-1])).clamp(0, 1)
    soft = [distill_loss(logits, teachers[:, i], temperature, kind) for i, temperature in enumerate(temperatures)]
    return (1 - shares.sum(dim=1)) * hard + (shares * torch.stack(soft, dim=1)).sum(dim=1)


def agreement_loss(logits: Tensor) -> Tensor:
    """
    How far the two orders of a battle are apart: symmetric KL [B] of logits [B, 2, K], orders ab and ba.

    The second order's verdicts a and b stand for the other response, so its columns are exchanged first.
    """
    return symmetric_kl(logits[:, 0], swap(logits[:, 1]))


def symmetric_kl(logits: Tensor, others: Tensor) -> Tensor:
    """
    Half of KL both ways [...] between logits [..., K].

    Of two passes over the same rows, which differ by their dropout alone, it is the regulariser of R-Drop (Wu et al.
    2021, section 2.2, https://arxiv.org/abs/2106.14448).
    """
    one, other = (F.log_softmax(each.float(), dim=-1) for each in (logits, others))
    return ((one.exp() - other.exp()) * (one - other)).sum(dim=-1) / 2


def log_choice_mass(whole: Tensor, verdict_ids: list[int]) -> Tensor:
    """
    Log [R] of the probability that the whole vocabulary's softmax [R, V] leaves to the verdict tokens.

    Cross-entropy over the vocabulary is cross-entropy over the verdicts minus this, so its negative is the term that
    keeps the model on the verdicts; nothing that is read depends on it.
    """
    whole = whole.float()
    return whole[:, verdict_ids].logsumexp(dim=-1) - whole.logsumexp(dim=-1)
