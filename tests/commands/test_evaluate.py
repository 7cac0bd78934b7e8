"""metrics.json, the worth table and the report, from a small synthetic set."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import cohen_kappa_score

from helpers.browser import assert_self_contained, opened
from sft_judge.cli import main
from sft_judge.core.manifest import read_stages
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.battles import battle_table, write_battles
from sft_judge.data.probs import Probs, read_probs, write_probs
from sft_judge.inference.calibrated import describe_judge
from sft_judge.modeling.judge_spec import Budget, JudgeSpec, write_spec

pytestmark = pytest.mark.unit
ROWS = 300
HOSTILE = "text like control tokens"
LANGUAGES = ("English", "日本語", "<script>alert(1)</script>", "$\\frac{x}$")
FIGURES = ("log_loss accuracy brier ece swap_agreement first_position_rate tie_recall macro_f1 kappa").split()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """300 battles over 150 prompts, their truth, and what three judges of falling worth and an a/b one said."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    truth = rng.dirichlet([1, 1, 0.7], ROWS)
    verdicts = np.array([rng.choice(3, p=row) for row in truth])
    rows = [
        {
            "id": f"{i}",
            "prompt": [f"prompt {i // 2}"] * (1 + i // 2 % 3),
            "response_a": ["secret text " * rng.integers(1, 9) + "<|im_end|>" * (i % 10 == 0)],
            "response_b": ["secret text " * rng.integers(1, 9)],
            "verdict": VERDICTS[verdicts[i]],
            "language": LANGUAGES[i % 4],
            "fold": i % 3,
            "model_a": f"model {i % 4}",
            "model_b": f"model {(i + 1) % 4}",
        }
        for i in range(ROWS)
    ]
    write_battles(folder / "battles.parquet", battle_table(rows))
    write_battles(folder / "unlabelled.parquet", battle_table([row | {"verdict": None} for row in rows]))
    columns = dict(zip(("p_a", "p_b", "p_tie"), truth.T, strict=True))
    named = {"id": [row["id"] for row in rows], **columns, "verdict": [row["verdict"] for row in rows]}
    pq.write_table(pa.table(named), folder / "truth.parquet")
    judges = {}
    for name, noise, num in (("good", 0.3, 3), ("fair", 1.0, 3), ("poor", 2.0, 3), ("two", 0.5, 2)):
        logits = np.log(truth) + rng.normal(0, noise, (2, ROWS, 3))
        logits[..., num:] = -np.inf
        logp = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
        ids = np.array([row["id"] for row in rows] * 2, dtype=object)
        orders = np.repeat(["ab", "ba"], ROWS)
        write_probs(folder / f"{name}.parquet", Probs(ids, orders, logp.reshape(-1, 3), {"model": name}))
        judges[name] = np.exp(logp).mean(axis=0)
    return SimpleNamespace(folder=folder, truth=truth, verdicts=verdicts, judges=judges)


def evaluate(world, output, judges, *more, battles="battles"):
    files = [str(world.folder / f"{name}.parquet") for name in judges]
    battles = str(world.folder / f"{battles}.parquet")
    return main(["evaluate", "--probs", *files, "--battles", battles, "--output", str(output), *more])


def metrics_of(output):
    return json.loads((output / "metrics.json").read_text())


def test_one_file_gives_every_figure_with_its_interval(world, tmp_path):
    assert evaluate(world, tmp_path, ["good"]) == 0
    metrics = metrics_of(tmp_path)
    assert metrics["n"] == ROWS and metrics["num_prompts"] == ROWS // 2 and "judges" not in metrics
    for name in FIGURES:
        assert metrics[name]["low"] <= metrics[name]["value"] <= metrics[name]["high"]
    assert set(metrics["slices"]) == {"language", "turns", "characters", "difference in length", "model"} | {HOSTILE}
    for dimension, parts in metrics["slices"].items():
        assert sum(part["n"] for part in parts.values()) == ROWS * (1 + (dimension == "model"))  # two to a battle
    assert sum(point["n"] for point in metrics["reliability"]) == ROWS
    assert {name: sum(counts) for name, counts in metrics["lengths"]["counts"].items()} == {
        "prompt": ROWS,
        "response": 2 * ROWS,
    }
    assert [row["name"] for row in metrics["worth"]] == ["class frequencies", "the longer answer", "good"]
    assert "gap_share" not in metrics["worth"][0]
    assert (tmp_path / "metrics.json.manifest.json").exists()


def test_several_files_are_compared_on_the_same_rows_and_the_last_leads(world, tmp_path):
    assert evaluate(world, tmp_path, ["poor", "fair", "good"]) == 0
    metrics = metrics_of(tmp_path)
    assert list(metrics["judges"]) == ["poor", "fair", "good"] and metrics["main"] == "good"
    assert metrics["log_loss"] == metrics["judges"]["good"]["log_loss"]
    assert [(pair["a"], pair["b"]) for pair in metrics["pairs"]] == [
        ("poor", "fair"),
        ("poor", "good"),
        ("fair", "good"),
    ]
    pair = metrics["pairs"][1]
    alone = [metrics["judges"][name]["log_loss"]["value"] for name in ("poor", "good")]
    assert pair["delta_log_loss"]["value"] == pytest.approx(alone[0] - alone[1])
    assert pair["delta_log_loss"]["low"] > 0 > pair["delta_accuracy"]["high"]


def test_the_worth_table_equals_a_second_computation_from_the_truth(world, tmp_path, capsys):
    more = ["--truth", str(world.folder / "truth.parquet"), "--train", str(world.folder / "battles.parquet")]
    assert evaluate(world, tmp_path, ["fair", "good"], *more, battles="unlabelled") == 0
    worth = {row["name"]: row for row in metrics_of(tmp_path)["worth"]}
    counts = np.bincount(world.verdicts) + 1
    everyone = {"class frequencies": np.tile(counts / counts.sum(), (ROWS, 1)), "best possible": world.truth}
    everyone |= {name: world.judges[name] for name in ("fair", "good")}
    expected = {name: -(world.truth * np.log(probs)).sum(axis=1).mean() for name, probs in everyone.items()}
    gap = expected["class frequencies"] - expected["best possible"]
    assert list(worth) == ["class frequencies", "the longer answer", "fair", "good", "best possible"]
    for name in everyone:
        row = worth[name]
        drawn = -np.log(everyone[name][np.arange(ROWS), world.verdicts]).mean()
        share = (expected["class frequencies"] - expected[name]) / gap
        assert row["expected_log_loss"]["value"] == pytest.approx(expected[name])
        assert row["gap_share"]["value"] == pytest.approx(share)
        assert row["log_loss"]["value"] == pytest.approx(drawn)
    printed = capsys.readouterr().out
    assert "skill score" in printed and f"{worth['good']['log_loss']['value']:.4f}" in printed


def test_judges_are_held_against_each_other_and_the_votes_row_by_row(world, tmp_path):
    assert evaluate(world, tmp_path, ["good", "fair"]) == 0
    metrics, chosen = metrics_of(tmp_path), {name: world.judges[name].argmax(axis=1) for name in ("good", "fair")}
    chosen["the votes"] = world.verdicts
    assert len(metrics["agreement"]) == 3
    for pair in metrics["agreement"]:
        one, other = chosen[pair["a"]], chosen[pair["b"]]
        assert pair["same_verdict"]["value"] == pytest.approx(np.mean(one == other))
        assert pair["kappa"]["value"] == pytest.approx(cohen_kappa_score(one, other))
        assert pair["same_verdict"]["low"] < pair["same_verdict"]["value"] < pair["same_verdict"]["high"]
    agreed = (chosen["good"] == chosen["fair"]) & (chosen["good"] != world.verdicts)
    listed = list(csv.DictReader(open(tmp_path / "against_votes.csv")))
    assert [row["id"] for row in listed] == sorted(
        map(str, np.flatnonzero(agreed)),
        key=lambda name: -sum(world.judges[who][int(name)].max() for who in ("good", "fair")),
    )
    for row in listed:
        assert row["vote"] == VERDICTS[world.verdicts[int(row["id"])]] != row["judged"]
    assert metrics["against_votes"] == agreed.sum() == len(listed)


def test_the_text_of_a_battle_is_shown_only_where_examples_are_asked_for(world, tmp_path):
    assert evaluate(world, tmp_path, ["good"], "--examples", "2") == 0
    page = (tmp_path / "report.html").read_text()
    first = next(csv.DictReader(open(tmp_path / "against_votes.csv")))["id"]
    assert page.count("secret text") >= 4 and f"{first} (judged" in page


def test_a_judge_that_learnt_from_labels_in_sample_is_a_caveat(world, tmp_path, capsys):
    training = {"recipe": {"labels": ["labels.parquet"], "allow_in_sample": True}}
    (tmp_path / "judge").mkdir()
    write_spec(tmp_path / "judge", JudgeSpec(["A", "B", "tie"], [5, 6, 7], "x", Budget(), training=training))
    probs = read_probs(world.folder / "good.parquet")
    made_by = describe_judge(tmp_path / "judge", tmp_path / "told.parquet")
    write_probs(tmp_path / "told.parquet", Probs(probs.ids, probs.orders, probs.logp, made_by))
    assert evaluate(world, tmp_path / "out", [tmp_path / "told"]) == 0
    assert "told: its teachers' labels are not proven out of fold" in capsys.readouterr().out
    assert "not proven out of fold" in (tmp_path / "out" / "report.html").read_text()


def test_the_report_asks_the_net_for_nothing_shows_no_battle_and_escapes_names(world, tmp_path):
    evaluate(world, tmp_path, ["fair", "good"])
    page = (tmp_path / "report.html").read_text()
    assert_self_contained(page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "secret text" not in page
    for part in ("Reliability", "Lengths", "Position bias", "Slices: language", "Provenance", "日本語", "$\\frac{x}$"):
        assert part in page


def test_stages_and_training_logs_are_collected(world, tmp_path):
    run = tmp_path / "run"
    (run / "student").mkdir(parents=True)
    more = [{"step": 3, "loss": float("nan")}, {"train_runtime": 9.5}]  # of which nothing is shown
    (run / "student" / "trainer_log.json").write_text(
        json.dumps(
            [{"step": 1, "loss": 1.1}, {"step": 2, "loss": 0.9, "epoch": 1}, {"step": 2, "eval_log_loss": 1.0}, *more]
        )
    )
    (run / "student" / "manifest.json").write_text(
        json.dumps({"stage": "train", "seconds": 12.5, "peak_memory_mb": 700})
    )
    (run / "other_manifest.json").write_text("[1]")
    for _ in range(2):  # the second time, its own manifest of the first is there and is left out
        assert evaluate(world, run, ["good"], "--stages", str(run)) == 0
        stages = metrics_of(run)["stages"]
        assert stages == [{"output": "student", "stage": "train", "seconds": 12.5, "peak_memory_mb": 700}]
        assert [list(row.values()) for row in metrics_of(run)["logs"]["student"]] == [[1, 1.1], [2, 0.9], [2, 1.0]]
    page = (run / "report.html").read_text()
    assert "Losses by step" in page and "held-out log loss by step" in page and "12.5" in page
    assert len(read_stages(run, run / "none")) == 2


def test_an_a_b_judge_is_measured_without_ties_and_they_are_counted(world, tmp_path, capsys):
    assert evaluate(world, tmp_path, ["two"]) == 0
    ties = int((world.verdicts == 2).sum())
    metrics = metrics_of(tmp_path)
    assert metrics["n"] == ROWS - ties and metrics["tie_recall"]["value"] is None
    assert f"skipped: {ties} of {ROWS} battles are ties" in capsys.readouterr().out
    kept = world.verdicts < 2
    losses = -np.log(world.judges["two"][kept, world.verdicts[kept]])
    assert metrics["log_loss"]["value"] == pytest.approx(losses.mean())


def test_an_a_b_judge_and_one_with_ties_meet_on_a_and_b(world, tmp_path):
    assert evaluate(world, tmp_path, ["two", "good"], "--truth", str(world.folder / "truth.parquet")) == 0
    kept = world.verdicts < 2
    good = world.judges["good"][kept, :2] / world.judges["good"][kept, :2].sum(axis=1, keepdims=True)
    metrics = metrics_of(tmp_path)
    assert metrics["log_loss"]["value"] == pytest.approx(
        -np.log(good[np.arange(kept.sum()), world.verdicts[kept]]).mean()
    )
    orders = np.exp(read_probs(world.folder / "good.parquet").logp).reshape(2, ROWS, 3)[:, kept, :2]
    a = orders[..., 0] / orders.sum(axis=-1)
    assert metrics["position_effect"]["value"] == pytest.approx((a[0] - a[1]).mean())  # as log loss, without ties


def test_a_fold_and_a_limit_choose_rows(world, tmp_path):
    battles = str(world.folder / "battles.parquet")
    assert evaluate(world, tmp_path, ["good"], "--fold", "1", "--limit", "60", "--train", battles) == 0
    metrics = metrics_of(tmp_path)
    assert metrics["n"] == 60
    held_out = np.isin(np.arange(ROWS), np.flatnonzero(np.arange(ROWS) % 3 == 1)[:60])
    counts = np.bincount(world.verdicts[~held_out]) + 1
    assert metrics["class_frequencies"] == pytest.approx(counts / counts.sum())


def test_probs_without_metadata_are_a_caveat(world, tmp_path, capsys):
    lines = [f"{i},ab,{np.log(0.5)},{np.log(0.3)},{np.log(0.2)}" for i in range(ROWS)]
    file = tmp_path / "theirs.csv"
    file.write_text("\n".join(["id,order,logp_a,logp_b,logp_tie", *lines]) + "\n")
    battles = str(world.folder / "battles.parquet")
    assert main(["evaluate", "--probs", str(file), "--battles", battles, "--output", str(tmp_path)]) == 0
    assert "caveat: theirs: no metadata" in capsys.readouterr().out
    assert metrics_of(tmp_path)["swap_agreement"]["value"] is None


def test_nothing_is_said_of_the_orders_of_a_file_that_names_none(world, tmp_path):
    probs = world.judges["good"]
    lines = [f"{i},{a},{b},{tie}" for i, (a, b, tie) in enumerate(probs)]
    (tmp_path / "theirs.csv").write_text("\n".join(["id,p_a,p_b,p_tie", *lines]) + "\n")
    files = ["--probs", str(tmp_path / "theirs.csv"), "--battles", str(world.folder / "battles.parquet")]
    assert main(["evaluate", *files, "--output", str(tmp_path / "out")]) == 0
    metrics = metrics_of(tmp_path / "out")
    assert all(metrics[key]["value"] is None for key in ("swap_agreement", "first_position_rate", "position_effect"))
    assert "its swap agreement is unknown" in " ".join(metrics["notes"])


BAD = {
    "no verdicts": (["good"], [], "unlabelled", "none of 300 battles has a verdict"),
    "no such fold": (["good"], ["--fold", "9"], "battles", "its folds are 0, 1, 2"),
    "missing probs": (["nothing"], [], "battles", "no such probs file"),
    "missing battles": (["good"], [], "nothing", "no such battles file"),
    "wrong truth": (["good"], ["--truth", "{world}/battles.parquet"], "battles", "no column 'p_a'"),
    "too many names": (["good"], ["--names", "x", "y"], "battles", "2 names for 1"),
    "a taken name": (["good"], ["--names", "best possible"], "battles", "taken"),
    "an unknown main": (["good"], ["--main", "x"], "battles", "they are good"),
    "no stages": (["good"], ["--stages", "{world}/nothing"], "battles", "no such folder"),
    "probs for battles": (["good"], [], "good", "no column 'prompt'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_nothing_is_written(world, tmp_path, capsys, case):
    judges, more, battles, said = BAD[case]
    more = [word.format(world=world.folder) for word in more]
    assert evaluate(world, tmp_path / "out", judges, *more, battles=battles) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_ids_that_do_not_meet_are_counted_with_an_example(world, tmp_path, capsys):
    battles = pq.read_table(world.folder / "battles.parquet")
    write_battles(tmp_path / "fewer.parquet", battles.slice(1))
    row = battles.slice(0, 1).set_column(0, "id", pa.array(["new"]))
    write_battles(tmp_path / "more.parquet", pa.concat_tables([battles, row]))
    for name, said in (("fewer", "1 ids are not in"), ("more", "no probabilities for 1 of 301 battles")):
        files = ["--probs", str(world.folder / "good.parquet"), "--battles", str(tmp_path / f"{name}.parquet")]
        assert main(["evaluate", *files, "--output", str(tmp_path / "out")]) == 2
        assert said in capsys.readouterr().err


def test_a_browser_opens_the_report_without_a_console_error_or_a_script_run(world, tmp_path):
    assert evaluate(world, tmp_path, ["good", "fair"]) == 0
    shown = opened(tmp_path / "report.html")
    assert shown.count("<svg") >= 3  # pictures are there
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown  # a language's name stayed text


def test_a_report_of_eight_judges_with_long_names_cuts_nothing_off(world, tmp_path):
    names = [f"a judge whose name takes a line, number {number}" for number in range(8)]
    assert evaluate(world, tmp_path, [*["good", "fair", "poor"] * 2, "good", "fair"], "--names", *names) == 0
    shown = opened(tmp_path / "report.html")
    main = names[-1]  # it leads: in the table of all figures its column is the first
    figures = shown.split('aria-label="Figures"')[1]
    assert figures.index(main) < min(figures.index(name) for name in names[:-1])


def test_a_reliability_bin_has_the_interval_of_its_accuracy(world, tmp_path):
    assert evaluate(world, tmp_path, ["good"]) == 0
    probs, verdicts = world.judges["good"], world.verdicts
    bins = metrics_of(tmp_path)["reliability"]
    right = probs.argmax(axis=1) == verdicts
    assert sum(one["n"] * one["accuracy"] for one in bins) == pytest.approx(right.sum())
    for one in bins:
        assert one["low"] <= one["accuracy"] <= one["high"] and one["high"] - one["low"] > 0.1  # 30 rows


def evaluated(folder, verdicts, prompts, probs=None) -> tuple[dict, str]:
    """metrics.json, read as strictly as others read it, and the page, of two judges of such battles."""
    rng, count = np.random.default_rng(0), len(verdicts)
    rows = [
        {
            "id": f"{i}",
            "prompt": [f"p{i % prompts}"],
            "response_a": ["**x** " * rng.integers(1, 9)],
            "response_b": ["- y\n" * rng.integers(1, 9)],
            "verdict": VERDICTS[verdict],
            "language": ("English", "German")[i % 2],
            "model_a": "one",
            "model_b": "other",
        }
        for i, verdict in enumerate(verdicts)
    ]
    write_battles(folder / "battles.parquet", battle_table(rows))
    ids = np.array([row["id"] for row in rows], dtype=object)
    files = [folder / "first.parquet", folder / "second.parquet"]
    for file in files:
        said = rng.dirichlet([1, 1, 1], count) if probs is None else np.asarray(probs)
        write_probs(file, Probs(ids, np.full(count, "ab"), np.log(said), {"model": "m"}))
    words = ["evaluate", "--probs", *map(str, files), "--battles", str(folder / "battles.parquet"), "--quiet"]
    assert main([*words, "--output", str(folder / "out"), "--policies", "one", "other"]) == 0
    text = (folder / "out" / "metrics.json").read_text()
    metrics = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in metrics.json"))
    return metrics, (folder / "out" / "report.html").read_text()


FEW = {
    "one row": ([0], 1, "no intervals, which need 5 different prompts; these battles have 1"),
    "two rows": ([0, 1], 2, "these battles have 2"),
    "five rows": ([0, 1, 2, 0, 1], 5, "5 prompts are few"),
    "one prompt": ([0, 1, 2, 0, 1, 2] * 20, 1, "these battles have 1"),
    "two prompts": ([0, 1, 2, 0, 1, 2] * 20, 2, "these battles have 2"),
    "one verdict": ([0] * 100, 50, "every verdict is a"),
    "ties alone": ([2] * 100, 50, "every verdict is tie"),
}


@pytest.mark.parametrize("case", FEW)
def test_battles_that_say_little_make_a_report_that_says_so(tmp_path, case):
    verdicts, prompts, caveat = FEW[case]
    metrics, page = evaluated(tmp_path, verdicts, prompts)
    assert caveat in " ".join(metrics["notes"]) and caveat in page
    assert metrics["n"] == len(verdicts) and metrics["log_loss"]["value"] > 0
    assert (metrics["log_loss"]["low"] is None) == (metrics["accuracy"]["low"] is None) == (prompts < 5)
    assert ("prompts" in metrics["log_loss"]) == (prompts < 10) and ("†" in page) == (5 <= prompts < 10)
    effects = [effect[who]["value"] for effect in metrics["style"].values() for who in ("people", "judge")]
    assert all(effect is None for effect in effects)  # a alone is bold, b alone has lists: which of them sways?
