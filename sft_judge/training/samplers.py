"""In which order battles are trained on, and how many at a time."""

import math

import numpy as np
from datasets import Dataset
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import BatchRebalanceSampler

from sft_judge.core.errors import InputError
from sft_judge.data.row_order import balanced_order, group_by_length


class BalancedSampler(Sampler):
    """
    Rows in an order of which every stretch has the verdicts and sources of the whole; another one each epoch.

    With `size`, batches of so many rows have like `lengths`: then this holds of stretches of LENGTH_WINDOW batches.
    """

    def __init__(self, verdicts: np.ndarray, sources: np.ndarray, lengths: np.ndarray, seed: int, size: int | None):
        self.verdicts, self.sources, self.lengths = verdicts, sources, lengths
        self.seed, self.size, self.epoch = seed, size, 0

    @classmethod
    def of(cls, dataset: Dataset, seed: int, size: int | None = None) -> "BalancedSampler":
        """By the verdict that a row's first view shows, and its `source`."""
        targets = np.array([views[0] for views in dataset["targets"]])
        sources = np.unique(dataset["source"], return_inverse=True)[1]
        return cls(targets.argmax(axis=1), sources, np.array(dataset["length"]), seed, size)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.verdicts)

    def __iter__(self):
        seed = self.seed + self.epoch
        order = balanced_order(self.verdicts, self.sources, seed)
        if self.size:
            order = group_by_length(order, self.lengths, self.size, seed)
        return iter(order.tolist())


def num_micro_batches(lengths: np.ndarray, budget: int, step: int) -> int:
    """
    Micro-batches of at most `budget` tokens that battles of these lengths [N] take in any order, a multiple of `step`.

    Raises `InputError` for a budget that cannot be kept.
    """
    longest = int(lengths.max())
    if longest > budget / 2:
        raise InputError(
            f"token_budget is {budget}, but a battle has up to {longest} tokens in its orders; at least twice as many "
            "must go into a micro-batch. Raise it, or lower total_budget."
        )
    # filled one after the other, they hold more than budget - longest tokens each, but for the last
    count = math.ceil((int(lengths.sum()) / (budget - longest) + 1) / step) * step
    if count > len(lengths):
        raise InputError(f"{len(lengths)} battles are too few for {count} micro-batches; raise token_budget.")
    return count


class TokenBatches(BatchRebalanceSampler):
    """
    An order cut into micro-batches of at most `budget` tokens.

    Trainer takes a BatchRebalanceSampler for one that gives each process its own batches. Their number is the same in
    every epoch, and a multiple of `processes * accumulated`, so that each step has as many on every process.
    """

    def __init__(self, order: Sampler, lengths: np.ndarray, budget: int, processes: int, rank: int, accumulated: int):
        self.order, self.lengths, self.budget = order, lengths, budget
        self.processes, self.rank = processes, rank
        self.count = num_micro_batches(lengths, budget, processes * accumulated)

    def set_epoch(self, epoch: int) -> None:
        self.order.set_epoch(epoch)

    def __len__(self) -> int:
        return self.count // self.processes

    def __iter__(self):
        batches, tokens = [[]], 0
        for row in self.order:
            tokens += self.lengths[row]
            if tokens > self.budget:
                batches.append([])
                tokens = self.lengths[row]
            batches[-1].append(row)
        while len(batches) < self.count:  # the fullest ones in two
            place = max(range(len(batches)), key=lambda at: len(batches[at]))
            middle = len(batches[place]) // 2
            batches[place : place + 1] = [batches[place][:middle], batches[place][middle:]]
        return iter(batches[self.rank :: self.processes])
