"""Calibrations: found where they are known, symmetric, kept only where held-out rows support them."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from helpers.drawn_probs import drawn, held, loss, synthetic
from sft_judge.core.swap_orders import swap
from sft_judge.data.probs import MIN_PROBABILITY
from sft_judge.evaluation import calibration_fit
from sft_judge.evaluation.calibration_fit import choose_calibration, cross_fit, fit_temperature, fit_vector
from sft_judge.modeling.temperature_scaling import apply_calibration, apply_scaling

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def simulation():
    """`scripts/calibration_simulation.py`."""
    path = Path(__file__).parents[2] / "scripts" / "calibration_simulation.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("num", [2, 3])
def test_the_planted_temperature_is_recovered(temperature, num):
    probs, verdicts = synthetic(temperature, num=num)
    assert fit_temperature(held(probs, verdicts))["temperature"] == pytest.approx(temperature, rel=0.08)


def test_a_planted_scaling_of_ties_is_recovered():
    rng = np.random.default_rng(0)
    raw = rng.dirichlet([1, 1, 1], 20_000)
    wanted = {"temperature": 1.5, "tie_temperature": 0.8, "tie_offset": 0.7}
    found = fit_vector(held(raw, drawn(apply_scaling(raw, **wanted), rng)))
    assert found == pytest.approx(wanted, rel=0.12)


@pytest.mark.parametrize("fit", [fit_temperature, fit_vector])
@pytest.mark.parametrize("seed", range(5))
def test_the_fitted_rows_never_get_worse(fit, seed):
    probs, verdicts = synthetic(rows=30, seed=seed)
    assert loss(probs, verdicts, fit(held(probs, verdicts))) <= loss(probs, verdicts) + 1e-9


@pytest.mark.parametrize("fit, num", [(fit_temperature, 2), (fit_temperature, 3), (fit_vector, 3)])
def test_exchange_of_responses_exchanges_the_calibrated_result_to_the_bit(fit, num):
    probs, verdicts = synthetic(1.7, num=num)
    exchanged = np.array([1, 0, 2])[verdicts]
    found = fit(held(probs, verdicts))
    assert fit(held(swap(probs), exchanged)) == pytest.approx(found, rel=1e-4)
    np.testing.assert_array_equal(apply_calibration(swap(probs), found), swap(apply_calibration(probs, found)))


def test_a_probability_of_zero_stays_zero_and_rows_sum_to_one():
    probs = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1e-300, 1.0, 0.0]])
    scaled = apply_scaling(probs, 3.0, 0.5, 2.0)
    np.testing.assert_array_equal(scaled == 0, probs == 0)
    np.testing.assert_allclose(scaled.sum(axis=1), 1)
    assert scaled[1, 0] == scaled[1, 1] and -np.log(max(scaled[0, 1], MIN_PROBABILITY)) > 30


def test_no_calibration_is_kept_where_the_probabilities_are_right_already():
    kept = [choose_calibration(held(*synthetic(1.0, rows=600, seed=seed)))[0] for seed in range(12)]
    assert sum(one is None for one in kept) >= 6  # a fitted temperature of 1.01 is worse on the next rows


def test_a_temperature_is_kept_where_it_helps_and_ties_get_their_own_only_where_that_does():
    calibration, evidence = choose_calibration(held(*synthetic(2.0)))
    assert set(calibration) == {"temperature"} and evidence["form"] == "temperature" and evidence["gain"]["low"] > 0
    rng = np.random.default_rng(0)
    raw = rng.dirichlet([1, 1, 1], 4000)
    calibration, evidence = choose_calibration(held(raw, drawn(apply_scaling(raw, 1.5, 0.8, 1.0), rng)))
    assert set(calibration) == {"temperature", "tie_temperature", "tie_offset"} and evidence["form"] == "vector"


def test_a_language_has_its_own_temperature_only_where_its_rows_support_it():
    bold, verdicts = synthetic(0.4, rows=3000, seed=1)
    right, others = synthetic(2.5, rows=3000, seed=2)
    languages = np.array(["English", "German"], dtype=object).repeat([3000, 3000])
    calibration, _ = choose_calibration(
        held(np.concatenate([bold, right]), np.concatenate([verdicts, others]), languages)
    )
    assert calibration["languages"]["English"]["temperature"] == pytest.approx(0.4, rel=0.1)
    scaled = apply_calibration(np.stack([bold[0], bold[0]]), calibration, ["English", "French"])
    np.testing.assert_allclose(scaled[0], apply_scaling(bold[0], calibration["languages"]["English"]["temperature"]))
    np.testing.assert_allclose(scaled[1], apply_scaling(bold[0], calibration["temperature"]))
    same, verdicts = synthetic(2.0, rows=6000)
    assert "languages" not in choose_calibration(held(same, verdicts, languages))[0]


def test_a_form_that_is_asked_for_is_kept_whatever_it_is_worth():
    drawn_rows = (held(*synthetic(1.0, rows=600, seed=seed)) for seed in range(12))
    rows = next(rows for rows in drawn_rows if choose_calibration(rows)[0] is None)
    for form, fit in (("temperature", fit_temperature), ("vector", fit_vector)):
        calibration, evidence = choose_calibration(rows, form)
        assert calibration == fit(rows) and evidence["form"] == form
        assert evidence["gain"]["low"] < 0
    assert choose_calibration(held(rows.probs[:58], rows.verdicts[:58]), "temperature")[0] is None


def test_few_prompts_or_one_verdict_support_no_calibration_however_well_it_fits():
    probs, verdicts = synthetic(2.0)
    assert (
        choose_calibration(held(probs[:58], verdicts[:58]))[1]["too_little"]
        == "they cover 29 prompts, but 30 are needed"
    )
    calibration, evidence = choose_calibration(held(probs, np.zeros_like(verdicts)))
    assert calibration is None and evidence["form"] == "none" and "every verdict is a" in evidence["too_little"]
    languages = np.array(["English", "German"], dtype=object).repeat([3000, 1000])
    calibration, _ = choose_calibration(held(probs, np.where(languages == "German", 0, verdicts), languages))
    assert "German" not in calibration.get("languages", {})


@pytest.mark.parametrize(
    "rises, form",
    [((0.1, 0.2), "none"), ((-0.1, 0.2), "temperature"), ((0.1, -0.1), "vector"), ((-0.2, -0.1), "temperature")],
)
def test_the_form_of_the_least_loss_in_cross_fitting_is_kept_also_where_one_temperature_did_not_help(
    rises, form, monkeypatch
):
    rows, left = held(*synthetic(1.0)), list(rises)
    monkeypatch.setattr(calibration_fit, "cross_fit", lambda held, fit: held.losses(None) + left.pop(0))
    assert choose_calibration(rows)[1]["form"] == form


@pytest.mark.parametrize(
    "num, accuracy, form", [(2, 0.99, "temperature"), (2, 0.6, None), (3, 0.8, "vector"), (3, 0.95, None)]
)
@pytest.mark.parametrize("rows", [10, 30, 100])
def test_calibrating_a_judge_that_is_right_loses_no_more_than_the_bound(num, accuracy, form, rows, simulation):
    found = simulation.rises(simulation.Judge(num, accuracy), rows, form, draws=60, seed=0)
    assert simulation.mean_rise(found) < 0.005
    assert np.isnan(found).all() == (rows < 30)


@pytest.mark.parametrize(
    "num, accuracy, mistake", [(2, 0.8, "too bold"), (2, 0.99, "too meek"), (3, 0.95, "ties too rare")]
)
def test_200_battles_find_a_mistake_that_costs_a_twentieth_of_a_nat(num, accuracy, mistake, simulation):
    found = simulation.rises(simulation.Judge(num, accuracy, mistake), 200, None, draws=60, seed=0)
    assert np.isfinite(found).mean() >= 0.9 and -simulation.mean_rise(found) >= 0.03


@pytest.mark.parametrize("fit", [fit_temperature, fit_vector])
def test_rows_of_a_prompt_that_say_the_same_count_once(fit):
    probs, verdicts = synthetic(2.0, rows=60)
    five = fit(held(probs.repeat(5, axis=0), verdicts.repeat(5), rows_a_prompt=5))
    assert five == pytest.approx(fit(held(probs, verdicts, rows_a_prompt=1)), rel=1e-4)


def test_without_errors_nothing_is_fitted_unless_the_judge_expected_some():
    right = np.arange(40) % 2
    sure, unsure = (np.where(np.eye(2)[right] == 1, p, 1 - p) for p in (0.97, 0.8))
    calibration, evidence = choose_calibration(held(sure, right, rows_a_prompt=1))
    assert calibration is None and "makes no error on them, which has a probability of 30%" in evidence["too_little"]
    assert choose_calibration(held(unsure, right, rows_a_prompt=1))[0]["temperature"] < 0.8
    calibration, evidence = choose_calibration(held(sure, right, rows_a_prompt=1), "temperature")
    assert 0.5 < calibration["temperature"] < 1
    assert evidence["errors"] == 0 and evidence["gain"]["low"] is None and evidence["gain"]["value"] > 0


def test_cross_fitting_never_scores_a_prompt_on_a_fit_that_saw_it():
    probs, verdicts = synthetic(rows=100)
    rows, seen = held(probs, verdicts, rows_a_prompt=4), []

    def fit(part):
        seen.append({tuple(row) for row in part.probs})
        return {"temperature": float(len(seen))}

    losses = cross_fit(rows, fit)
    for prompt in range(25):
        its = slice(4 * prompt, 4 * prompt + 4)
        (turn,) = {k for k in range(1, 6) if np.allclose(losses[its], rows.losses({"temperature": float(k)})[its])}
        assert not seen[turn - 1] & {tuple(row) for row in probs[its]}
