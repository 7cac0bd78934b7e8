"""Judges that give verdicts and no probabilities: what is measured of them, and what is not."""

import csv
import json

import numpy as np
import pytest

from sft_judge.cli import main
from sft_judge.core.errors import InputError
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.battles import battle_table, read_battles, write_battles
from sft_judge.data.probs import Probs, write_probs
from sft_judge.evaluation.verdict_judges import confusion_probabilities
from sft_judge.training.soft_labels import read_teachers

pytestmark = pytest.mark.unit
ROWS = 120
RNG = np.random.default_rng(0)
VOTES = [VERDICTS[k] for k in RNG.integers(0, 3, ROWS)]
SAID = {order: [VERDICTS[k] for k in RNG.integers(0, 3, ROWS)] for order in ("ab", "ba")}
MADE_OF_PROBABILITIES = ("log_loss", "brier", "ece", "better_mean", "margin_mean", "worse_above_better")


def battles_file(folder, votes=VOTES):
    rows = [
        {"id": f"{i:03d}", "prompt": [f"p{i}"], "response_a": ["x" * (i % 7)], "response_b": ["y"], "verdict": vote}
        for i, vote in enumerate(votes)
    ]
    write_battles(folder / "battles.parquet", battle_table(rows))
    return folder / "battles.parquet"


def verdict_file(path, rows, columns=("id", "order", "verdict")):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows))
        return path
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def both_orders(path, said=SAID, keep=lambda i, order: True):
    rows = [(f"{i:03d}", order, v) for order in said for i, v in enumerate(said[order]) if keep(i, order)]
    return verdict_file(path, rows)


def evaluate(folder, *words):
    code = main(["evaluate", "--battles", str(folder / "battles.parquet"), "--output", str(folder / "out"), *words])
    if code:
        return code, None
    text = (folder / "out" / "metrics.json").read_text()
    return code, json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in metrics.json"))


def accuracy(metrics):
    return metrics["accuracy"]["value"]


def test_a_judge_of_verdicts_has_an_accuracy_and_nothing_that_is_made_of_probabilities(tmp_path, capsys):
    battles_file(tmp_path)
    rows = [(f"{i:03d}", verdict) for i, verdict in enumerate(SAID["ab"])]
    file = verdict_file(tmp_path / "gpt.jsonl", rows, ("id", "verdict"))
    code, metrics = evaluate(tmp_path, "--verdicts", str(file))
    right = np.mean([said == vote for said, vote in zip(SAID["ab"], VOTES, strict=True)])
    assert code == 0 and accuracy(metrics) == pytest.approx(right)
    assert all(metrics[name] == {"value": None, "low": None, "high": None} for name in MADE_OF_PROBABILITIES)
    assert metrics["worst"] == [] == metrics["reliability"] and metrics["clipped"] == 0
    shown = capsys.readouterr().out
    assert "gpt gives only verdicts: it has no log loss" in shown and "34.5" not in shown
    assert "gpt gives only verdicts" in (tmp_path / "out" / "report.html").read_text()


def test_standings_are_by_accuracy_where_a_judge_gives_verdicts_alone(tmp_path):
    battles_file(tmp_path)
    ids = np.array([f"{i:03d}" for i in range(ROWS)], dtype=object)
    probs = np.eye(3)[[VERDICTS.index(vote) for vote in VOTES]] * 0.4 + 0.2  # always right, and never sure
    write_probs(tmp_path / "sure.parquet", Probs(ids, np.full(ROWS, "ab"), np.log(probs)))
    both_orders(tmp_path / "gpt.csv")
    _, metrics = evaluate(tmp_path, "--probs", str(tmp_path / "sure.parquet"), "--verdicts", str(tmp_path / "gpt.csv"))
    assert metrics["standings_by"] == "accuracy"
    assert [one["name"] for one in metrics["standings"]] == ["sure", "gpt"]
    (pair,) = metrics["pairs"]
    assert pair["delta_log_loss"]["value"] is None and pair["delta_accuracy"]["low"] > 0.4 and pair["p"] < 1e-6
    assert metrics["judges"]["sure"]["log_loss"]["value"] == pytest.approx(-np.log(0.6))


