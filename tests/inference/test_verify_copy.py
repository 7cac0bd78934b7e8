"""A quantised copy is held to its judge on as many battles as see the tolerance, soft labels among them."""

import numpy as np
import pytest

from sft_judge.core.errors import GateError, InputError
from sft_judge.core.swap_orders import ORDERS
from sft_judge.inference import verify

pytestmark = pytest.mark.unit


@pytest.fixture
def scored(monkeypatch):
    """Rows scored a call, by drawn numbers: a copy `noise/loss` differs by both from the judge."""
    calls = []

    def score(model, rows, engine, dtype="auto", onto="trained"):
        noise, loss = map(float, model.split("/")) if "/" in model else (0.0, 0.0)
        if "/" in model:
            calls.append(len(rows))
        out = []
        for row in rows:
            rng = np.random.default_rng(int(row["id"]))
            logits = (
                rng.normal(size=3)
                + noise * rng.normal(size=3)
                - loss * np.eye(3)["a b tie".split().index(row["truth"])]
            )
            out += [logits - np.logaddexp.reduce(logits)] * 2
        return np.array(out), [f"{row['id']} {order}" for row in rows for order in ORDERS]

    monkeypatch.setattr(verify, "score", score)
    monkeypatch.setattr(verify, "dtype_of", lambda model, dtype: dtype)
    return calls


def battles(num, soft=None):
    truth = np.random.default_rng(0).choice(["a", "b", "tie"], num)
    rows = [{"id": str(i), "verdict": name, "truth": name} for i, name in enumerate(truth)]
    if soft is not None:
        rows = [
            row
            | {"verdict": soft or None}
            | {f"soft_{name}": float(name == row["truth"]) for name in ("a", "b", "tie")}
            for row in rows
        ]
    return rows


def test_as_many_battles_are_scored_as_see_the_tolerance_and_no_more(scored):
    facts = verify.verify_copy("judge", "0.001/0", battles(3000), 0.005)
    assert scored == [256] and facts["rows"] == 256
    scored.clear()
    facts = verify.verify_copy("judge", "0.1/0", battles(3000), 0.005)
    assert len(scored) == 2 and 256 < facts["rows"] == sum(scored) < 3000
    value, low, high = facts["log_loss_rise"]
    assert (high - low) / 2 <= 0.005 and low < 0 < high


def test_too_few_battles_pass_with_how_many_it_takes(scored, caplog):
    verify.verify_copy("judge", "0.1/0", battles(64), 0.005)
    assert (
        "64 battles can detect a rise of at least" in caplog.text
        and "are needed to detect a rise of 0.005 (--tolerance)" in caplog.text
    )


def test_a_copy_that_has_certainly_lost_more_than_the_tolerance_is_refused(scored):
    with pytest.raises(GateError, match="significantly above 0, and more than the tolerance of 0.005"):
        verify.verify_copy("judge", "0.1/0.02", battles(3000), 0.005)
    assert verify.verify_copy("judge", "0.1/0.02", battles(3000), 0.05)["tolerance"] == 0.05


@pytest.mark.parametrize("soft", [None, "", "tie"])
def test_soft_labels_count_as_verdicts_do_and_before_them(soft, scored):
    facts = verify.verify_forms("judge", "0.1/0.02", battles(200, soft), ["transformers"], "float32", 0.05)
    expected = verify.verify_copy("judge", "0.1/0.02", battles(200), 0.05)
    assert facts["log_loss_rise"] == pytest.approx(expected["log_loss_rise"])


def test_battles_without_labels_are_refused_by_verify(scored):
    rows = battles(9)
    rows[3]["verdict"] = None
    with pytest.raises(InputError, match="1 of 9 battles have no label"):
        verify.verify_forms("judge", "0.1/0", rows, ["transformers"], "float32")
    with pytest.raises(InputError, match="give at least two"):
        verify.verify_forms("judge", "0.1/0", battles(1), ["transformers"], "float32")
