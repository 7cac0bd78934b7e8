"""Weights of an ensemble: those synthetic are found, by tokens and language too, and the data choose the mean."""

import csv
import json

import numpy as np
import pytest

from helpers.submissions import IDS, submit, write_judge
from sft_judge.core.errors import InputError
from sft_judge.core.swap_orders import swap
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.battles import FIELDS, battle_table, read_battles, write_battles
from sft_judge.data.probs import Probs, read_probs, write_probs
from sft_judge.inference.calibrated import describe_judge
from sft_judge.inference.ensemble import MEANS, choose_rule, combine, fit_weight_rule, fit_weights, log_loss, read_rule
from sft_judge.inference.token_lengths import token_lengths, tokenizer_hash
from sft_judge.modeling.judge_spec import Budget, JudgeSpec, write_spec
from sft_judge.modeling.tiny_tokenizers import tokenizer_of

pytestmark = pytest.mark.unit
ROWS = 6000


def judges(rng, num_rows=ROWS, num=3, members=2):
    return [rng.dirichlet(np.ones(num) * 0.8, num_rows) for _ in range(members)]


def drawn(rng, probs):
    """A verdict of each row, drawn from probabilities [N, K]."""
    return (rng.random(len(probs))[:, None] > np.cumsum(probs, axis=1)).sum(axis=1)


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("weights", [[0.7, 0.3], [1.0, 0.0], [0.2, 0.3, 0.5]])
def test_the_weights_that_made_the_verdicts_are_found(mean, weights):
    rng = np.random.default_rng(1)
    members = judges(rng, members=len(weights))
    verdicts = drawn(rng, combine(members, weights, 3, mean))
    found = fit_weights(members, verdicts, mean)
    np.testing.assert_allclose(found, weights, atol=0.06)
    assert found.sum() == pytest.approx(1) and (found >= 0).all()


@pytest.mark.parametrize("mean", MEANS)
def test_no_other_weights_have_a_smaller_loss(mean):
    rng = np.random.default_rng(2)
    members = judges(rng, 500)
    verdicts = drawn(rng, judges(rng, 500)[0])
    best = log_loss(combine(members, fit_weights(members, verdicts, mean), 3, mean), verdicts)
    grid = [log_loss(combine(members, [share, 1 - share], 3, mean), verdicts) for share in np.linspace(0, 1, 201)]
    assert best <= min(grid) + 1e-7


