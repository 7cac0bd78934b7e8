"""
Battles without a score: class frequencies stand in for them, marked as not judged.

A battle has no score if a deadline left it out, or if no engine gave it finite numbers.
"""

import numpy as np

from sft_judge.core.swap_orders import ORDERS, widen
from sft_judge.data.probs import Probs
from sft_judge.modeling.judge_spec import JudgeSpec


def class_frequencies(spec: JudgeSpec, symmetric: bool) -> tuple[np.ndarray, str]:
    """
    Return the shares of the verdicts in training, or equal shares if judge.json has none, and where they are from.

    Args:
        spec: the judge's judge.json.
        symmetric: give a and b the same share, so that exchanging the responses exchanges the result.

    Returns:
        The shares [K], which sum to one, and a description.
    """
    shares = spec.training.get("verdict_shares")
    known = np.array(shares or [1 / spec.num_verdicts] * spec.num_verdicts)
    if symmetric:
        known[:2] = known[:2].mean()
    return known, "verdicts in training, from judge.json" if shares else "equal shares: judge.json has none"


def fill_unscored(
    ids: np.ndarray, scores: np.ndarray, frequencies: np.ndarray, metadata: dict, languages: np.ndarray | None
) -> Probs:
    """
    Build the probs of all battles: a row for each order that was judged, and class frequencies where none was.

    Args:
        ids: ids of the battles [N].
        scores: log-probabilities [N, orders, K] in the order of ORDERS, NaN where unknown.
        frequencies: class frequencies [K].
        metadata: metadata of the file.
        languages: languages of the prompts [N], or None.
    """
    is_scored = is_finite(scores)
    unknown = ~is_scored.any(axis=1)
    filled = widen(np.where(unknown[:, None, None], np.log(frequencies), scores), -np.inf)
    first = np.arange(scores.shape[1]) == 0
    rows, places = np.nonzero(is_scored | (unknown[:, None] & first))
    orders = np.array(ORDERS, dtype=object)[places]
    of_rows = None if languages is None else languages[rows]
    return Probs(ids[rows], orders, filled[rows, places], metadata, ~unknown[rows], of_rows)


def is_finite(scores: np.ndarray) -> np.ndarray:
    """Return a mask [...] of the rows of scores [..., K] that are numbers. -inf is one: a verdict is impossible."""
    return ~np.isnan(scores).any(axis=-1)
