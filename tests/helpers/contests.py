"""Contests between five models of known strengths, for the tests of rankings."""

import numpy as np

from sft_judge.core.swap_orders import swap
from sft_judge.data.synthetic.preference_model import davidson
from sft_judge.ranking.comparisons import Contests

STRENGTHS = np.array([0.9, 0.4, 0.0, -0.4, -0.9])
NU = 0.8


def contests_of(sides, counts, clusters=None, features=None, num=5) -> Contests:
    clusters = np.arange(len(sides)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    features = np.zeros((len(sides), 0)) if features is None else features
    names = [f"control {place}" for place in range(features.shape[1])]
    return Contests([f"model {place}" for place in range(num)], sides, counts, clusters, features, names)


def drawn_contests(rows=600, seed=0, slope=None) -> Contests:
    """Votes from known strengths; with `slope`, two features that differ between the responses are worth so much."""
    rng = np.random.default_rng(seed)
    sides = np.array([rng.choice(len(STRENGTHS), 2, replace=False) for _ in range(rows)])
    features = rng.normal(size=(rows, 0 if slope is None else 2))
    utilities = STRENGTHS[sides]
    if slope is not None:
        utilities[:, 0] += features @ slope
    verdicts = (rng.random((rows, 1)) > davidson(utilities, NU).cumsum(axis=1)).sum(axis=1)
    return contests_of(sides, np.eye(3)[verdicts], rng.integers(rows // 2, size=rows), features)


def turned(contests: Contests, rows: np.ndarray) -> Contests:
    """The same battles, the responses of some rows exchanged."""
    counts = np.where(rows[:, None], swap(contests.counts), contests.counts)
    sides = np.where(rows[:, None], contests.sides[:, ::-1], contests.sides)
    features = np.where(rows[:, None], -contests.features, contests.features)
    return contests_of(sides, counts, contests.clusters, features, len(contests.models))
