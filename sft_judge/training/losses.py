"""
Loss of a row: cross-entropy over K verdict logits, distillation, and optional regularisation terms.

Shapes: R rows (a battle in one order), K verdicts in the order of VERDICTS, K = 2 or 3, N teachers, V tokens of the
vocabulary. Every function returns the losses of the rows [R], in nats. The trainer sums them over a step, because only
the trainer knows the number of rows in all its batches.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sft_judge.core.swap_orders import swap


def verdict_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """
    Compute the cross-entropy of verdict logits.

    Args:
        logits: verdict logits [..., K].
        targets: target probabilities [..., K]; hard labels are one-hot.

    Returns:
        Loss of each row [...].
    """
    return -(targets * F.log_softmax(logits.float(), dim=-1)).sum(dim=-1)


def distill_loss(logits: Tensor, teacher: Tensor, temperature: float = 1.0, kind: str = "kl") -> Tensor:
    """
    Compute the distillation loss between a teacher's and a student's distribution over verdicts.

    Args:
        logits: student verdict logits [R, K].
        teacher: teacher probabilities [R, K]; rows sum to one.
        temperature: softens both distributions. The result is scaled by `temperature**2` so that gradients keep their
            size ([Hinton et al. 2015](https://arxiv.org/abs/1503.02531), section 2).
        kind: `kl` is KL(teacher || student), `cosine` is 1 minus the cosine similarity of the two distributions,
            `both` is the mean of the two.

    Returns:
        Loss of each row [R]; zero if the student equals the teacher.
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
    Compute the cross-entropy with the battles' own labels.

    Args:
        logits: verdict logits [R, K].
        targets: target probabilities [R, K].
        smoothing: share of each target that is spread evenly over the verdicts. Off by default: the LMSYS Arena
            write-up found label smoothing to help only below 1B parameters.
        margin: subtracted from the preferred verdict's logit [R], so that a clear preference needs a larger logit
            difference. For K = 2 the loss is -log sigmoid(r_chosen - r_rejected - margin) ([Touvron et al.
            2023](https://arxiv.org/abs/2307.09288), Llama 2, section 3.2.2).

    Returns:
        Loss of each row [R].
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
    Combine the hard loss with the distillation losses of N teachers.

    The loss is the sum over teachers of weight * distillation loss, plus (1 - sum of weights) * hard loss.

    Args:
        hard: hard loss of each row [R].
        logits: student verdict logits [R, K].
        teachers: teacher probabilities [R, N, K], or None for the hard loss alone.
        weights: weight of each teacher [N], with a sum of at most 1.
        temperatures: temperature of each teacher [N].
        kind: see `distill_loss`.
        confidence: multiply a teacher's weight in a row by 1 - H / ln K, with H the entropy of its label. Rows about
            which a teacher knows nothing are then left to their own label.

    Returns:
        Loss of each row [R].
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
    Compute the symmetric KL [B] between the two orders of a battle, from logits [B, 2, K] in the orders ab and ba.

    In the second order the verdicts a and b refer to the other response, so its columns are swapped first.
    """
    return symmetric_kl(logits[:, 0], swap(logits[:, 1]))


def symmetric_kl(logits: Tensor, others: Tensor) -> Tensor:
    """
    Compute the mean of KL(p || q) and KL(q || p).

    Between two passes over the same rows that differ only by their dropout masks, this is the regulariser of R-Drop
    (Wu et al. 2021, section 2.2, https://arxiv.org/abs/2106.14448).

    Args:
        logits: logits of p [..., K].
        others: logits of q [..., K].

    Returns:
        Symmetric KL [...].
    """
    one, other = (F.log_softmax(each.float(), dim=-1) for each in (logits, others))
    return ((one.exp() - other.exp()) * (one - other)).sum(dim=-1) / 2


def log_choice_mass(whole: Tensor, verdict_ids: list[int]) -> Tensor:
    """
    Compute the log of the probability that the softmax over the whole vocabulary gives to the verdict tokens.

    Cross-entropy over the vocabulary is cross-entropy over the verdicts minus this value. Its negative is therefore
    the term that keeps the model on the verdict tokens. The verdict probabilities do not depend on it.

    Args:
        whole: logits over the vocabulary [R, V].
        verdict_ids: token ids of the verdicts [K].

    Returns:
        Log probability mass [R].
    """
    whole = whole.float()
    return whole[:, verdict_ids].logsumexp(dim=-1) - whole.logsumexp(dim=-1)
