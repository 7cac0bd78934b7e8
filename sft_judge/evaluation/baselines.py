"""
Baselines that read no answer: the class frequencies, and the longer answer with the frequencies of its wins.

A judge should beat both. Their counts come from the training battles if given, otherwise from the evaluated rows. Each
count is raised by one (Laplace), so that no verdict is impossible.
"""

import numpy as np
import pyarrow as pa

from sft_judge.core.swap_orders import swap
from sft_judge.data.style import text_lengths

FREQUENCIES, LONGER = "class frequencies", "the longer answer"


def longer_response(battles: pa.Table) -> np.ndarray:
    """Return the longer response `[N]`: 0 for response_a, 1 for response_b, -1 for equal length."""
    a, b = (text_lengths(battles, name) for name in ("response_a", "response_b"))
    return np.where(a == b, -1, (b > a).astype(int))


def class_frequencies(verdicts: np.ndarray, num: int) -> np.ndarray:
    """
    Compute the frequencies `[K]` of verdicts, with Laplace smoothing.

    Args:
        verdicts: verdict indices `[N]`; indices below 0 or at least `num` do not count.
        num: number of verdicts K.
    """
    counts = np.bincount(verdicts[(verdicts >= 0) & (verdicts < num)], minlength=num) + 1.0
    return counts / counts.sum()


def longer_frequencies(verdicts: np.ndarray, longer: np.ndarray, num: int) -> np.ndarray:
    """
    Compute how often the longer response wins, the shorter wins, and neither, `[K]`.

    Args:
        verdicts: verdict indices `[N]`.
        longer: index of the longer response `[N]`, -1 for equal length; these rows do not count.
        num: number of verdicts K.
    """
    there = (longer >= 0) & (verdicts >= 0) & (verdicts < num)
    verdicts, longer = verdicts[there], longer[there]
    outcomes = np.where(verdicts == 2, 2, (verdicts != longer).astype(int))
    return class_frequencies(outcomes, num)


def baseline_probs(frequencies: np.ndarray, of_longer: np.ndarray, longer: np.ndarray) -> dict[str, np.ndarray]:
    """
    Build the probabilities of both baselines, `{baseline: [N, K]}`.

    Args:
        frequencies: class frequencies `[K]`.
        of_longer: result of `longer_frequencies` `[K]`.
        longer: index of the longer response `[N]`, -1 for equal length.
    """
    constant = np.tile(frequencies, (len(longer), 1))
    by_length = np.where((longer == 1)[:, None], swap(of_longer), of_longer)
    return {FREQUENCIES: constant, LONGER: np.where((longer < 0)[:, None], constant, by_length)}
