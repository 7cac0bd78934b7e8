"""In which order battles are trained on."""

import numpy as np
from datasets import Dataset
from torch.utils.data import Sampler

from sft_judge.battles.order import balanced_order, length_grouped


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
            order = length_grouped(order, self.lengths, self.size, seed)
        return iter(order.tolist())
