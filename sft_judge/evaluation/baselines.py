"""
What those would say who read no answer: class frequencies, and "the longer one", with the frequencies of that.

A judge has to beat both. Their counts are those of training where it is given, else of the evaluated rows themselves;
each is one higher (Laplace), so that no verdict is impossible.
"""

import numpy as np
import pyarrow as pa

from sft_judge.core.swap_orders import swap
from sft_judge.data.style import text_lengths

FREQUENCIES, LONGER = "class frequencies", "the longer answer"


def longer_response(battles: pa.Table) -> np.ndarray:
    """[N]: 0 where response_a is longer, 1 where response_b is, -1 where neither."""
    a, b = (text_lengths(battles, name) for name in ("response_a", "response_b"))
    return np.where(a == b, -1, (b > a).astype(int))


def class_frequencies(verdicts: np.ndarray, num: int) -> np.ndarray:
    """Frequencies [K] of verdict indices [N]; those that are none, or not among the first `num`, do not count."""
    counts = np.bincount(verdicts[(verdicts >= 0) & (verdicts < num)], minlength=num) + 1.0
    return counts / counts.sum()


def longer_frequencies(verdicts: np.ndarray, longer: np.ndarray, num: int) -> np.ndarray:
    """[K] of battles with a longer response: how often that wins, the shorter wins, and neither."""
    there = (longer >= 0) & (verdicts >= 0) & (verdicts < num)
    verdicts, longer = verdicts[there], longer[there]
    outcomes = np.where(verdicts == 2, 2, (verdicts != longer).astype(int))
    return class_frequencies(outcomes, num)


def baseline_probs(frequencies: np.ndarray, of_longer: np.ndarray, longer: np.ndarray) -> dict[str, np.ndarray]:
    """`{baseline: [N, K]}` for rows whose longer response is `longer` [N]."""
    constant = np.tile(frequencies, (len(longer), 1))
    by_length = np.where((longer == 1)[:, None], swap(of_longer), of_longer)
    return {FREQUENCIES: constant, LONGER: np.where((longer < 0)[:, None], constant, by_length)}
