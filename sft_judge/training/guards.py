"""
Guards that detect a failed training: no learning, a loss that is not finite, or a loss spike.

The collapse guard compares the judge with a constant prediction of the class frequencies, on the battles just trained
on and with the weights before each step. Too high a learning rate collapses a judge in this way: the WSDM Cup
3rd-place write-up reports a 14B model at 1.4e-4 with an accuracy of 0.508 over two verdicts after hours.
"""

import math
from collections import deque

import torch
from torch import Tensor

from sft_judge.training.losses import verdict_loss

BATTLES = 1000  # minimum for a decision; the standard error of an accuracy of 0.5 is then 0.016
FINISHED, COLLAPSED, NOT_FINITE, SPIKE = "finished", "collapsed", "not finite", "spike"


class CollapseGuard:
    """
    Compare the judge with the class frequencies over about the last thousand battles, however rarely `look` is called.

    `moments` [5] are sums over the battles of this process since the last `look`; the processes add them up.

    Args:
        frequencies: share of each verdict among the training battles [K].
    """

    def __init__(self, frequencies: Tensor):
        self.frequencies = frequencies
        self.moments = torch.zeros(5, dtype=torch.float64)
        self.recent: deque[Tensor] = deque()  # the moments passed to each `look`, summed over processes

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """
        Add the losses and accuracies of B battles to the moments.

        Args:
            logits: verdict logits [B, O, K], O orders of each battle.
            targets: target probabilities [B, O, K].
        """
        frequencies = self.frequencies.to(logits.device)
        gain = verdict_loss(frequencies.log().expand_as(logits), targets) - verdict_loss(logits, targets)  # [B, O]
        chosen, likeliest = logits.argmax(dim=-1, keepdim=True), frequencies.argmax().expand(*logits.shape[:-1], 1)
        hits = (targets.gather(-1, chosen) - targets.gather(-1, likeliest)).squeeze(-1)
        gain, hits = gain.mean(dim=1).double(), hits.mean(dim=1).double()
        count = torch.full((), len(gain), dtype=torch.float64, device=gain.device)
        seen = torch.stack([count, gain.sum(), (gain**2).sum(), hits.sum(), (hits**2).sum()])
        self.moments = self.moments.to(seen.device) + seen

    def look(self, moments: Tensor) -> str | None:
        """
        Test the last battles for a collapse.

        A collapse is a loss above that of the class frequencies by two standard errors. It is also a loss that is not
        below it by two standard errors, unless the accuracy is above theirs by two: a judge may be right to be unsure.

        Args:
            moments: sums [5] since the last call, over all processes.

        Returns:
            A description of the collapse, or None.
        """
        self.moments = torch.zeros(5, dtype=torch.float64)
        self.recent.append(moments.cpu())
        while sum(each[0] for each in self.recent) - self.recent[0][0] >= BATTLES:
            self.recent.popleft()
        count, *sums = sum(self.recent).tolist()
        if count < BATTLES:
            return None
        (gain, gain_error), (hits, hits_error) = (_mean(count, *sums[place : place + 2]) for place in (0, 2))
        seen = (
            f"over the last {count:.0f} battles the loss is {-gain:+.4f} (standard error {gain_error:.4f}) and the "
            f"accuracy {hits:+.4f} ({hits_error:.4f}) against the class frequencies'"
        )
        if gain < -2 * gain_error:
            return f"the loss is above that of the class frequencies: {seen}"
        if gain <= 2 * gain_error and hits <= 2 * hits_error:
            return f"nothing has been learnt: {seen}"
        return None


def _mean(count: float, total: float, squares: float) -> tuple[float, float]:
    """Return the mean and its standard error from a count, a sum and a sum of squares."""
    mean = total / count
    return mean, math.sqrt(max(squares / count - mean**2, 0.0) / count)


class SpikeGuard:
    """
    Detect a micro-batch whose loss is more than `factor` times the running mean of earlier losses.

    Args:
        factor: ratio above which a loss is a spike.
    """

    WARM_UP, MEMORY = 50, 0.98

    def __init__(self, factor: float):
        self.factor, self.mean, self.count = factor, 0.0, 0

    def is_spike(self, loss: float) -> bool:
        """Return True if `loss` is a spike. A spike does not enter the running mean."""
        self.count += 1
        if self.count > self.WARM_UP and loss > self.factor * self.mean:
            return True
        memory = min(self.MEMORY, 1 - 1 / self.count)
        self.mean = memory * self.mean + (1 - memory) * loss
        return False
