"""Score battles on an engine."""

import numpy as np

from sft_judge.core.choices import SWAPS
from sft_judge.core.errors import InputError
from sft_judge.core.swap_orders import ORDERS, unswap
from sft_judge.prompts.prompt import JudgePrompt


def orders_of(policy: str) -> tuple[str, ...]:
    """Return the orders to show for a policy of SWAPS: both orders, or only the battle's own."""
    if policy not in SWAPS:
        raise InputError(f"swap is {policy!r}, expected one of {', '.join(SWAPS)}.")
    return ORDERS if policy == "both" else ORDERS[:1]


def score_battles(engine, prompt: JudgePrompt, rows: list[dict], orders: tuple[str, ...]) -> np.ndarray:
    """
    Score battles on an engine.

    Args:
        engine: an open engine.
        prompt: the judge's prompt.
        rows: the battles.
        orders: the orders to show.

    Returns:
        Log-probabilities [rows, orders, K], un-swapped (a is the battle's own response_a in every order).
    """
    prompts = [ids for shown in prompt.encode(rows, orders) for ids in shown]
    return unswap(engine.score(prompts), orders)


def labelled_scores(engine, prompt: JudgePrompt, rows: list[dict], orders) -> tuple[np.ndarray, list[str]]:
    """
    Score battles for a comparison of two engines or two forms of a judge.

    Args:
        engine: an open engine.
        prompt: the judge's prompt.
        rows: the battles.
        orders: the orders to show.

    Returns:
        Log-probabilities [rows * orders, K], un-swapped (a is the battle's own response_a in every order), and "id
        order" of each row.
    """
    logp = score_battles(engine, prompt, rows, orders)
    return logp.reshape(-1, logp.shape[-1]), [f"{row['id']} {order}" for row in rows for order in orders]