@pytest.mark.parametrize("rule", ["half", "tie", "wrong"])
def test_two_orders_that_disagree_count_as_the_rule_says(tmp_path, rule):
    battles_file(tmp_path)
    both_orders(tmp_path / "gpt.csv")
    _, metrics = evaluate(tmp_path, "--verdicts", str(tmp_path / "gpt.csv"), "--disagree", rule)
    right = []
    for one, other, vote in zip(SAID["ab"], SAID["ba"], VOTES, strict=True):
        if one == other or rule == "half":
            right.append(((one == vote) + (other == vote)) / 2)
        else:
            right.append(float(rule == "tie" and vote == "tie"))
    assert accuracy(metrics) == pytest.approx(np.mean(right))
    same = np.mean([one == other for one, other in zip(SAID["ab"], SAID["ba"], strict=True)])
    assert metrics["swap_agreement"]["value"] == pytest.approx(same)


def test_auto_js_agreement_takes_the_right_verdict_in_both_orders_of_any_judge(tmp_path):
    battles_file(tmp_path)
    both_orders(tmp_path / "gpt.csv")
    _, metrics = evaluate(tmp_path, "--verdicts", str(tmp_path / "gpt.csv"), "--benchmark", "autoj")
    right = [one == other == vote for one, other, vote in zip(SAID["ab"], SAID["ba"], VOTES, strict=True)]
    score = metrics["benchmark"]["judges"]["gpt"]["score"]
    assert score["value"] == pytest.approx(np.mean(right)) and score["low"] < np.mean(right) < score["high"]


@pytest.mark.parametrize("name", ["pandalm", "llmbar"])
def test_pandalms_and_llmbars_accuracy_is_the_mean_of_the_orders(tmp_path, name):
    battles_file(tmp_path)
    both_orders(tmp_path / "gpt.csv")
    _, metrics = evaluate(tmp_path, "--verdicts", str(tmp_path / "gpt.csv"), "--benchmark", name)
    right = [said == vote for order in SAID for said, vote in zip(SAID[order], VOTES, strict=True)]
    assert metrics["benchmark"]["judges"]["gpt"]["score"]["value"] == pytest.approx(np.mean(right))


@pytest.mark.parametrize("rule", ["wrong", "skip"])
def test_answers_that_could_not_be_read_are_wrong_or_left_out_and_counted(tmp_path, rule, capsys):
    battles_file(tmp_path)
    said = {order: ["" if (i + place) % 5 == 0 else v for i, v in enumerate(SAID[order])] for place, order in
            enumerate(("ab", "ba"))}  # fmt: skip
    said["ba"][0] = ""  # neither order of the first
    both_orders(tmp_path / "gpt.csv", said)
    _, metrics = evaluate(tmp_path, "--verdicts", str(tmp_path / "gpt.csv"), "--unread", rule)
    right = []
    for i, vote in enumerate(VOTES):
        answers = [said[order][i] for order in said]
        count = 2 if rule == "wrong" else sum(answer != "" for answer in answers)
        right += [sum(answer == vote for answer in answers) / count] if count else []
    assert metrics["n"] == len(right) == (ROWS if rule == "wrong" else ROWS - 1)
    assert accuracy(metrics) == pytest.approx(np.mean(right))
    assert f"answers could not be read, {'counted as wrong' if rule == 'wrong' else 'left out'}" in str(
        metrics["notes"]
    )


def test_an_answer_for_both_orders_that_could_not_be_read_is_one(tmp_path):
    battles_file(tmp_path)
    rows = [(f"{i:03d}", "" if i < 12 else verdict) for i, verdict in enumerate(SAID["ab"])]
    file = verdict_file(tmp_path / "gpt.csv", rows, ("id", "verdict"))
    _, metrics = evaluate(tmp_path, "--verdicts", str(file))
    assert "gpt: 12 answers could not be read, counted as wrong" in metrics["notes"]
    with pytest.raises(InputError, match="gpt.csv: 12 answers could not be read"):
        read_teachers([file], None, read_battles(tmp_path / "battles.parquet"), 3, tmp_path / "judge")


