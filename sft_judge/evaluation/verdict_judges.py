"""
Judges that give verdicts and no probabilities, held to the same battles as those that do.

They have an accuracy and whatever else is made of verdicts. A log loss, Brier score or calibration error of theirs
would be made of the number at which probabilities are clipped. They have one where `confusion_probabilities` gives
them probabilities.
"""

from dataclasses import dataclass

import numpy as np

from sft_judge.core.errors import InputError
from sft_judge.core.swap_orders import swap
from sft_judge.data.probs import first_verdicts
from sft_judge.data.verdict_files import UNREAD, VerdictFile
from sft_judge.evaluation.bootstrap import MIN_PROMPTS

PARTS = 10  # of the prompts, for cross-fitting
PRIOR_ROWS = 2.0  # that the class frequencies count for beside each answer's own rows


@dataclass(frozen=True)
class VerdictRules:
    """
    How verdicts become right and wrong.

    Attributes:
        unread: of UNREAD_RULES: an answer that could not be read is "wrong" (PandaLM, LLMBar), or left out: "skip".
        disagree: of DISAGREE_RULES: two orders with different verdicts count "half" each; are a "tie" (MT-Bench's
            FastChat); or are "wrong", as the agreement of Auto-J has it.
        probabilities: whether they are given probabilities by `confusion_probabilities`.
    """

    unread: str = "wrong"
    disagree: str = "half"
    probabilities: bool = False


def chosen_by_verdicts(file: VerdictFile, ids: list[str], num: int, rules: VerdictRules) -> tuple[np.ndarray, ...]:
    """
    What a judge chose of these battles.

    Returns:
        `chosen` [N, K], the share of each verdict, adding up to less than one where an answer is wrong whatever people
        say; `orders` [N, 2, K] of zeros and ones, NaN where there is no answer; `known` [N], whether the battle
        counts.
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
    How often people gave each verdict where the judge gave these answers: probabilities [N, K].

    By the confusion matrix of the other prompts' battles (ten parts, cross-fitted), so that none is told by its own
    vote. A battle and the same with its responses exchanged are one, so exchanging them exchanges the result.

    Args:
        orders: the answers in each order [N, 2, K], NaN where there is none.
        verdicts: people's [N].
        clusters: the prompt of each row [N].

    Raises:
        InputError: fewer prompts than a frequency can be known from.
    """
    num, prompts = orders.shape[2], int(clusters.max()) + 1
    if prompts < MIN_PROMPTS:
        raise InputError(
            f"Probabilities of verdicts are frequencies over {MIN_PROMPTS} prompts or more; these are battles of "
            f"{prompts}. Leave out --verdict-probabilities."
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
    """One number [N] for what was said in both orders; no answer counts as an answer of its own."""
    num = orders.shape[2]
    answers = np.nan_to_num(orders)
    said = np.where(answers.max(axis=2) == 1, answers.argmax(axis=2), num)
    return said[:, 0] * (num + 1) + said[:, 1]
