"""Probabilities that are drawn, and verdicts drawn from them."""

import numpy as np

from sft_judge.evaluation.calibration_fit import HeldOut
from sft_judge.evaluation.metrics import cross_entropy, one_hot
from sft_judge.modeling.temperature_scaling import apply_calibration, apply_scaling


def random_judge(rows=400, num=3, seed=0):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(num), rows)
    return probs, np.array([rng.choice(num, p=row) for row in probs])


def drawn(truth, rng):
    return (rng.random(len(truth))[:, None] > truth.cumsum(axis=1)).sum(axis=1).clip(max=truth.shape[1] - 1)


def synthetic(temperature=1.0, rows=4000, num=3, seed=0):
    """Probabilities [N, K] that are right once raised to 1 / temperature, and verdicts drawn from the right ones."""
    rng = np.random.default_rng(seed)
    truth = rng.dirichlet(np.ones(num), rows)
    return apply_scaling(truth, 1 / temperature), drawn(truth, rng)


def loss(probs, verdicts, calibration=None):
    scaled = apply_calibration(probs, calibration)
    return cross_entropy(one_hot(verdicts, scaled.shape[1]), scaled).mean()


def held(probs, verdicts, languages=None, rows_a_prompt=2):
    languages = np.full(len(verdicts), None, dtype=object) if languages is None else languages
    return HeldOut(probs, verdicts, np.arange(len(verdicts)) // rows_a_prompt, languages)
