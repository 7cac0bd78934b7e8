"""
Conversion of verdicts between the two orders of a battle's responses, averaging over orders, and adding a tie.

Swapping verdicts for the other order, merging two orders and extending two verdicts to three are defined only in this
module. Arrays `[..., K]` are in the order of `VERDICTS`. Values are *un-swapped* if column a is the battle's own
response_a in every order.
"""

import numpy as np

from sft_judge.core.verdicts import VERDICTS

ORDERS = ("ab", "ba")  # the response that is shown to the model first, then the other
_EXCHANGED_COLUMNS = [1, 0, 2]


def swap(values):
    """
    Swap the columns of a and b, which gives the verdicts for swapped responses.

    Args:
        values: array or tensor `[..., K]`.

    Returns:
        A new array or tensor of the same type and shape.
    """
    return values[..., _EXCHANGED_COLUMNS[: values.shape[-1]]]


def unswap(values: np.ndarray, orders: tuple[str, ...]) -> np.ndarray:
    """
    Convert verdicts on the responses as shown to verdicts on the battle's own responses.

    Args:
        values: a judge's values for each battle in each order, `[N, orders, K]` or `[N * orders, K]`.
        orders: orders that were shown, of `ORDERS`.

    Returns:
        `[N, orders, K]`; column a is always the battle's own `response_a`.
    """
    values = values.reshape(-1, len(orders), values.shape[-1])
    return np.stack([values[:, i] if order == "ab" else swap(values[:, i]) for i, order in enumerate(orders)], axis=1)


def average_over_orders(probs: np.ndarray, shown: np.ndarray | None = None) -> np.ndarray:
    """
    Average each battle's probabilities over the orders in which it was shown.

    The sum of two floats does not depend on their order, so swapping the responses of a battle swaps the result
    exactly.

    Args:
        probs: un-swapped probabilities `[N, orders, K]`. NaN in a counted order is NaN in the result.
        shown: mask of the orders that count for each battle `[N, orders]`; defaults to all.

    Returns:
        Arithmetic mean `[N, K]`.
    """
    shown = np.ones(probs.shape[:2], dtype=bool) if shown is None else shown
    return np.where(shown[..., None], probs, 0.0).sum(axis=1) / shown.sum(axis=1)[:, None]


def widen(values: np.ndarray, tie: float = 0.0) -> np.ndarray:
    """
    Extend two verdicts `[..., 2]` to three `[..., 3]`; three stay as they are.

    Args:
        values: values `[..., 2]` or `[..., 3]`.
        tie: value of the tie: 0 for probabilities, -inf for log-probabilities.
    """
    missing = len(VERDICTS) - values.shape[-1]
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, missing)], constant_values=tie)
