"""
Verdicts of a judge and their order.

Every `[..., K]` array in this project (logits, probabilities, soft labels) is in the order of `VERDICTS`; K = 2 leaves
out the tie. The order is defined here only.
"""

VERDICTS = ("a", "b", "tie")


def verdict_names(num_verdicts: int) -> tuple[str, ...]:
    """Return the verdicts in use: `("a", "b")` or `("a", "b", "tie")`."""
    if num_verdicts not in (2, 3):
        raise ValueError(f"A judge has 2 or 3 verdicts, not {num_verdicts}.")
    return VERDICTS[:num_verdicts]
