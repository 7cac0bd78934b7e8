"""
When training has gone wrong: nothing learnt, a loss that is no number, a step far off the rest.

The collapse guard asks of the battles just trained on, before each step moved the model towards them, whether the
judge beats one that knows the class frequencies alone. The WSDM Cup 3rd-place write-up lost a 14B in this way to a
learning rate of 1.4e-4: accuracy 0.508 of two verdicts, hours in.
"""

import math
from collections import deque

import torch
from torch import Tensor

from sft_judge.training.losses import verdict_loss

BATTLES = 1000  # fewer say too little: the standard error of an accuracy of one half is 0.016 then
FINISHED, COLLAPSED, NOT_FINITE, SPIKE = "finished", "collapsed", "not finite", "spike"


class CollapseGuard:
    """
    Looks at the last thousand battles or so, however far apart the looks are.

    `moments` [5] are sums over what this process saw since the last look; the processes add them up.
    """

    def __init__(self, frequencies: Tensor):
        """`frequencies` [K]: how often the training rows show each verdict."""
        self.frequencies = frequencies
        self.moments = torch.zeros(5, dtype=torch.float64)
        self.recent: deque[Tensor] = deque()  # the moments of each look, all processes

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Count battles: logits and targets [B, V, K], one row a view."""
        frequencies = self.frequencies.to(logits.device)
        gain = verdict_loss(frequencies.log().expand_as(logits), targets) - verdict_loss(logits, targets)  # [B, V]
        chosen, likeliest = logits.argmax(dim=-1, keepdim=True), frequencies.argmax().expand(*logits.shape[:-1], 1)
        hits = (targets.gather(-1, chosen) - targets.gather(-1, likeliest)).squeeze(-1)
        gain, hits = gain.mean(dim=1).double(), hits.mean(dim=1).double()
        count = torch.full((), len(gain), dtype=torch.float64, device=gain.device)
        seen = torch.stack([count, gain.sum(), (gain**2).sum(), hits.sum(), (hits**2).sum()])
        self.moments = self.moments.to(seen.device) + seen

    def look(self, moments: Tensor) -> str | None:
        """
        What is wrong over the last battles, in words, or None; `moments` [5] since the last look, of all processes.

        Wrong is a loss above that of the class frequencies by two standard errors, or one that is not below it by two
        while the accuracy is not above theirs by two either: a judge may be right to be unsure.
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
            return f"the loss stands above that of the class frequencies: {seen}"
        if gain <= 2 * gain_error and hits <= 2 * hits_error:
            return f"nothing has been learnt: {seen}"
        return None


def _mean(count: float, total: float, squares: float) -> tuple[float, float]:
    """Mean and its standard error."""
    mean = total / count
    return mean, math.sqrt(max(squares / count - mean**2, 0.0) / count)


class SpikeGuard:
    """Whether a micro-batch's loss is `factor` times the running mean of those before it."""

    WARM_UP, MEMORY = 50, 0.98

    def __init__(self, factor: float):
        self.factor, self.mean, self.count = factor, 0.0, 0

    def is_spike(self, loss: float) -> bool:
        """Look at the next loss; a spike does not enter the mean."""
        self.count += 1
        if self.count > self.WARM_UP and loss > self.factor * self.mean:
            return True
        memory = min(self.MEMORY, 1 - 1 / self.count)
        self.mean = memory * self.mean + (1 - memory) * loss
        return False
