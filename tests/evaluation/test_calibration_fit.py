"""Calibrations: found where planted, symmetric, only where held-out rows support them, never fitted in-sample."""

import json

import numpy as np
import pytest

from sft_judge.cli import main
from sft_judge.core.files import content_hash
from sft_judge.core.verdicts import VERDICTS, swap
from sft_judge.data.battles import battle_table, write_battles
from sft_judge.data.probs import CLIP, Probs, read_probs, write_probs
from sft_judge.evaluation.calibration_fit import Held, choose, cross_fitted, fit_temperature, fit_vector
from sft_judge.evaluation.metrics import cross_entropy, one_hot
from sft_judge.inference.calibrated import calibrated, judge_files
from sft_judge.modeling.judge_spec import Budget, JudgeSpec, read_spec, write_spec
from sft_judge.modeling.temperature_scaling import apply_calibration, apply_scaling

pytestmark = pytest.mark.unit


def drawn(truth, rng):
    return (rng.random(len(truth))[:, None] > truth.cumsum(axis=1)).sum(axis=1).clip(max=truth.shape[1] - 1)


def planted(temperature=1.0, rows=4000, num=3, seed=0):
    """Probabilities [N, K] that are right once raised to 1 / temperature, and verdicts drawn from the right ones."""
    rng = np.random.default_rng(seed)
    truth = rng.dirichlet(np.ones(num), rows)
    return apply_scaling(truth, 1 / temperature), drawn(truth, rng)


def loss(probs, verdicts, calibration=None):
    scaled = apply_calibration(probs, calibration)
    return cross_entropy(one_hot(verdicts, scaled.shape[1]), scaled).mean()


def held(probs, verdicts, languages=None, rows_a_prompt=2):
    languages = np.full(len(verdicts), None, dtype=object) if languages is None else languages
    return Held(probs, verdicts, np.arange(len(verdicts)) // rows_a_prompt, languages)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("num", [2, 3])
def test_the_planted_temperature_is_recovered(temperature, num):
    probs, verdicts = planted(temperature, num=num)
    assert fit_temperature(probs, verdicts)["temperature"] == pytest.approx(temperature, rel=0.08)


def test_a_planted_scaling_of_ties_is_recovered():
    rng = np.random.default_rng(0)
    raw = rng.dirichlet([1, 1, 1], 20_000)
    wanted = {"temperature": 1.5, "tie_temperature": 0.8, "tie_offset": 0.7}
    found = fit_vector(raw, drawn(apply_scaling(raw, **wanted), rng))
    assert found == pytest.approx(wanted, rel=0.12)


@pytest.mark.parametrize("fit", [fit_temperature, fit_vector])
@pytest.mark.parametrize("seed", range(5))
def test_the_fitted_rows_never_get_worse(fit, seed):
    probs, verdicts = planted(rows=30, seed=seed)
    assert loss(probs, verdicts, fit(probs, verdicts)) <= loss(probs, verdicts) + 1e-9


@pytest.mark.parametrize("fit, num", [(fit_temperature, 2), (fit_temperature, 3), (fit_vector, 3)])
def test_exchange_of_responses_exchanges_the_calibrated_result_to_the_bit(fit, num):
    probs, verdicts = planted(1.7, num=num)
    exchanged = np.array([1, 0, 2])[verdicts]
    found = fit(probs, verdicts)
    assert fit(swap(probs), exchanged) == pytest.approx(found, rel=1e-4)
    np.testing.assert_array_equal(apply_calibration(swap(probs), found), swap(apply_calibration(probs, found)))


def test_a_probability_of_zero_stays_zero_and_rows_sum_to_one():
    probs = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1e-300, 1.0, 0.0]])
    scaled = apply_scaling(probs, 3.0, 0.5, 2.0)
    np.testing.assert_array_equal(scaled == 0, probs == 0)
    np.testing.assert_allclose(scaled.sum(axis=1), 1)
    assert scaled[1, 0] == scaled[1, 1] and -np.log(max(scaled[0, 1], CLIP)) > 30


def test_no_calibration_is_kept_where_the_probabilities_are_right_already():
    kept = [choose(held(*planted(1.0, rows=600, seed=seed)))[0] for seed in range(12)]
    assert sum(one is None for one in kept) >= 6  # a fitted temperature of 1.01 is worse on the next rows