@pytest.mark.parametrize("mean", MEANS)
def test_cross_validation_takes_the_mean_that_made_the_verdicts(mean):
    rng = np.random.default_rng(3)
    members = judges(rng)
    verdicts = drawn(rng, combine(members, [0.65, 0.35], 3, mean))
    rule, losses = choose_rule(members, verdicts, np.arange(ROWS) // 2, {})
    assert rule.mean == mean and rule.by is None and losses[0][1] <= losses[-1][1]
    np.testing.assert_allclose(rule.parts[0]["weights"], [0.65, 0.35], atol=0.07)


def test_weights_that_change_with_tokens_or_language_are_found_and_where_they_do_not_one_rule_serves():
    rng = np.random.default_rng(4)
    members, lengths = judges(rng), rng.integers(10, 4000, ROWS)
    languages = np.array(["German", "Thai", "Greek"], dtype=object)[rng.choice(3, ROWS, p=[0.6, 0.39, 0.01])]
    keys = {"tokens": lengths, "language": languages}
    for by, first in (("tokens", lengths < 1000), ("language", languages == "German")):
        weights = np.where(first[:, None], [0.5, 0.5], [0.95, 0.05])
        rule, _ = choose_rule(members, drawn(rng, combine(members, weights, 3)), np.arange(ROWS), keys)
        assert rule.by == by
        assert np.abs(rule.weights(keys[by], ROWS) - weights).mean() < 0.07
    named = [part.get("language") for part in rule.parts]
    assert named == ["German", "Thai", None]  # Greek has too few rows for weights of its own
    rule, _ = choose_rule(members, drawn(rng, combine(members, [0.7, 0.3], 3)), np.arange(ROWS), keys)
    assert np.abs(rule.weights(keys.get(rule.by), ROWS) - [0.7, 0.3]).mean() < 0.07


def test_the_losses_told_are_of_rows_that_the_weights_were_not_fitted_on():
    rng = np.random.default_rng(9)
    members, verdicts = judges(rng, 60, members=4), rng.integers(0, 3, 60)
    _, losses = choose_rule(members, verdicts, np.arange(60), {})
    for mean in MEANS:
        in_sample = log_loss(combine(members, fit_weights(members, verdicts, mean), 3, mean), verdicts)
        assert dict(losses)[f"fitted, mean of {mean}"] > in_sample + 1e-3
    assert dict(losses)["equal weights, mean of probabilities"] == pytest.approx(
        log_loss(combine(members, np.ones(4) / 4, 3), verdicts)
    )


def test_a_small_part_has_the_weights_of_all():
    rng = np.random.default_rng(5)
    members, keys = judges(rng, 900), np.array(["a"] * 880 + ["b"] * 20, dtype=object)
    verdicts = drawn(rng, members[0])
    rule = fit_weight_rule(members, verdicts, MEANS[0], "language", keys)
    np.testing.assert_allclose(rule.parts[-1]["weights"], fit_weights(members, verdicts, MEANS[0]))


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("num", [2, 3])
def test_the_mean_sums_to_one_and_is_exchanged_with_the_responses_to_the_bit(mean, num):
    rng = np.random.default_rng(6)
    members = judges(rng, 500, 3, 3)
    members[0][:9] = [0.5, 0.5, 0]  # an impossible verdict
    weights = rng.dirichlet(np.ones(3), 500)
    probs = combine(members, weights, num, mean)
    assert np.abs(probs.sum(axis=1) - 1).max() < 1e-12 and probs.shape == (500, num)
    np.testing.assert_array_equal(combine([swap(each) for each in members], weights, num, mean), swap(probs))


def test_each_mean_is_what_its_name_says():
    one, other = np.array([[0.8, 0.1, 0.1]]), np.array([[0.2, 0.6, 0.2]])
    np.testing.assert_allclose(combine([one, other], [0.25, 0.75], 3), 0.25 * one + 0.75 * other)
    powered = one**0.25 * other**0.75
    np.testing.assert_allclose(combine([one, other], [0.25, 0.75], 3, MEANS[1]), powered / powered.sum())


def test_a_judge_that_was_not_asked_leaves_its_weight_to_the_others():
    rng = np.random.default_rng(7)
    members = judges(rng, 4)
    judged = np.array([[True, True], [True, False], [False, True], [False, False]])
    seen = combine(members, [0.75, 0.25], 3, judged=judged)
    mean = 0.75 * members[0] + 0.25 * members[1]
    np.testing.assert_allclose(seen, [mean[0], members[0][1], members[1][2], mean[3]])
    np.testing.assert_allclose(combine(members, [0.0, 1.0], 3, judged=judged)[1], members[1][1])  # nobody else counts


def test_the_rule_of_a_write_up_is_read_from_json(tmp_path):
    # WSDM Cup, 3rd place: the second judge counts half on short battles, less on longer ones
    parts = [{"up_to": 1000, "weights": [0.5, 0.5]}, {"up_to": 2000, "weights": [0.85, 0.15]}, {"weights": [9, 1]}]
    (tmp_path / "rule.json").write_text(json.dumps({"by": "tokens", "parts": parts}))
    rule = read_rule(tmp_path / "rule.json")
    seen = rule.weights(np.array([10, 1000, 1001, 2000, 2001, 9999]), 6)
    np.testing.assert_allclose(seen[:, 1], [0.5, 0.5, 0.15, 0.15, 0.1, 0.1])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"parts": [{"weights": [1, -1]}]}',
        '{"parts": [{"weights": [0, 0]}]}',
        '{"parts": [{"weights": [1]}], "mean": "median"}',
        '{"parts": [{"weights": [1]}], "by": "weather"}',
        '{"by": "tokens", "parts": [{"weights": [1, 1]}, {"weights": [1, 1]}]}',
        '{"by": "tokens", "parts": [{"up_to": 9, "weights": [1]}, {"up_to": 3, "weights": [1]}, {"weights": [1]}]}',
        '{"by": "tokens", "tokenizer": 7, "parts": [{"up_to": 9, "weights": [1]}, {"weights": [1]}]}',
        '{"by": "length", "parts": [{"up_to": 9, "weights": [1]}, {"weights": [1]}]}',
        '{"by": "language", "parts": [{"language": "x", "weights": [1]}, {"weights": [1, 1]}]}',
    ],
)
def test_a_rule_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "rule.json").write_text(text)
    with pytest.raises(InputError, match="rule.json"):
        read_rule(tmp_path / "rule.json")


