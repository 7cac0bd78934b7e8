"""Micro-batches by tokens: nothing lost, nothing above the budget, as many on every process."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft_judge.core.errors import InputError
from sft_judge.training.samplers import BalancedSampler, TokenBatches
from sft_judge.training.verdict_trainer import VerdictTrainer

unit = pytest.mark.unit


def batches_of(lengths, budget: int, processes: int, accumulated: int, epoch: int = 0) -> list[list[list[int]]]:
    """What each process gets."""
    parts = []
    for rank in range(processes):
        order = BalancedSampler(np.arange(len(lengths)) % 3, np.zeros(len(lengths), int), lengths, 5, None)
        sampler = TokenBatches(order, lengths, budget, processes, rank, accumulated)
        sampler.set_epoch(epoch)
        parts.append(list(sampler))
        assert len(parts[-1]) == len(sampler)
    return parts


@unit
@given(
    st.lists(st.integers(20, 400), min_size=150, max_size=300),
    st.sampled_from([800, 1000, 5000]),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 4]),
)
def test_every_row_is_in_one_batch_of_at_most_so_many_tokens(lengths, budget, processes, accumulated):
    lengths = np.array(lengths)
    for epoch in (0, 1):
        parts = batches_of(lengths, budget, processes, accumulated, epoch)
        assert sorted(row for part in parts for batch in part for row in batch) == list(range(len(lengths)))
        assert all(batch and lengths[batch].sum() <= budget for part in parts for batch in part)
        assert len({len(part) for part in parts}) == 1 and len(parts[0]) % accumulated == 0


@unit
def test_the_order_is_another_one_each_epoch_and_the_number_of_batches_is_not():
    lengths = np.random.default_rng(0).lognormal(6, 0.5, 400).astype(int)
    (first,), (again,) = (batches_of(lengths, 20_000, 1, 1, epoch) for epoch in (0, 1))
    assert first != again and len(first) == len(again)


@unit
@pytest.mark.parametrize(("rows", "budget", "reason"), [(9, 500, "at least twice as large"), (9, 801, "too few")])
def test_a_budget_that_cannot_be_kept_is_refused(rows, budget, reason):
    with pytest.raises(InputError, match=reason):
        batches_of(np.full(rows, 400), budget, 1, 16)


@pytest.mark.engine
def test_a_run_by_tokens_sees_every_battle_once_within_the_budget(train, synthetic_table, monkeypatch):
    seen, tokens = [], []
    plain = VerdictTrainer.compute_loss

    def watched(self, model, inputs, *args, **kwargs):
        seen.append(inputs["row"].tolist())
        tokens.append(inputs["input_ids"].numel())
        return plain(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(VerdictTrainer, "compute_loss", watched)
    train(padding_free="true", token_budget=1500, max_steps=-1, num_train_epochs=1, gradient_accumulation_steps=2)
    assert sorted(row for batch in seen for row in batch) == list(range(synthetic_table.num_rows))
    assert max(tokens) <= 1500 and len({len(batch) for batch in seen}) > 1
