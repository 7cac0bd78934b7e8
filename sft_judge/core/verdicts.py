"""
The verdicts a judge can give.

Every [..., K] array in this project (logits, probabilities, soft labels) is in the order of VERDICTS, K = 2 leaving
out the tie. The order is decided here and nowhere else.
"""

import numpy as np

VERDICTS = ("a", "b", "tie")
ORDERS = ("ab", "ba")  # which response is shown to the model first


def verdict_names(num_verdicts: int) -> tuple[str, ...]:
    """The verdicts in use: `("a", "b")` or `("a", "b", "tie")`."""
    if num_verdicts not in (2, 3):
        raise ValueError(f"A judge has 2 or 3 verdicts, not {num_verdicts}.")
    return VERDICTS[:num_verdicts]


def swap(values: np.ndarray) -> np.ndarray:
    """Exchange the columns of a and b in a [..., K] array: the same verdicts once the responses trade places."""
    values = np.asarray(values)
    columns = [1, 0, 2][: values.shape[-1]]
    return values[..., columns]
