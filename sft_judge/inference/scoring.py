"""Battles to un-swapped log-probabilities on an engine."""

import numpy as np

from sft_judge.core.errors import InputError
from sft_judge.core.verdicts import ORDERS, swap
from sft_judge.prompts.prompt import JudgePrompt

SWAPS = ("both", "none")


def orders_of(policy: str) -> tuple[str, ...]:
    """The orders to show for a policy of SWAPS: both, or the battle's own alone."""
    if policy not in SWAPS:
        raise InputError(f"swap is {policy!r}, expected one of {', '.join(SWAPS)}.")
    return ORDERS if policy == "both" else ORDERS[:1]


def score_battles(engine, prompt: JudgePrompt, rows: list[dict], orders: tuple[str, ...]) -> np.ndarray:
    """Un-swapped log-probabilities [rows, orders, K]."""
    prompts = [ids for shown in prompt.encode(rows, orders) for ids in shown]
    return unswapped(engine.score(prompts), orders)


def unswapped(logp: np.ndarray, orders: tuple[str, ...]) -> np.ndarray:
    """What an engine says of each row in each order [rows * orders, K], as un-swapped [rows, orders, K]."""
    logp = logp.reshape(-1, len(orders), logp.shape[-1])
    return np.stack(
        [logp[:, place] if order == "ab" else swap(logp[:, place]) for place, order in enumerate(orders)], 1
    )


def labelled_scores(engine, prompt: JudgePrompt, rows: list[dict], orders) -> tuple[np.ndarray, list[str]]:
    """The same as [rows * orders, K], and "id order" for each: what two engines or forms are compared by."""
    logp = score_battles(engine, prompt, rows, orders)
    return logp.reshape(-1, logp.shape[-1]), [f"{row['id']} {order}" for row in rows for order in orders]