# Through `submit`


@pytest.fixture
def folder(tmp_path):
    """A sample of four battles, the battles, and of 1,200 others what two judges said, the second one noise."""
    (tmp_path / "lmsys.csv").write_text(
        "id,winner_model_a,winner_model_b,winner_tie\n" + "".join(f"{i},0.3,0.3,0.4\n" for i in IDS)
    )
    rng = np.random.default_rng(8)
    held = [f"h{number}" for number in range(1200)]
    good, noise = judges(rng, 1200)
    verdicts = drawn(rng, good)
    for name, ids, verdict in (("battles", IDS, [0] * 4), ("held", held, verdicts)):
        rows = [
            {"id": id_, "prompt": [f"{id_}?"], "response_a": ["yes" * (1 + 40 * (row % 3))], "response_b": ["no"]}
            | {"verdict": VERDICTS[verdict[row]], "language": ["German", None][row % 2], "fold": row % 2}
            for row, id_ in enumerate(ids)
        ]
        write_battles(tmp_path / f"{name}.parquet", battle_table(rows))
    for name, probs in (("held-one", good), ("held-two", noise)):
        metadata = {"model": str(tmp_path / "judge")}
        write_probs(
            tmp_path / f"{name}.parquet",
            Probs(np.array(held, dtype=object), np.full(1200, "ab"), np.log(probs), metadata),
        )
    return tmp_path


def values_of(folder):
    with open(folder / "out.csv", newline="") as lines:
        return np.array(
            [[float(value) for name, value in row.items() if name != "id"] for row in csv.DictReader(lines)]
        )


def save_tokenizer(folder, family):
    """A judge's folder with a tokenizer and no weights."""
    tokenizer_of(family).save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    write_spec(folder, JudgeSpec(["A", "B", "tie"], [1, 2, 3], "t", Budget(), training={"of": str(folder)}))


def of_judge(folder, names, judge):
    """Bind probs files to the judge in a folder."""
    for name in names:
        probs = read_probs(folder / f"{name}.parquet")
        probs.metadata = describe_judge(judge, folder / f"{name}.parquet")
        write_probs(folder / f"{name}.parquet", probs)


def test_tokens_are_those_of_all_turns_of_prompt_and_responses():
    tokenizer = tokenizer_of("llama3")
    rows = [
        {"id": "1", "prompt": ["a cat", "and now?"], "response_a": ["meow", ""], "response_b": ["purr " * 40, "x"]},
        {"id": "2", "prompt": ["мир"], "response_a": ["<|eot_id|>"], "response_b": ["no"]},
    ]
    battles = battle_table([{**row, "verdict": "a"} for row in rows])
    wanted = [
        sum(len(tokenizer.encode(turn, add_special_tokens=False)) for name in FIELDS for turn in row[name])
        for row in rows
    ]
    assert token_lengths(battles, tokenizer).tolist() == wanted and wanted[0] > 40


