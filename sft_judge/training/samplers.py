"""Samplers: the order in which battles are trained on, and micro-batches under a token budget."""

import math

import numpy as np
from datasets import Dataset
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import BatchRebalanceSampler

from sft_judge.core.errors import InputError
from sft_judge.data.row_order import balanced_order, group_by_length


class BalancedSampler(Sampler):
    """
    Sample rows so that every stretch of the order has the verdicts and sources of the whole set; each epoch has
    another order.

    If `size` is set, batches hold rows of similar length, and the balance holds over stretches of LENGTH_WINDOW
    batches.

    Args:
        verdicts: verdict of each row [N].
        sources: source of each row [N], as integers.
        lengths: number of tokens of each row [N].
        seed: seed of the order.
        size: number of rows in a batch, or None.
    """

    def __init__(self, verdicts: np.ndarray, sources: np.ndarray, lengths: np.ndarray, seed: int, size: int | None):
        self.verdicts, self.sources, self.lengths = verdicts, sources, lengths
        self.seed, self.size, self.epoch = seed, size, 0

    @classmethod
    def of(cls, dataset: Dataset, seed: int, size: int | None = None) -> "BalancedSampler":
        """
        Build the sampler of a data set, from the verdict of each row's first order and its `source`.

        Args:
            dataset: rows of `verdict_dataset`.
            seed: seed of the order.
            size: number of rows in a batch, to group rows by length, or None.
        """
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
    Compute a number of micro-batches that is sufficient for battles in any order.

    Args:
        lengths: number of tokens of each battle [N].
        budget: maximum number of tokens in a micro-batch.
        step: the result is a multiple of this number.

    Raises:
        InputError: the longest battle has more than half of `budget`, or there are fewer battles than micro-batches.
    """
    longest = int(lengths.max())
    if longest > budget / 2:
        raise InputError(
            f"token_budget is {budget}, but a battle has up to {longest} tokens in its orders; token_budget must be "
            "at least twice as large. Raise it, or lower total_budget."
        )
    # If micro-batches are filled one after the other, all but the last hold more than budget - longest tokens.
    count = math.ceil((int(lengths.sum()) / (budget - longest) + 1) / step) * step
    if count > len(lengths):
        raise InputError(f"{len(lengths)} battles are too few for {count} micro-batches; raise token_budget.")
    return count


class TokenBatches(BatchRebalanceSampler):
    """
    Cut an order of rows into micro-batches of at most `budget` tokens.

    The class derives from `BatchRebalanceSampler` because Trainer lets such a sampler give each process its own
    batches. The number of micro-batches is the same in every epoch and a multiple of `processes * accumulated`, so
    that each step has the same number on every process.

    Args:
        order: sampler of rows.
        lengths: number of tokens of each row [N].
        budget: maximum number of tokens in a micro-batch.
        processes: number of processes.
        rank: index of this process.
        accumulated: number of micro-batches that a process accumulates in a step.
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
        while len(batches) < self.count:  # split the micro-batch with the most rows in two
            place = max(range(len(batches)), key=lambda at: len(batches[at]))
            middle = len(batches[place]) // 2
            batches[place : place + 1] = [batches[place][:middle], batches[place][middle:]]
        return iter(batches[self.rank :: self.processes])
