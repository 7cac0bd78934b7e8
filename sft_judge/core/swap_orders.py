"""
Verdicts under the two orders of a battle's responses: exchanged, turned back, averaged; and widened by a tie.

How verdicts are exchanged under the other order, how two orders become one and how two verdicts become three is
decided in this module alone. Arrays `[..., K]` are in the order of `VERDICTS`.
"""

import numpy as np

from sft_judge.core.verdicts import VERDICTS

ORDERS = ("ab", "ba")  # which response is shown to the model first
_EXCHANGED_COLUMNS = [1, 0, 2]


def swap(values):
    """
    Exchange the columns of a and b: the same verdicts once the responses trade places.

    Args:
        values: array or tensor `[..., K]`.

    Returns:
        A new one of the same type and shape.
    """
    return values[..., _EXCHANGED_COLUMNS[: values.shape[-1]]]


def unswap(values: np.ndarray, orders: tuple[str, ...]) -> np.ndarray:
    """
    Turn verdicts on the responses as shown into verdicts on the battle's own responses.

    Args:
        values: what a judge says of each battle in each order, `[N, orders, K]` or `[N * orders, K]`.
        orders: the orders that were shown, of `ORDERS`.

    Returns:
        `[N, orders, K]`, column a always the battle's own `response_a`.
    """
    values = values.reshape(-1, len(orders), values.shape[-1])
    return np.stack([values[:, i] if order == "ab" else swap(values[:, i]) for i, order in enumerate(orders)], axis=1)


def average_over_orders(probs: np.ndarray, shown: np.ndarray | None = None) -> np.ndarray:
    """
    Average each battle's probabilities over the orders in which it was shown.

    The sum of two numbers does not depend on their order, so exchanging the responses of a battle exchanges the
    result to the last bit.

    Args:
        probs: un-swapped probabilities `[N, orders, K]`. NaN in one of them is NaN in the result.
        shown: the orders `[N, orders]` that count for each battle; by default all.

    Returns:
        Their arithmetic mean `[N, K]`.
    """
    shown = np.ones(probs.shape[:2], dtype=bool) if shown is None else shown
    return np.where(shown[..., None], probs, 0.0).sum(axis=1) / shown.sum(axis=1)[:, None]


def widen(values: np.ndarray, tie: float = 0.0) -> np.ndarray:
    """Widen `[..., 2]` to `[..., 3]` with `tie` in the third column: 0 of probabilities, -inf of their logarithms."""
    missing = len(VERDICTS) - values.shape[-1]
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, missing)], constant_values=tie)