def test_a_rule_by_tokens_counts_with_the_tokenizer_it_was_fitted_by_and_refuses_another(folder, capsys):
    rule = folder / "rule.json"
    one, two = write_judge(folder / "one.parquet"), write_judge(folder / "two.parquet", seed=1)
    save_tokenizer(folder / "judge", "llama3")
    save_tokenizer(folder / "other", "gemma")
    of_judge(folder, ["one"], folder / "judge")
    tokenizer = tokenizer_of("llama3")
    battles = read_battles(folder / "battles.parquet")
    lengths = dict(zip(battles["id"].to_pylist(), token_lengths(battles, tokenizer).tolist(), strict=True))
    middle = sorted(lengths.values())[1]
    assert len({length <= middle for length in lengths.values()}) == 2  # both parts have a battle
    wanted = [one[id_] if lengths[id_] <= middle else two[id_] for id_ in IDS]
    parts = [{"up_to": middle, "weights": [1, 0]}, {"weights": [0, 1]}]
    words = ["--weights", str(rule), "--battles", str(folder / "battles.parquet")]
    known = tokenizer_hash(tokenizer)
    for named in (
        {},  # by default the first judge's
        {"tokenizer": str(folder / "judge")},
        {"tokenizer": "gone", "tokenizer_sha256": known},  # moved: the first judge's is the same
    ):
        rule.write_text(json.dumps({"by": "tokens", "parts": parts, **named}))
        assert submit(folder, "lmsys", ["one", "two"], *words) == 0
        np.testing.assert_allclose(values_of(folder), wanted)
    rule.write_text(json.dumps({"by": "tokens", "parts": parts, "tokenizer": str(folder / "other")}))
    assert submit(folder, "lmsys", ["one", "two"], *words) == 0  # by hand: whatever it names
    other = {"tokenizer": str(folder / "other"), "tokenizer_sha256": known}
    rule.write_text(json.dumps({"by": "tokens", "parts": parts, **other}))
    of_judge(folder, ["one"], folder / "other")
    capsys.readouterr()
    assert submit(folder, "lmsys", ["one", "two"], *words) == 2
    assert "gives other tokens than the tokenizer" in capsys.readouterr().err


def test_fitted_weights_are_printed_kept_and_used_again(folder, capsys):
    one = write_judge(folder / "one.parquet")
    write_judge(folder / "two.parquet", seed=1)
    save_tokenizer(folder / "judge", "llama3")
    of_judge(folder, ["one", "two", "held-one", "held-two"], folder / "judge")
    held = [str(folder / f"held-{name}.parquet") for name in ("one", "two")]
    words = ["--fit", *held, "--fit-battles", str(folder / "held.parquet"), "--by", "tokens", "language"]
    words += ["--save-weights", str(folder / "rule.json"), "--battles", str(folder / "battles.parquet")]
    assert submit(folder, "lmsys", ["one", "two"], *words) == 0
    said = capsys.readouterr().out
    assert "on 1200 battles" in said and said.count("mean of") == 9  # eight forms, and the one taken
    fitted = values_of(folder)
    np.testing.assert_allclose(fitted, [one[id_] for id_ in IDS], atol=0.1)  # noise counts for little
    kept = json.loads((folder / "rule.json").read_text())
    assert kept["fitted_on"] == 1200 and len(kept["log_losses"]) == 8
    again = ["--weights", str(folder / "rule.json"), "--battles", str(folder / "battles.parquet")]
    assert submit(folder, "lmsys", ["one", "two"], *again) == 0
    np.testing.assert_array_equal(values_of(folder), fitted)


def test_weights_are_fitted_on_the_battles_that_the_files_have_such_as_those_of_a_fold(folder, capsys):
    for name in ("one", "two"):
        write_judge(folder / f"{name}.parquet")
    probs = {name: read_probs(folder / f"held-{name}.parquet") for name in ("one", "two")}
    for name, rows in (("one", slice(0, 600)), ("two", slice(300, 900))):
        whole = probs[name]
        part = Probs(whole.ids[rows], whole.orders[rows], whole.logp[rows], whole.metadata)
        write_probs(folder / f"held-{name}.parquet", part)
    held = [str(folder / f"held-{name}.parquet") for name in ("one", "two")]
    words = ["--fit", *held, "--fit-battles", str(folder / "held.parquet")]
    assert submit(folder, "lmsys", ["one", "two"], *words) == 0
    assert "on 300 battles" in capsys.readouterr().out
    words[-1] = str(folder / "battles.parquet")
    assert submit(folder, "lmsys", ["one", "two"], *words) == 2
    assert "No battle of" in capsys.readouterr().err