def test_a_tie_of_people_is_no_half_right_for_an_answer_that_could_not_be_read(tmp_path):
    battles_file(tmp_path, ["tie"] * 40 + ["a"] * 40)
    said = {"ab": [""] * 40 + ["tie"] * 20 + ["a"] * 20, "ba": [""] * 40 + ["tie"] * 20 + ["a"] * 20}
    both_orders(tmp_path / "gpt.csv", said)
    _, metrics = evaluate(tmp_path, "--verdicts", str(tmp_path / "gpt.csv"))
    assert accuracy(metrics) == 0.25 and metrics["accuracy_ties_half"]["value"] == 0.25 + 0.125
    assert metrics["tie_recall"]["value"] == 0


def test_missing_battles_are_refused_or_left_out_and_counted(tmp_path, capsys):
    battles_file(tmp_path)
    both_orders(tmp_path / "gpt.csv", keep=lambda i, order: i % 10)
    assert evaluate(tmp_path, "--verdicts", str(tmp_path / "gpt.csv"))[0] == 2
    assert "no verdicts for 12 of 120 battles" in capsys.readouterr().err
    _, metrics = evaluate(tmp_path, "--verdicts", str(tmp_path / "gpt.csv"), "--allow-missing")
    assert metrics["n"] == 108 and "left out: 12 battles that gpt does not answer" in metrics["notes"]


