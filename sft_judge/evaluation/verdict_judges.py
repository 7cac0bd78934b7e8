"""
Judges that give verdicts and no probabilities, evaluated on the same battles as other judges.

They have an accuracy and the other metrics of verdicts. Their log loss, Brier score or calibration error would only
reflect the value at which probabilities are clipped, so these metrics need `confusion_probabilities`.
"""

from dataclasses import dataclass

import numpy as np

from sft_judge.core.errors import InputError
from sft_judge.core.swap_orders import swap
from sft_judge.data.probs import first_verdicts
from sft_judge.data.verdict_files import UNREAD, VerdictFile
from sft_judge.evaluation.bootstrap import MIN_PROMPTS

PARTS = 10  # parts of the prompts for cross-fitting
PRIOR_ROWS = 2.0  # weight of the class frequencies, in rows, in each row of the confusion matrix


@dataclass(frozen=True)
class VerdictRules:
    """
    Rules that score verdicts as right or wrong.

    Attributes:
        unread: one of UNREAD_RULES. An answer that could not be read is "wrong" (PandaLM, LLMBar) or left out
            ("skip").
        disagree: one of DISAGREE_RULES. Two orders with different verdicts count "half" each, are a "tie" (MT-Bench's
            FastChat), or are "wrong" (Auto-J's agreement).
        probabilities: derive probabilities with `confusion_probabilities`.
    """

    unread: str = "wrong"
    disagree: str = "half"
    probabilities: bool = False


def chosen_by_verdicts(file: VerdictFile, ids: list[str], num: int, rules: VerdictRules) -> tuple[np.ndarray, ...]:
    """
    Return a judge's choices on these battles.

    Args:
        file: the judge's verdicts.
        ids: ids of the N battles.
        num: number of verdicts K.
        rules: rules for unread and disagreeing answers.

    Returns:
        `chosen` `[N, K]`, the share of each verdict, which sums to less than one if an answer is wrong whatever people
        say; `orders` `[N, 2, K]` of zeros and ones, NaN without an answer; `known` `[N]`, True if the battle counts.
    """
    said, shown = file.by_order(ids)
    read = said != UNREAD
    each = first_verdicts(np.eye(3)[np.maximum(said, 0)].reshape(-1, 3), num).reshape(*said.shape, num)
    each = each * read[:, :, None]
    asked = shown if rules.unread == "wrong" else read
    chosen = each.sum(axis=1) / np.maximum(asked.sum(axis=1), 1)[:, None]
    differ = read.all(axis=1) & (said[:, 0] != said[:, 1])
    if rules.disagree != "half":
        chosen[differ] = np.eye(num)[2] if rules.disagree == "tie" and num == 3 else 0.0
    orders = np.where(read[:, :, None], each, np.nan)
    return chosen, orders, asked.any(axis=1)


def confusion_probabilities(orders: np.ndarray, verdicts: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """
    Estimate verdict probabilities `[N, K]` from how often people gave each verdict for the same answers of the judge.

    They come from the confusion matrix of the other prompts' battles (ten parts, cross-fitted), so that no battle is
    predicted from its own vote. Each battle is also counted with its responses swapped, so swapping the responses
    swaps the result.

    Args:
        orders: the answers in each order `[N, 2, K]`, NaN without an answer.
        verdicts: people's verdicts `[N]`.
        clusters: prompt of each row `[N]`.

    Raises:
        InputError: there are too few prompts to estimate a frequency.
    """
    num, prompts = orders.shape[2], int(clusters.max()) + 1
    if prompts < MIN_PROMPTS:
        raise InputError(
            f"Probabilities of verdicts need at least {MIN_PROMPTS} prompts, but these battles have {prompts}. "
            "Leave out --verdict-probabilities."
        )
    answers = _answers(orders)
    mirrored = _answers(swap(orders)[:, ::-1])
    people, exchanged = np.eye(num)[verdicts], swap(np.eye(num)[verdicts])
    part = np.random.default_rng(0).permutation(prompts)[clusters] % PARTS
    probs = np.empty((len(verdicts), num))
    for place in range(PARTS):
        rows = part != place
        counts = np.zeros(((num + 1) ** 2, num))
        np.add.at(counts, answers[rows], people[rows] / 2)
        np.add.at(counts, mirrored[rows], exchanged[rows] / 2)
        prior = (counts.sum(axis=0) + 1) / (counts.sum() + num)
        table = (counts + PRIOR_ROWS * prior) / (counts.sum(axis=1, keepdims=True) + PRIOR_ROWS)
        probs[~rows] = table[answers[~rows]]
    return probs


def _answers(orders: np.ndarray) -> np.ndarray:
    """Encode the answers in both orders as one integer `[N]`; a missing answer counts as a separate answer."""
    num = orders.shape[2]
    answers = np.nan_to_num(orders)
    said = np.where(answers.max(axis=2) == 1, answers.argmax(axis=2), num)
    return said[:, 0] * (num + 1) + said[:, 1]
