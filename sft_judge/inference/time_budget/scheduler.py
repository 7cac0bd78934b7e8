"""
Which rows to score next, so that a time budget is used up and not overrun: pure functions and an injected clock.

Rows are scored in blocks. The rate in tokens a second is that of the last blocks, so a machine that slows down is
noticed at the next one; a block takes no longer than the margin, so one that takes twice its time still ends in time.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import entropy

from sft_judge.core.swap_orders import ORDERS

SLICE = 60.0  # seconds a block is meant to take, at most
LEAST_MARGIN, MARGIN_SHARE = 8.0, 0.01  # seconds, and of the budget: for the last write, the way out and a late block
FIRST_ROWS = 8  # scored before any rate is known
MEMORY = 0.5  # what a block's tokens and seconds still count once the next is known
LENGTH_BINS = 8


class Deadline:
    """The time that is left, less the margin, and the rate measured so far. Seconds throughout."""

    def __init__(self, budget: float, started: float, clock: Callable[[], float] = time.monotonic):
        self.clock, self.started, self.budget = clock, started, float(budget)
        self.margin = min(max(LEAST_MARGIN, MARGIN_SHARE * budget), 2 * SLICE)
        self.end = started + budget - self.margin
        self._tokens = self._seconds = 0.0

    def left(self) -> float:
        """Until the last block must have ended; below zero once it should have."""
        return self.end - self.clock()

    def elapsed(self) -> float:
        """Since the command began."""
        return self.clock() - self.started

    @property
    def rate(self) -> float | None:
        """Tokens a second over the last blocks; None before the first."""
        return self._tokens / self._seconds if self._seconds else None

    def note(self, tokens: float, seconds: float) -> None:
        """A block is done."""
        self._tokens = MEMORY * self._tokens + tokens
        self._seconds = MEMORY * self._seconds + max(seconds, 1e-6)

    def fits(self, tokens: np.ndarray, reserve: float = 0.0) -> int:
        """How many of the next rows [R], given their tokens, to score as one block; 0 to stop. `reserve`: to keep."""
        left = self.left() - reserve
        if left <= 0 or not len(tokens):
            return 0
        if self.rate is None:
            return min(FIRST_ROWS, len(tokens))
        seconds = np.cumsum(tokens) / self.rate
        count = int(np.searchsorted(seconds, min(SLICE, self.margin, left), side="right"))
        return count or int(seconds[0] <= left)  # one row may take longer than a block is meant to

    def forecast(self, queue: np.ndarray, later: np.ndarray) -> tuple[int, int]:
        """
        How many rows of `queue` [R] and then of `later` [S], their tokens, will be done in time at the present rate.

        The order of the later ones is not known yet, so they count as the mean of them.
        """
        room = max(self.left(), 0.0) * (self.rate or 0.0)
        now = int(np.searchsorted(np.cumsum(queue), room, side="right"))
        rest = room - queue.sum()
        then = min(len(later), int(rest / later.mean())) if len(later) and rest > 0 else 0
        return now, then


@dataclass
class Pass:
    """One round over the rows: the orders shown, and from the scores so far [N, 2, K] which rows, first one first."""

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
    Score blocks of rows until all passes are through or the time is; after each, yields its pass and the rows left.

    `tokens` [N] of each row in one order; `scores()` [N, 2, K] what is known, NaN where nothing is; `score(rows,
    orders)` does a block and keeps it; `reserve()` seconds that the caller needs at the end beside the margin.
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
    """Mask [N] of the rows that lack one of the orders, of scores [N, 2, K] with NaN where nothing is known."""
    return np.any([np.isnan(scores[:, ORDERS.index(order), 0]) for order in orders], axis=0)


def uncertainty(probs: np.ndarray) -> np.ndarray:
    """Entropy [N] in nats of probabilities [N, K]: how little a judge knows of a row."""
    return entropy(probs, axis=-1)


def fit_length_rule(lengths: np.ndarray, gains: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """
    What the other order gains at a length: the mean of `gains` [N] (log loss saved, nats) in bins of `lengths` [N].

    The bins hold about equally many rows; the result maps lengths [M] to gains [M].
    """
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, LENGTH_BINS + 1)[1:-1]))
    place = np.searchsorted(edges, lengths, side="left")
    counts = np.bincount(place, minlength=len(edges) + 1)
    means = np.bincount(place, gains, minlength=len(edges) + 1) / np.maximum(counts, 1)
    return lambda asked: means[np.searchsorted(edges, asked, side="left")]
