"""
Score battles on an engine, and ask again where it gives no numbers.

A product that overflows in half precision makes a row's scores NaN, and a damaged weight does too. In vLLM, such a row
can make others NaN that are computed with it. So rows without numbers are scored again alone, and then in float32.
"""

import logging

import numpy as np

from sft_judge.core.choices import SWAPS
from sft_judge.core.errors import InputError
from sft_judge.core.swap_orders import ORDERS, unswap
from sft_judge.prompts.prompt import JudgePrompt

logger = logging.getLogger(__name__)

NAMED = 5  # battles that a message names
TRIES_ALONE = 3  # for a row that is not finite: vLLM may give it memory in which another row left NaN
MOST_IN_FLOAT32 = 256  # rows of a call that are scored again in float32, which may run on the CPU


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
        Log-probabilities [rows, orders, K], un-swapped (a is the battle's own response_a in every order). Where the
        engine gives no finite numbers, all K are NaN, and a warning names the battle.
    """
    prompts = [ids for shown in prompt.encode(rows, orders) for ids in shown]
    names = [f"{row.get('id') or place} ({order})" for place, row in enumerate(rows) for order in orders]
    return unswap(score_finite(engine, prompts, names), orders)


def score_finite(engine, prompts: list[list[int]], names: list[str]) -> np.ndarray:
    """
    Score prompts, and score those without finite numbers again: alone, and then in float32 where the engine can.

    Args:
        engine: an open engine.
        prompts: token ids of each row [N].
        names: name of each row [N], for messages.

    Returns:
        Log-probabilities [N, K], NaN in rows without finite numbers.
    """
    logp = engine.score(prompts)
    wrong = missing = _not_finite(logp)
    for _ in range(TRIES_ALONE):
        for row in missing:
            logp[row] = engine.score([prompts[row]], fresh=True)[0]
        missing = missing[_not_finite(logp[missing])]
    exact = engine.in_float32() if len(missing) else None
    if exact is not None:
        again = missing[:MOST_IN_FLOAT32]
        logp[again] = exact.score([prompts[row] for row in again])
        missing = _not_finite(logp)
    logp[missing] = np.nan
    if len(wrong) > len(missing):
        logger.warning(f"scored again, as the scores were not finite: {_named(set(wrong) - set(missing), names)}")
    if len(missing):
        logger.warning(
            f"no finite scores: {_named(missing, names)}. Weights that overflow in half precision need --dtype "
            "bfloat16 or float32; a weight that is not finite is damaged."
        )
    return logp


def _not_finite(logp: np.ndarray) -> np.ndarray:
    return np.flatnonzero(~np.isfinite(logp).all(axis=1))


def _named(rows, names: list[str]) -> str:
    shown = ", ".join(names[row] for row in sorted(rows)[:NAMED])
    return f"{shown} and {len(rows) - NAMED} more" if len(rows) > NAMED else shown


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

    Raises:
        InputError: a battle has no finite scores.
    """
    logp = score_battles(engine, prompt, rows, orders)
    labels = [f"{row['id']} {order}" for row in rows for order in orders]
    flat = logp.reshape(-1, logp.shape[-1])
    if len(missing := _not_finite(flat)):
        raise InputError(f"No finite scores for {_named(missing, labels)}, so nothing can be compared on them.")
    return flat, labels