BAD = {
    "of another set": ([("x1", "ab", "a")], "1 ids are not in"),
    "twice": ([("001", "ab", "a"), ("001", "ab", "b")], "row 2: id 001 occurs twice in order ab"),
    "verdict": ([("001", "ab", "C")], "row 1: verdict 'C', expected a, b, tie, or nothing"),
    "order": ([("001", "first", "a")], "row 1: order 'first', expected one of ab, ba"),
    "id": ([("", "ab", "a")], "row 1: id ''"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_verdict_file_is_one_line_and_exit_status_2(tmp_path, case, capsys):
    battles_file(tmp_path)
    rows, reason = BAD[case]
    verdict_file(tmp_path / "gpt.csv", rows)
    assert evaluate(tmp_path, "--verdicts", str(tmp_path / "gpt.csv"))[0] == 2
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_probabilities_that_are_all_zero_or_one_are_read_as_verdicts(tmp_path):
    battles_file(tmp_path)
    ids = np.array([f"{i:03d}" for i in range(ROWS)] * 2, dtype=object)
    said = [VERDICTS.index(v) for order in SAID for v in SAID[order]]
    with np.errstate(divide="ignore"):
        logp = np.log(np.eye(3)[said])
    write_probs(tmp_path / "gpt.parquet", Probs(ids, np.repeat(["ab", "ba"], ROWS), logp, {"model": "m"}))
    _, metrics = evaluate(tmp_path, "--probs", str(tmp_path / "gpt.parquet"))
    assert metrics["log_loss"]["value"] is None and 0.2 < accuracy(metrics) < 0.5
    assert any("all 0 or 1" in note for note in metrics["notes"])
    assert metrics["provenance"]["judges"]["gpt"]["model"] == "m"  # what is known of the file stays


def drawn_judge(rows, accuracy, seed=0):
    """Votes and one-hot answers in two orders that are each right as often as `accuracy`, else any other verdict."""
    rng = np.random.default_rng(seed)
    votes = rng.integers(0, 3, rows)
    wrong = (votes[:, None] + rng.integers(1, 3, (rows, 2))) % 3
    said = np.where(rng.random((rows, 2)) < accuracy, votes[:, None], wrong)
    return votes, np.eye(3)[said]


def test_probabilities_of_a_confusion_matrix_are_as_good_as_the_answers_allow():
    votes, orders = drawn_judge(6000, 0.7)
    probs = confusion_probabilities(orders, votes, np.arange(6000))
    likelihood = np.where(orders == 1, 0.7, 0.15).prod(axis=1)  # of both answers, were each verdict the vote
    best = likelihood / likelihood.sum(axis=1, keepdims=True)
    rows = np.arange(6000)
    assert -np.log(probs[rows, votes]).mean() == pytest.approx(-np.log(best[rows, votes]).mean(), abs=0.01)
    np.testing.assert_allclose(probs.sum(axis=1), 1)


def test_no_vote_tells_of_its_own_battle_and_exchanged_responses_exchange_the_result():
    votes, orders = drawn_judge(300, 0.6)
    clusters = np.arange(300) // 3
    probs = confusion_probabilities(orders, votes, clusters)
    other = votes.copy()
    other[clusters == 7] = (votes[clusters == 7] + 1) % 3
    np.testing.assert_array_equal(
        confusion_probabilities(orders, other, clusters)[clusters == 7], probs[clusters == 7]
    )
    exchange = [1, 0, 2]
    mirrored = confusion_probabilities(orders[:, ::-1][:, :, exchange], np.array(exchange)[votes], clusters)
    np.testing.assert_allclose(mirrored, probs[:, exchange], atol=1e-12)


def test_verdict_probabilities_give_a_log_loss_on_request_and_not_of_few_prompts(tmp_path, capsys):
    battles_file(tmp_path)
    both_orders(tmp_path / "gpt.csv")
    _, metrics = evaluate(tmp_path, "--verdicts", str(tmp_path / "gpt.csv"), "--verdict-probabilities")
    assert 1.0 < metrics["log_loss"]["value"] < 1.3 and any("cross-fitted" in note for note in metrics["notes"])
    battles_file(tmp_path, VOTES[:20])
    both_orders(tmp_path / "gpt.csv", keep=lambda i, order: i < 20)
    assert evaluate(tmp_path, "--verdicts", str(tmp_path / "gpt.csv"), "--verdict-probabilities")[0] == 2
    assert "these battles have 20" in capsys.readouterr().err


def test_the_battles_are_no_judge_of_themselves(tmp_path, capsys):
    battles = battles_file(tmp_path)
    assert evaluate(tmp_path, "--verdicts", str(battles))[0] == 2
    assert "its verdicts are people's" in capsys.readouterr().err


def test_a_judge_of_verdicts_has_no_probability_under_attack_or_against_a_policy(tmp_path, capsys):
    models = {"model_a": "x", "model_b": "y"}
    rows = [{**row, **models} for row in read_battles(battles_file(tmp_path)).to_pylist()]
    write_battles(tmp_path / "battles.parquet", battle_table(rows))
    said = {order: ["" if i % 9 == 0 else v for i, v in enumerate(SAID[order])] for order in SAID}
    gpt = ["--verdicts", str(both_orders(tmp_path / "gpt.csv", said))]
    ids, orders = np.repeat([row["id"] for row in rows], 2), np.tile(["ab", "ba"], ROWS)
    write_probs(tmp_path / "p.parquet", Probs(ids, orders, np.log(np.full((2 * ROWS, 3), 1 / 3))))
    assert evaluate(tmp_path, *gpt, "--attacked", str(tmp_path / "p.parquet"))[0] == 2
    assert "gpt gives only verdicts" in capsys.readouterr().err
    _, metrics = evaluate(tmp_path, *gpt, "--probs", str(tmp_path / "p.parquet"), "--policies", "x", "y")
    by = metrics["policies"]["by"]
    assert "mean_probability" not in by["gpt"] and by["p"]["mean_probability"]["value"] == pytest.approx(0.5)
    assert "class frequencies" not in metrics["provenance"]["judges"]["gpt"]["caveat"]


def test_a_file_of_the_other_kind_is_sent_to_its_own_option(tmp_path, capsys):
    battles_file(tmp_path)
    file = both_orders(tmp_path / "gpt.csv")
    assert evaluate(tmp_path, "--probs", str(file))[0] == 2
    assert "give the file to `evaluate` as --verdicts" in capsys.readouterr().err
    (tmp_path / "p.csv").write_text("id,p_a,p_b\n001,0.4,0.6\n")
    assert evaluate(tmp_path, "--verdicts", str(tmp_path / "p.csv"))[0] == 2
    assert "Give probabilities as --probs" in capsys.readouterr().err
