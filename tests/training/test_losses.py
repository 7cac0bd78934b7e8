"""The verdict loss against torch's own, and what distillation promises."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_judge.training.losses import (
    agreement_loss,
    distill_loss,
    hard_loss,
    judge_loss,
    log_choice_mass,
    verdict_loss,
)

pytestmark = pytest.mark.unit
SIZES = st.tuples(st.integers(0, 10_000), st.integers(1, 7), st.sampled_from([2, 3]))


def draw(seed: int, rows: int, num_verdicts: int):
    """Logits and two rows of probabilities [B, K] in float64."""
    generator = torch.Generator().manual_seed(seed)
    logits, *others = (torch.randn(rows, num_verdicts, generator=generator, dtype=torch.float64) * 3 for _ in range(3))
    return logits, *(torch.softmax(other, dim=-1) for other in others)


@given(SIZES)
@settings(deadline=None, max_examples=50)
def test_the_hard_loss_is_torchs_cross_entropy(sizes):
    logits, soft, _ = draw(*sizes)
    place = soft.argmax(dim=1)
    one_hot = F.one_hot(place, sizes[2]).float()
    logits, soft = logits.float(), soft.float()
    torch.testing.assert_close(verdict_loss(logits, one_hot), F.cross_entropy(logits, place, reduction="none"))
    torch.testing.assert_close(verdict_loss(logits, soft), F.cross_entropy(logits, soft, reduction="none"))


@given(SIZES, st.sampled_from([0.5, 1.0, 2.0, 5.0]))
@settings(deadline=None, max_examples=50)
def test_the_distillation_loss_is_the_sum_of_p_log_p_over_q_with_both_softened(sizes, temperature):
    logits, teacher, _ = draw(*sizes)
    p = teacher ** (1 / temperature)
    p = p / p.sum(dim=1, keepdim=True)
    q = torch.softmax(logits / temperature, dim=1)
    expected = temperature**2 * (p * (p / q).log()).sum(dim=1)
    seen = distill_loss(logits.float(), teacher.float(), temperature)
    torch.testing.assert_close(seen, expected.float(), atol=1e-5, rtol=1e-4)


@given(SIZES, st.sampled_from([1.0, 5.0]))
@settings(deadline=None, max_examples=50)
def test_a_student_equal_to_its_teacher_pays_nothing_and_is_not_moved(sizes, temperature):
    logits, *_ = draw(*sizes)
    logits = logits.float().requires_grad_()
    loss = distill_loss(logits, torch.softmax(logits.detach(), dim=1), temperature)
    loss.sum().backward()
    assert loss.abs().max() < 1e-5 and logits.grad.abs().max() < 1e-5


@given(SIZES)
@settings(deadline=None, max_examples=50)
def test_the_distillation_loss_is_never_below_zero(sizes):
    logits, teacher, _ = draw(*sizes)
    assert (distill_loss(logits, teacher, 2.0) >= -1e-9).all()


@given(SIZES)
@settings(deadline=None, max_examples=30)
def test_at_a_high_temperature_distillation_is_the_squared_error_of_centred_logits(sizes):
    """
    softmax(z/T) is 1/K + (z - mean z)/(K T) + O(1/T^2), so T^2 KL(p || q) tends to sum (v - z)^2 / (2 K), v and z
    centred (Hinton et al. 2015, section 2.1), and its gradient to (z - v) / K: it keeps its size as T grows.
    """
    logits, teacher, _ = draw(*sizes)
    rows, num_verdicts = logits.shape
    high = 200.0  # higher, and float32 rounding shows
    logits.requires_grad_()
    loss = distill_loss(logits, teacher, high).mean()
    loss.backward()
    gap = logits.detach() - teacher.log()
    gap = gap - gap.mean(dim=1, keepdim=True)
    span = max((values.amax(dim=1) - values.amin(dim=1)).max() for values in (logits.detach(), teacher.log())).item()
    left_out = span**2 / high  # the next term of the expansion
    torch.testing.assert_close(
        loss.detach(), (gap**2).sum() / (2 * num_verdicts * rows), rtol=0, atol=left_out * span + 1e-2
    )
    torch.testing.assert_close(logits.grad, gap / (num_verdicts * rows), rtol=0, atol=left_out / rows + 1e-3)


def test_a_sure_teacher_gives_finite_loss_and_gradient():
    logits = torch.tensor([[3.0, -80.0, 2.0]], requires_grad=True)
    for temperature in (1.0, 5.0):
        loss = distill_loss(logits, torch.tensor([[0.0, 1.0, 0.0]]), temperature)
        loss.sum().backward()
        assert torch.isfinite(loss).all() and torch.isfinite(logits.grad).all()


@given(SIZES)
@settings(deadline=None, max_examples=30)
def test_weight_zero_is_the_hard_loss_to_the_bit(sizes):
    logits, targets, teacher = (value.float() for value in draw(*sizes))
    for labels in (teacher, teacher * float("nan")):  # not even looked at
        seen = judge_loss(hard_loss(logits, targets), logits, labels[:, None], [0.0], [5.0])
        assert seen.equal(verdict_loss(logits, targets))
    assert judge_loss(hard_loss(logits, targets), logits, None, [0.9], [5.0]).equal(verdict_loss(logits, targets))


@given(SIZES, st.floats(0, 1))
@settings(deadline=None, max_examples=30)
def test_the_weight_mixes_the_two_parts(sizes, weight):
    logits, targets, teacher = (value.float() for value in draw(*sizes))
    hard = F.cross_entropy(logits, targets, reduction="none")
    expected = (1 - weight) * hard + weight * distill_loss(logits, teacher, 3.0)
    torch.testing.assert_close(judge_loss(hard, logits, teacher[:, None], [weight], [3.0]), expected)


@given(SIZES, st.sampled_from(["kl", "cosine", "both"]))
@settings(deadline=None, max_examples=30)
def test_several_teachers_add_up_each_at_its_own_weight_and_temperature(sizes, kind):
    logits, targets, one = (value.float() for value in draw(*sizes))
    *_, other = (value.float() for value in draw(sizes[0] + 1, *sizes[1:]))
    hard = verdict_loss(logits, targets)
    parts = distill_loss(logits, one, 1.0, kind), distill_loss(logits, other, 5.0, kind)
    seen = judge_loss(hard, logits, torch.stack([one, other], dim=1), [0.45, 0.35], [1.0, 5.0], kind)
    torch.testing.assert_close(seen, 0.2 * hard + 0.45 * parts[0] + 0.35 * parts[1])


def test_cosine_is_one_less_the_cosine_and_zero_for_an_equal_student():
    logits, teacher, _ = (value.float() for value in draw(3, 6, 3))
    student = torch.softmax(logits / 2, dim=1)
    softened = teacher.sqrt() / teacher.sqrt().sum(dim=1, keepdim=True)
    cosine = (student * softened).sum(dim=1) / (student.norm(dim=1) * softened.norm(dim=1))
    torch.testing.assert_close(distill_loss(logits, teacher, 2.0, "cosine"), 4 * (1 - cosine))
    assert distill_loss(logits, torch.softmax(logits, dim=1), 5.0, "both").abs().max() < 1e-5


def test_a_teacher_that_knows_nothing_leaves_a_row_to_its_verdict_and_a_sure_one_does_not():
    logits, targets, _ = (value.float() for value in draw(4, 2, 3))
    hard = verdict_loss(logits, targets)
    teacher = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [1.0, 0.0, 0.0]])
    seen = judge_loss(hard, logits, teacher[:, None], [0.9], [2.0], confidence=True)
    full = judge_loss(hard, logits, teacher[:, None], [0.9], [2.0])
    torch.testing.assert_close(seen, torch.stack([hard[0], full[1]]))


def test_half_precision_logits_are_summed_in_single():
    logits, targets, teacher = (value.float() for value in draw(1, 5, 3))
    half = logits.bfloat16()
    torch.testing.assert_close(verdict_loss(half, targets), F.cross_entropy(half.float(), targets, reduction="none"))
    assert distill_loss(half, teacher, 5.0).dtype == torch.float32


@given(SIZES, st.sampled_from([0.0, 0.1, 1.0]))
@settings(deadline=None, max_examples=30)
def test_smoothing_is_torchs(sizes, amount):
    logits, soft, _ = (value.float() for value in draw(*sizes))
    place = soft.argmax(dim=1)
    seen = hard_loss(logits, F.one_hot(place, sizes[2]).float(), amount)
    torch.testing.assert_close(seen, F.cross_entropy(logits, place, label_smoothing=amount, reduction="none"))


@given(SIZES)
@settings(deadline=None, max_examples=30)
def test_of_two_verdicts_the_margin_loss_is_that_of_llama_2(sizes):
    logits, soft, other = (value.float() for value in draw(sizes[0], sizes[1], 2))
    place, margin = soft.argmax(dim=1, keepdim=True), other[:, 0] * 3
    gap = logits.gather(1, place) - logits.gather(1, 1 - place)
    targets = F.one_hot(place[:, 0], 2).float()
    seen = hard_loss(logits, targets, margin=margin)
    torch.testing.assert_close(seen, -F.logsigmoid(gap[:, 0] - margin), atol=1e-5, rtol=1e-4)
    assert hard_loss(logits, targets, margin=margin * 0).equal(verdict_loss(logits, targets))
    both = hard_loss(logits, targets, 0.2, margin)  # smoothing does not smooth the margin
    lowered = logits - margin[:, None] * targets
    expected = F.cross_entropy(lowered, place[:, 0], label_smoothing=0.2, reduction="none")
    torch.testing.assert_close(both, expected)


@given(SIZES)
@settings(deadline=None, max_examples=30)
def test_two_orders_that_agree_pay_nothing_and_others_both_divergences(sizes):
    _, p, q = draw(*sizes)
    exchanged = p[:, [1, 0, 2][: sizes[2]]]
    agreed = agreement_loss(torch.stack([p.log(), exchanged.log() + 7], dim=1))
    assert agreed.abs().max() < 1e-5
    seen = agreement_loss(torch.stack([p.log(), q.log()], dim=1))
    q = q[:, [1, 0, 2][: sizes[2]]]
    expected = ((p * (p / q).log()).sum(dim=1) + (q * (q / p).log()).sum(dim=1)) / 2
    torch.testing.assert_close(seen, expected.float(), atol=1e-4, rtol=1e-4)


def test_cross_entropy_over_the_vocabulary_is_that_over_the_verdicts_less_the_log_of_their_mass():
    generator = torch.Generator().manual_seed(0)
    whole, ids = torch.randn(6, 50, generator=generator) * 3, [7, 3, 31]
    place = torch.tensor([0, 1, 2, 0, 1, 2])
    expected = F.cross_entropy(whole, torch.tensor(ids)[place], reduction="none")
    parts = F.cross_entropy(whole[:, ids], place, reduction="none") - log_choice_mass(whole, ids)
    torch.testing.assert_close(parts, expected)
    mass = torch.softmax(whole, dim=1)[:, ids].sum(dim=1)
    torch.testing.assert_close(log_choice_mass(whole, ids).exp(), mass)