def test_a_temperature_is_kept_where_it_helps_and_ties_get_their_own_only_where_that_does():
    calibration, evidence = choose(held(*planted(2.0)))
    assert set(calibration) == {"temperature"} and evidence["form"] == "temperature" and evidence["gain"]["low"] > 0
    rng = np.random.default_rng(0)
    raw = rng.dirichlet([1, 1, 1], 4000)
    calibration, evidence = choose(held(raw, drawn(apply_scaling(raw, 1.5, 0.8, 1.0), rng)))
    assert set(calibration) == {"temperature", "tie_temperature", "tie_offset"} and evidence["form"] == "vector"


def test_a_language_has_its_own_temperature_only_where_its_rows_support_it():
    bold, verdicts = planted(0.4, rows=3000, seed=1)
    right, others = planted(2.5, rows=3000, seed=2)
    languages = np.array(["English", "German"], dtype=object).repeat([3000, 3000])
    calibration, _ = choose(held(np.concatenate([bold, right]), np.concatenate([verdicts, others]), languages))
    assert calibration["languages"]["English"]["temperature"] == pytest.approx(0.4, rel=0.1)
    scaled = apply_calibration(np.stack([bold[0], bold[0]]), calibration, ["English", "French"])
    np.testing.assert_allclose(scaled[0], apply_scaling(bold[0], calibration["languages"]["English"]["temperature"]))
    np.testing.assert_allclose(scaled[1], apply_scaling(bold[0], calibration["temperature"]))
    same, verdicts = planted(2.0, rows=6000)
    assert "languages" not in choose(held(same, verdicts, languages))[0]


def test_a_form_that_is_asked_for_is_kept_whatever_it_is_worth():
    drawn_rows = (held(*planted(1.0, rows=600, seed=seed)) for seed in range(12))
    rows = next(rows for rows in drawn_rows if choose(rows)[0] is None)
    for form, fit in (("temperature", fit_temperature), ("vector", fit_vector)):
        calibration, evidence = choose(rows, form)
        assert calibration == fit(rows.probs, rows.verdicts) and evidence["form"] == form
        assert evidence["gain"]["low"] < 0
    assert choose(held(rows.probs[:58], rows.verdicts[:58]), "temperature")[0] is None


def test_few_prompts_or_one_verdict_support_no_calibration_however_well_it_fits():
    probs, verdicts = planted(2.0)
    assert choose(held(probs[:58], verdicts[:58]))[1]["too_little"] == "they are of 29 prompts, of 30 needed"
    calibration, evidence = choose(held(probs, np.zeros_like(verdicts)))
    assert calibration is None and evidence["form"] == "none" and "every verdict is a" in evidence["too_little"]
    languages = np.array(["English", "German"], dtype=object).repeat([3000, 1000])
    calibration, _ = choose(held(probs, np.where(languages == "German", 0, verdicts), languages))
    assert "German" not in calibration.get("languages", {})


def test_ties_get_their_own_scaling_only_beyond_chance_also_where_one_temperature_did_not_help(monkeypatch):
    monkeypatch.setattr("sft_judge.evaluation.calibration_fit.cross_fitted", lambda held, fit: losses.pop(0))
    rows = held(*planted(1.0))
    raw, noise = rows.losses(None), np.random.default_rng(0).normal(0, 1, len(rows.verdicts))
    noise -= noise.mean()
    losses = [raw + 0.1, raw - 1e-3 + noise]  # of one temperature, of three parameters: lower, but not beyond chance
    assert choose(rows)[0] is None
    losses = [raw + 0.1, raw - 0.1 + noise]
    assert choose(rows)[1]["form"] == "vector"


def test_cross_fitting_never_scores_a_prompt_on_a_fit_that_saw_it():
    probs, verdicts = planted(rows=100)
    rows, seen = held(probs, verdicts, rows_a_prompt=4), []

    def fit(part):
        seen.append({tuple(row) for row in part.probs})
        return {"temperature": float(len(seen))}

    losses = cross_fitted(rows, fit)
    for prompt in range(25):
        its = slice(4 * prompt, 4 * prompt + 4)
        (turn,) = {k for k in range(1, 6) if np.allclose(losses[its], rows.losses({"temperature": float(k)})[its])}
        assert not seen[turn - 1] & {tuple(row) for row in probs[its]}


