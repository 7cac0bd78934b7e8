"""Metrics that the trainer reports on held-out battles: those of `sft-judge evaluate`, with their intervals."""

import numpy as np
from scipy.special import softmax

from sft_judge.core.swap_orders import ORDERS, average_over_orders, unswap
from sft_judge.evaluation.bootstrap import resample
from sft_judge.evaluation.metrics import cross_entropy, figure_intervals, row_columns

WITH_INTERVAL, PLAIN = ("log_loss", "accuracy"), ("ece", "swap_agreement", "first_position_rate")


def verdict_metrics(prediction, clusters: np.ndarray) -> dict[str, float]:
    """
    Compute the metrics of an evaluation from verdict logits.

    A battle's probabilities are the mean over its two orders, as everywhere in the package. `log_loss` is in nats
    against the targets, which may be soft. `accuracy` is against the most likely verdict of the targets, a tie if a
    and b are equal. Both have `_low` and `_high`, the ends of a 95 % interval over prompts. `choice_mass` is the
    probability that the softmax over the whole vocabulary gives to the verdict tokens.

    Args:
        prediction: `predictions` are verdict logits [N, 2, K] and the log [N, 2] of the mass on the verdicts;
            `label_ids` are targets [N, 2, K].
        clusters: group of each battle's prompt [N].

    Returns:
        The metrics by name.
    """
    (logits, log_mass), targets = prediction.predictions, prediction.label_ids
    orders = unswap(softmax(logits.astype(float), axis=-1), ORDERS)
    probs, targets = average_over_orders(orders), targets[:, 0]
    columns = row_columns(probs, _likeliest(targets), orders) | {"log_loss": cross_entropy(targets, probs)}
    found = figure_intervals(resample(columns, clusters), (*WITH_INTERVAL, *PLAIN))
    metrics = {name: figure["value"] for name, figure in found.items()}
    for name in WITH_INTERVAL:
        metrics |= {f"{name}_{end}": found[name][end] for end in ("low", "high")}
    metrics["choice_mass"] = np.exp(log_mass).mean()
    return {
        name: float(value) for name, value in sorted(metrics.items()) if value is not None
    }  # with too few prompts an interval has no ends


def _likeliest(targets: np.ndarray) -> np.ndarray:
    """
    Return the most likely verdict [N] of targets [N, K]; if several are equally likely, a tie if K is 3, else the
    first.
    """
    several = (targets == targets.max(axis=1, keepdims=True)).sum(axis=1) > 1
    return np.where(several & (targets.shape[1] == 3), 2, targets.argmax(axis=1))
