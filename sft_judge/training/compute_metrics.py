"""What the trainer reports of its held-out battles: the figures that `evaluate` gives, with their intervals."""

import numpy as np
from scipy.special import softmax

from sft_judge.core.swap_orders import ORDERS, average_over_orders, unswap
from sft_judge.evaluation.bootstrap import resample
from sft_judge.evaluation.metrics import cross_entropy, figure_intervals, row_columns

WITH_INTERVAL, PLAIN = ("log_loss", "accuracy"), ("ece", "swap_agreement", "first_position_rate")


def verdict_metrics(prediction, clusters: np.ndarray) -> dict[str, float]:
    """
    Figures of verdict logits and targets [N, 2, K], and the log [N, 2] of the mass on the verdicts.

    A battle's probabilities are the mean of those of its two orders, as everywhere else. `log_loss` is in nats
    against the targets, which may be soft; `accuracy` against the likeliest, a tie where a and b are equal; both with
    `_low` and `_high`, a 95 % interval over prompts (`clusters` [N]). `choice_mass` is the probability that the whole
    vocabulary's softmax leaves to the verdicts.
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
    }  # no ends of a few prompts


def _likeliest(targets: np.ndarray) -> np.ndarray:
    """The likeliest verdict [N] of targets [N, K]; a tie, where there is one, of several that are equal."""
    several = (targets == targets.max(axis=1, keepdims=True)).sum(axis=1) > 1
    return np.where(several & (targets.shape[1] == 3), 2, targets.argmax(axis=1))