@pytest.fixture
def judge(tmp_path):
    """A judge folder, 400 battles in two folds, and what the judge said of them, too boldly by a temperature of 2."""
    probs, verdicts = planted(0.5, rows=400)
    folder = tmp_path / "judge"
    folder.mkdir()
    write_spec(folder, JudgeSpec(["A", "B", "tie"], [1, 2, 3], "{{ prompt }}", Budget(), training={"folds_seen": [0]}))
    rows = [
        {
            "id": str(i),
            "prompt": [f"p{i}"],
            "response_a": ["x"],
            "response_b": ["y"],
            "verdict": VERDICTS[v],
            "fold": i % 2,
        }
        for i, v in enumerate(verdicts)
    ]
    rows[1]["verdict"] = None
    write_battles(tmp_path / "battles.parquet", battle_table(rows))
    ids = np.array([row["id"] for row in rows], dtype=object)
    write_probs(tmp_path / "p.parquet", Probs(ids, np.full(400, "ab"), np.log(probs), {"model": str(folder)}))
    return folder


def calibrate(folder, *more):
    files = ["--probs", str(folder.parent / "p.parquet"), "--battles", str(folder.parent / "battles.parquet")]
    return main(["calibrate", *files, "--model", str(folder), *more])


def test_calibrate_stores_the_temperature_beside_the_judge_without_changing_what_it_is(judge, capsys):
    before = content_hash(judge)
    assert calibrate(judge, "--fold", "1") == 0
    found = read_spec(judge).calibration
    assert found["temperature"] == pytest.approx(0.5, rel=0.25) and found["fitted_rows"] == 199
    assert found["after"]["log_loss"]["value"] < found["before"]["log_loss"]["value"] and found["gain"]["value"] > 0
    assert "1 without a verdict" in capsys.readouterr().out
    assert content_hash(judge) == before
    manifest = json.loads((judge / "calibration.manifest.json").read_text())
    assert manifest["calibration"] == found


def test_rows_of_a_fold_that_was_trained_on_are_refused(judge, capsys):
    assert calibrate(judge) == 3
    assert "in-sample" in capsys.readouterr().err
    assert read_spec(judge).calibration is None and not (judge / "calibration.manifest.json").exists()


def test_a_calibration_that_does_not_help_is_refused_and_the_judge_stays_raw(judge, capsys):
    probs, verdicts = planted(1.0, rows=400, seed=3)
    rows = [{"id": str(i), "prompt": [f"p{i}"], "response_a": ["x"], "response_b": ["y"]} for i in range(400)]
    rows = [row | {"verdict": VERDICTS[v], "fold": 1} for row, v in zip(rows, verdicts, strict=True)]
    write_battles(judge.parent / "battles.parquet", battle_table(rows))
    ids = np.array([row["id"] for row in rows], dtype=object)
    write_probs(judge.parent / "p.parquet", Probs(ids, np.full(400, "ab"), np.log(probs), {"model": str(judge)}))
    assert choose(held(probs, verdicts, rows_a_prompt=1))[0] is None
    assert calibrate(judge) == 0
    assert "refused: on 400 rows" in capsys.readouterr().out and read_spec(judge).calibration is None
    assert calibrate(judge, "--form", "vector") == 0
    assert read_spec(judge).calibration.keys() >= {"temperature", "tie_temperature", "tie_offset"}


def test_ties_cannot_be_scaled_where_the_judge_has_none(judge, capsys):
    probs, _ = planted(1.0, rows=400, num=2)
    logp = np.column_stack([np.log(probs), np.full(400, -np.inf)])
    ids = np.array([str(i) for i in range(400)], dtype=object)
    write_probs(judge.parent / "p.parquet", Probs(ids, np.full(400, "ab"), logp, {"model": str(judge)}))
    assert calibrate(judge, "--fold", "1", "--form", "vector") == 2
    assert "has a and b alone" in capsys.readouterr().err


def test_somebody_elses_probs_are_calibrated_in_a_copy_that_stays_raw(judge, tmp_path):
    probs = read_probs(tmp_path / "p.parquet")
    lines = [f"{i},{a},{b},{t}" for i, (a, b, t) in zip(probs.ids, np.exp(probs.logp), strict=True)]
    (tmp_path / "theirs.csv").write_text("\n".join(["id,p_a,p_b,p_tie", *lines]) + "\n")
    (tmp_path / "test.csv").write_text("id,p_a,p_b,p_tie\nnew,0.7,0.2,0.1\n")
    words = ["calibrate", "--probs", str(tmp_path / "theirs.csv"), "--battles", str(tmp_path / "battles.parquet")]
    assert main([*words, "--output", str(tmp_path / "out.parquet"), "--apply", str(tmp_path / "test.csv")]) == 0
    copy = read_probs(tmp_path / "out.parquet")
    np.testing.assert_allclose(np.exp(copy.logp), [[0.7, 0.2, 0.1]] * 2)
    found = calibrated(copy)
    assert found.calibration["temperature"] == pytest.approx(0.5, rel=0.25)
    np.testing.assert_allclose(found.probs, apply_calibration(np.array([[0.7, 0.2, 0.1]]), found.calibration))
    assert main([*words[:2], str(tmp_path / "p.parquet"), *words[3:], "--output", str(tmp_path / "no.parquet")]) == 2


