"""
Choose which rows to score next so that a time budget is used but not exceeded: pure functions and an injected clock.

Rows are scored in blocks. The rate in tokens per second is that of the last blocks, so a slowdown is noticed at the
next block. A block is planned to take no longer than the margin, so even a block that takes twice as long ends in
time.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import entropy

from sft_judge.core.swap_orders import ORDERS

SLICE = 60.0  # maximum planned seconds of a block
# The margin in seconds and as a share of the budget, for the last write, the shutdown and a late block.
LEAST_MARGIN, MARGIN_SHARE = 8.0, 0.01
FIRST_ROWS = 8  # rows in a block while the rate is unknown
MEMORY = 0.5  # decay per block of earlier tokens and seconds in the rate
LENGTH_BINS = 8


class Deadline:
    """
    Track the time left before the margin, and the scoring rate in tokens per second. All times are in seconds.

    Args:
        budget: the time budget.
        started: time of `clock` at which the command started.
        clock: returns the current time.
    """

    def __init__(self, budget: float, started: float, clock: Callable[[], float] = time.monotonic):
        self.clock, self.started, self.budget = clock, started, float(budget)
        self.margin = min(max(LEAST_MARGIN, MARGIN_SHARE * budget), 2 * SLICE)
        self.end = started + budget - self.margin
        self._tokens = self._seconds = 0.0

    def left(self) -> float:
        """Return the time until the last block must end; negative after that."""
        return self.end - self.clock()

    def elapsed(self) -> float:
        """Return the time since the command started."""
        return self.clock() - self.started

    @property
    def rate(self) -> float | None:
        """Return the tokens per second over the last blocks, or None before the first block."""
        return self._tokens / self._seconds if self._seconds else None

    def note(self, tokens: float, seconds: float) -> None:
        """
        Record a finished block.

        Args:
            tokens: number of tokens in the block.
            seconds: time it took.
        """
        self._tokens = MEMORY * self._tokens + tokens
        self._seconds = MEMORY * self._seconds + max(seconds, 1e-6)

    def fits(self, tokens: np.ndarray, reserve: float = 0.0) -> int:
        """
        Return how many of the next rows to score as one block; 0 to stop.

        Args:
            tokens: number of tokens of the next rows [R].
            reserve: time to keep for later.
        """
        left = self.left() - reserve
        if left <= 0 or not len(tokens):
            return 0
        if self.rate is None:
            return min(FIRST_ROWS, len(tokens))
        seconds = np.cumsum(tokens) / self.rate
        count = int(np.searchsorted(seconds, min(SLICE, self.margin, left), side="right"))
        return count or int(seconds[0] <= left)  # a single row may take longer than a block should

    def forecast(self, queue: np.ndarray, later: np.ndarray) -> tuple[int, int]:
        """
        Predict how many rows will be scored in time at the current rate.

        The order of the later rows is not known yet, so the mean number of tokens is used for each.

        Args:
            queue: number of tokens of the rows of the current pass [R], in order.
            later: number of tokens of the rows of the next pass [S].

        Returns:
            Number of rows of `queue` and of `later`.
        """
        room = max(self.left(), 0.0) * (self.rate or 0.0)
        now = int(np.searchsorted(np.cumsum(queue), room, side="right"))
        rest = room - queue.sum()
        then = min(len(later), int(rest / later.mean())) if len(later) and rest > 0 else 0
        return now, then


@dataclass
class Pass:
    """
    Describe one pass over the rows.

    Attributes:
        orders: the orders shown.
        choose: returns the rows to score in order, given the scores so far [N, 2, K].
    """

    orders: tuple[str, ...]
    choose: Callable[[np.ndarray], np.ndarray]


def score_in_time(
    passes: list[Pass],
    tokens: np.ndarray,
    deadline: Deadline,
    scores: Callable[[], np.ndarray],
    score: Callable[[np.ndarray, tuple[str, ...]], None],
    reserve: Callable[[], float] = lambda: 0.0,
) -> Iterator[tuple[int, np.ndarray]]:
    """
    Score blocks of rows until all passes are done or the time is over.

    Args:
        passes: the passes.
        tokens: number of tokens of each row in one order [N].
        deadline: the time that is left.
        scores: returns the scores so far [N, 2, K], NaN where unknown.
        score: scores the rows of a block in its orders and stores the result.
        reserve: returns the seconds that the caller needs at the end, in addition to the margin.

    Yields:
        After each block, the index of its pass and the rows left in the pass.
    """
    for place, each in enumerate(passes):
        queue = each.choose(scores())
        while len(queue):
            cost = tokens[queue] * len(each.orders)
            count = deadline.fits(cost, reserve())
            if not count:
                return
            began = deadline.clock()
            score(queue[:count], each.orders)
            deadline.note(cost[:count].sum(), deadline.clock() - began)
            queue = queue[count:]
            yield place, queue


def open_rows(scores: np.ndarray, orders: tuple[str, ...]) -> np.ndarray:
    """
    Return a mask [N] of the rows that lack one of the orders.

    Args:
        scores: scores so far [N, 2, K], NaN where unknown.
        orders: the orders.
    """
    return np.any([np.isnan(scores[:, ORDERS.index(order), 0]) for order in orders], axis=0)


def uncertainty(probs: np.ndarray) -> np.ndarray:
    """Compute the entropy [N] in nats of probabilities [N, K]."""
    return entropy(probs, axis=-1)


def fit_length_rule(lengths: np.ndarray, gains: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """
    Fit the gain from the second order as a function of the length: the mean gain in bins with about equally many rows.

    Args:
        lengths: number of tokens of each battle [N].
        gains: log loss saved by the second order [N], in nats.

    Returns:
        A function from lengths [M] to gains [M].
    """
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, LENGTH_BINS + 1)[1:-1]))
    place = np.searchsorted(edges, lengths, side="left")
    counts = np.bincount(place, minlength=len(edges) + 1)
    means = np.bincount(place, gains, minlength=len(edges) + 1) / np.maximum(counts, 1)
    return lambda asked: means[np.searchsorted(edges, asked, side="left")]
