"""What the trainer reports of its held-out battles."""

from types import SimpleNamespace

import numpy as np
import pytest

from sft_judge.training.compute_metrics import verdict_metrics

pytestmark = pytest.mark.unit


def test_held_out_battles_of_one_prompt_have_figures_and_no_intervals():
    rng = np.random.default_rng(0)
    said = SimpleNamespace(
        predictions=(rng.normal(size=(8, 2, 3)), np.zeros((8, 2))), label_ids=np.eye(3)[rng.integers(3, size=(8, 2))]
    )
    one, many = (verdict_metrics(said, clusters) for clusters in (np.zeros(8, dtype=int), np.arange(8)))
    assert set(many) - set(one) == {f"{name}_{end}" for name in ("log_loss", "accuracy") for end in ("low", "high")}
    assert all(one[name] == many[name] for name in one)