def test_a_cascade_asks_the_second_judge_where_it_was_asked(folder):
    one = write_judge(folder / "one.parquet")
    two = write_judge(folder / "two.parquet", seed=1)
    scored = np.array([id_ in IDS[:2] for id_ in sorted(IDS)])
    ids, logp = np.array(sorted(IDS), dtype=object), np.log([two[id_] for id_ in sorted(IDS)])
    write_probs(folder / "two.parquet", Probs(ids, np.full(4, "ab"), logp, {"model": "m"}, scored))
    assert submit(folder, "lmsys", ["one", "two"], "--weights", "0.4", "0.6") == 0
    wanted = [0.4 * one[id_] + 0.6 * two[id_] if id_ in IDS[:2] else one[id_] for id_ in IDS]
    np.testing.assert_allclose(values_of(folder), wanted)


def test_weights_fitted_on_what_a_judge_was_trained_on_are_refused_with_status_3(folder, capsys):
    (folder / "judge").mkdir()
    spec = JudgeSpec(["A", "B", "tie"], [1, 2, 3], "t", Budget(), training={"folds_seen": [1]})
    write_spec(folder / "judge", spec)
    probs = read_probs(folder / "held-one.parquet")
    probs.metadata = describe_judge(folder / "judge", folder / "held-one.parquet")
    write_probs(folder / "held-one.parquet", probs)
    write_judge(folder / "one.parquet")
    words = ["--fit", str(folder / "held-one.parquet"), "--fit-battles", str(folder / "held.parquet")]
    assert submit(folder, "lmsys", ["one"], *words) == 3
    assert "trained on fold 1" in capsys.readouterr().err and not (folder / "out.csv").exists()


BAD = {
    "both": (["--weights", "1", "--fit", "HELD", "--fit-battles", "BATTLES"], "cannot be combined"),
    "no battles to fit on": (["--fit", "HELD"], "--fit PROBS... and --fit-battles"),
    "a form without a fit": (["--by", "tokens"], "--by and --save-weights need both"),
    "too few files": (["--fit", "HELD", "HELD", "--fit-battles", "BATTLES"], "2 files to fit on for 1"),
    "no number": (["--weights", "much"], "expected numbers or the .json file of a rule"),
    "no rule": (["--weights", "none.json"], "not a rule for weights"),
    "no tokenizer": (["--weights", "RULE", "--battles", "OWN"], "but this judge was not found"),
    "no battles for tokens": (["--weights", "RULE"], "Weights by tokens need the battles"),
    "other battles": (["--weights", "RULE", "--battles", "BATTLES"], "no battle '30'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_weights_are_one_line(folder, capsys, case):
    words, said = BAD[case]
    write_judge(folder / "one.parquet")
    parts = [{"up_to": 9, "weights": [1]}, {"weights": [1]}]
    (folder / "rule.json").write_text(json.dumps({"by": "tokens", "parts": parts}))
    names = {"HELD": "held-one.parquet", "BATTLES": "held.parquet", "OWN": "battles.parquet", "RULE": "rule.json"}
    words = [str(folder / names[word]) if word in names else word for word in words]
    assert submit(folder, "lmsys", ["one"], *words) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (folder / "out.csv").exists()


def test_exchange_of_responses_exchanges_the_ensemble_to_the_bit():
    members = [np.random.default_rng(seed).dirichlet(np.ones(3), 500) for seed in range(3)]
    mean = combine(members, [0.2, 0.3, 0.7], 3)
    np.testing.assert_array_equal(combine([swap(probs) for probs in members], [0.2, 0.3, 0.7], 3), swap(mean))