@pytest.mark.parametrize("more", [["--fold", "7"], ["--fold", "1", "--limit", "1"]])
def test_nothing_to_fit_on_is_one_line_and_changes_nothing(judge, more, capsys):
    before = (judge / "judge.json").read_bytes()
    assert calibrate(judge, *more) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (judge / "judge.json").read_bytes() == before


@pytest.mark.parametrize("told", [True, False])
def test_languages_count_only_where_the_probs_file_tells_them_to_its_readers(tmp_path, told):
    found = [planted(0.4, rows=900, seed=1), planted(2.5, rows=900, seed=2)]
    probs, verdicts = (np.concatenate(parts) for parts in zip(*found, strict=True))
    languages = np.array(["English", "German"], dtype=object).repeat(900)
    rows = [{"id": str(i), "prompt": [f"p{i}"], "response_a": ["x"], "response_b": ["y"]} for i in range(1800)]
    rows = [
        row | {"verdict": VERDICTS[v], "language": name}
        for row, v, name in zip(rows, verdicts, languages, strict=True)
    ]
    write_battles(tmp_path / "b.parquet", battle_table(rows))
    ids = np.array([row["id"] for row in rows], dtype=object)
    said = Probs(ids, np.full(1800, "ab"), np.log(probs), languages=languages if told else None)
    write_probs(tmp_path / "p.parquet", said)
    words = ["--probs", str(tmp_path / "p.parquet"), "--battles", str(tmp_path / "b.parquet")]
    assert main(["calibrate", *words, "--output", str(tmp_path / "o.parquet")]) == 0
    calibration = read_probs(tmp_path / "o.parquet").metadata["calibration"]
    assert ("languages" in calibration) == told
    after = loss(calibrated(read_probs(tmp_path / "o.parquet")).probs, verdicts)
    assert after == pytest.approx(calibration["after"]["log_loss"]["value"])  # what was said is what a reader gets


def test_rows_that_support_nothing_are_said_and_the_judge_stays_raw(judge, capsys):
    assert calibrate(judge, "--fold", "1", "--limit", "9") == 0
    said = capsys.readouterr().out
    assert "refused: nothing is fitted on 8 rows: they are of 8 prompts" in said
    assert read_spec(judge).calibration is None


def test_no_common_ids_is_refused(judge, capsys):
    write_probs(judge.parent / "p.parquet", Probs(np.array(["other"]), np.array(["ab"]), np.log([[0.5, 0.3, 0.2]])))
    assert calibrate(judge, "--fold", "1") == 2
    assert "no row to fit on" in capsys.readouterr().err


def test_the_judges_own_calibration_of_now_goes_before_that_of_the_file(judge):
    probs = Probs(np.array(["x"]), np.array(["ab"]), np.log([[0.7, 0.2, 0.1]]), {"model": str(judge)})
    probs.metadata["calibration"] = {"temperature": 3.0}
    assert calibrated(probs).calibration is None  # the folder says: not calibrated
    spec = read_spec(judge)
    spec.calibration = {"temperature": 2.0}
    write_spec(judge, spec)
    np.testing.assert_allclose(calibrated(probs).probs, apply_scaling(np.array([[0.7, 0.2, 0.1]]), 2.0))
    np.testing.assert_allclose(calibrated(probs, raw=True).probs, [[0.7, 0.2, 0.1]])
    probs.metadata["model"] = str(judge / "gone")
    assert calibrated(probs).calibration == {"temperature": 3.0}
    assert "no metadata" in calibrated(Probs(probs.ids, probs.orders, probs.logp)).reason


def test_the_judge_json_behind_a_probs_file_is_named_as_an_input(judge, tmp_path):
    (tmp_path / "p.csv").write_text("id\n")
    paths = [tmp_path / "p.parquet", tmp_path / "p.csv", tmp_path / "not-there.parquet"]
    assert judge_files(paths) == [judge / "judge.json"]
