"""Prediction against a deadline: a valid file at any moment, honest about what was judged, and a run that goes on."""

import csv
import json
import re
import shutil
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from helpers.judges import exchange, make_judge, predict
from sft_judge.cli import main
from sft_judge.data.battles import read_battles, write_battles
from sft_judge.data.probs import average_orders, read_probs
from sft_judge.evaluation.align import align_judges
from sft_judge.inference.engines.transformers_engine import TransformersEngine
from sft_judge.inference.submission import check_submission, read_sample
from sft_judge.inference.time_budget.predict import load_length_rule
from sft_judge.inference.time_budget.scheduler import Deadline, uncertainty
from sft_judge.modeling.judge_spec import read_spec, write_spec
from sft_judge.modeling.loading import load_tokenizer
from sft_judge.prompts.prompt import JudgePrompt

pytestmark = pytest.mark.unit
SHARES = [0.4, 0.35, 0.25]


@pytest.fixture(scope="module")
def judge(bases, tmp_path_factory):
    """A judge with a temperature that knows how often people gave each verdict in its training."""
    folder = make_judge(tmp_path_factory.mktemp("judge") / "judge", bases["qwen2"], verdict_shares=SHARES)
    spec = read_spec(folder)
    spec.calibration = {"temperature": 2.0}
    write_spec(folder, spec)
    return folder


@pytest.fixture(scope="module")
def whole(judge, synthetic_file, tmp_path_factory):
    """What the judge says without a deadline, in both orders."""
    output = tmp_path_factory.mktemp("whole") / "probs.parquet"
    assert predict(judge, synthetic_file, output) == 0
    return read_probs(output)


@pytest.fixture
def sample(synthetic_rows, tmp_path):
    """A sample in the LMSYS shape, in an order of its own."""
    file = tmp_path / "sample.csv"
    lines = [f"{row['id']},0.3,0.3,0.4\n" for row in synthetic_rows[::-1]]
    file.write_text("id,winner_model_a,winner_model_b,winner_tie\n" + "".join(lines))
    return file


@pytest.fixture
def small_blocks(monkeypatch):
    """Three battles a block, whatever the time."""
    monkeypatch.setattr(Deadline, "fits", lambda self, tokens, reserve: min(3, len(tokens)))
    monkeypatch.setattr("sft_judge.inference.time_budget.predict.WRITES_SHARE", np.inf)  # each block is written


@pytest.fixture
def stop_after(monkeypatch):
    """A function: interrupt at the n-th block, or never; it returns the rows of the blocks scored since."""
    score = TransformersEngine.score

    def arm(blocks=None):
        scored = []

        def counting(self, prompts):
            if len(scored) == blocks:
                raise KeyboardInterrupt
            scored.append(len(prompts))
            return score(self, prompts)

        monkeypatch.setattr(TransformersEngine, "score", counting)
        return scored

    return arm


def in_time(judge, battles, output, *more, budget="10m"):
    return predict(judge, battles, output, "--time-budget", budget, *more)


def by_key(probs):
    return dict(zip(zip(probs.ids, probs.orders, strict=True), np.exp(probs.logp), strict=True))


def judged_rows(probs):
    return probs if probs.scored is None else probs.select(probs.scored)


def submitted(path):
    with open(path, newline="") as lines:
        return {row.pop("id"): np.array([float(value) for value in row.values()]) for row in csv.DictReader(lines)}


def test_with_time_enough_it_is_what_predict_says_without_a_deadline(judge, synthetic_file, whole, tmp_path):
    assert in_time(judge, synthetic_file, tmp_path / "probs.parquet") == 0
    probs = read_probs(tmp_path / "probs.parquet")
    assert probs.ids.tolist() == whole.ids.tolist() and probs.orders.tolist() == whole.orders.tolist()
    np.testing.assert_allclose(np.exp(probs.logp), np.exp(whole.logp), atol=1e-6)
    assert pq.read_schema(tmp_path / "probs.parquet").names == ["id", "order", "logp_a", "logp_b", "logp_tie"]
    facts = probs.metadata["deadline"]
    assert facts["complete"] and facts["judged_in_both_orders"] == 60 and facts["swap"] == "budget"
    assert probs.metadata["judges"] == whole.metadata["judges"] and probs.metadata["engine"] == "transformers"
    assert not [path.name for path in tmp_path.iterdir() if "partial" in path.name]


def test_before_anything_is_loaded_all_battles_have_class_frequencies(
    judge, synthetic_file, synthetic_rows, sample, tmp_path, monkeypatch
):
    def stop(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("sft_judge.core.manifest.content_hash", stop)  # the hash of large weights takes minutes
    output, submission = tmp_path / "probs.parquet", tmp_path / "submission.csv"
    assert in_time(judge, synthetic_file, output, "--sample", str(sample), "--submission", str(submission)) == 130
    probs = read_probs(output)
    assert probs.ids.tolist() == [row["id"] for row in synthetic_rows] and not probs.scored.any()
    np.testing.assert_allclose(np.exp(probs.logp), [SHARES] * 60)
    facts = probs.metadata["deadline"]
    assert facts["class_frequencies_from"].startswith("verdicts in training") and not facts["judged"]
    check_submission(submission, read_sample(sample))
    np.testing.assert_allclose([*submitted(submission).values()], [SHARES] * 60)  # no temperature touches them


def test_a_judge_that_does_not_know_the_frequencies_has_even_odds_and_says_so(bases, synthetic_file, tmp_path):
    for num, words in ((3, ("A", "B", "tie")), (2, ("A", "B"))):
        judge = make_judge(tmp_path / f"judge-{num}", bases["qwen2"], words=words)
        assert in_time(judge, synthetic_file, tmp_path / "probs.parquet", budget="4s") == 0
        probs = read_probs(tmp_path / "probs.parquet")
        np.testing.assert_allclose(np.exp(probs.logp)[:, :num], 1 / num)
        assert probs.num_verdicts == num and probs.metadata["deadline"]["class_frequencies_from"].startswith(
            "equal shares"
        )


@pytest.mark.parametrize("policy, orders, last", [("none", 60, 8), ("both", 120, 8), ("budget", 120, 20)])
def test_interrupted_at_any_block_the_files_are_valid_and_the_next_run_does_the_rest(
    policy, orders, last, judge, synthetic_file, whole, sample, tmp_path, small_blocks, stop_after, capsys
):
    output, submission = tmp_path / "probs.parquet", tmp_path / "submission.csv"
    words = ["--swap", policy, "--sample", str(sample), "--submission", str(submission)]
    expected, prompt_lengths, done = by_key(whole), lengths(judge, synthetic_file), 0
    for blocks in (0, 3, last):
        scored = stop_after(blocks)
        assert in_time(judge, synthetic_file, output, *words) == 130
        assert "To resume, run: sft-judge predict" in capsys.readouterr().err
        done += sum(scored)
        probs = read_probs(output)
        ids, _, judged = average_orders(probs)
        assert judged.sum() == done and len(ids) == 60 and probs.metadata["deadline"]["judged"] == (judged > 0).sum()
        for key, seen in by_key(judged_rows(probs)).items():
            np.testing.assert_allclose(seen, expected[key], atol=1e-5)
        known = [prompt_lengths[id_] for id_ in ids[judged > 0]]
        assert not known or max(known) <= min((prompt_lengths[id_] for id_ in ids[judged == 0]), default=np.inf)
        check_submission(submission, read_sample(sample))
    scored = stop_after()
    assert in_time(judge, synthetic_file, output, *words, budget="20m") == 0
    assert sum(scored) == orders - done  # no row twice, none missing
    assert read_probs(output).metadata["deadline"]["complete"]
    scored = stop_after(0)
    assert in_time(judge, synthetic_file, output, *words) == 0 and not scored  # what is complete is not done again
    assert main(["submit", "--probs", str(output), "--sample", str(sample), "--output", str(tmp_path / "o.csv")]) == 0
    assert (tmp_path / "o.csv").read_bytes() == submission.read_bytes()  # calibrated once, as `submit` does


def lengths(judge, synthetic_file):
    rows = read_battles(synthetic_file).to_pylist()
    prompt = JudgePrompt.of(load_tokenizer(str(judge)), read_spec(judge))
    return {row["id"]: len(ids) for row, (ids,) in zip(rows, prompt.encode(rows, ("ab",)), strict=True)}


def test_the_other_order_goes_to_the_battles_that_the_first_left_most_unsure(
    judge, synthetic_file, whole, tmp_path, small_blocks, stop_after
):
    stop_after(20 + 7)  # once through the battles, and seven blocks of the other order
    assert in_time(judge, synthetic_file, tmp_path / "probs.parquet") == 130
    probs = read_probs(tmp_path / "probs.parquet")
    twice = set(probs.ids[probs.orders == "ba"])
    assert len(twice) == 21
    first = {id_: uncertainty(np.exp(logp)) for id_, logp in zip(whole.ids[::2], whole.logp[::2], strict=True)}
    assert min(first[id_] for id_ in twice) >= max(first[id_] for id_ in set(first) - twice) - 1e-6


def test_with_a_length_rule_the_other_order_goes_where_it_gained_most_per_token(
    judge, synthetic_file, tmp_path, small_blocks, stop_after
):
    assert predict(judge, synthetic_file, tmp_path / "known.parquet") == 0
    stop_after(20 + 5)
    words = ["--length-rule", str(tmp_path / "known.parquet"), str(synthetic_file)]
    assert in_time(judge, synthetic_file, tmp_path / "probs.parquet", *words) == 130
    prompt = JudgePrompt.of(load_tokenizer(str(judge)), read_spec(judge))
    tokens = lengths(judge, synthetic_file)
    rule = load_length_rule(tmp_path / "known.parquet", synthetic_file, prompt)
    worth = {id_: rule(np.array([length]))[0] / length for id_, length in tokens.items()}
    probs = read_probs(tmp_path / "probs.parquet")
    twice = set(probs.ids[probs.orders == "ba"])
    assert len(twice) == 15 and min(worth[i] for i in twice) >= max(worth[i] for i in set(worth) - twice)


def test_a_second_judge_begins_with_what_the_first_is_least_sure_of(
    judge, synthetic_file, whole, tmp_path, small_blocks, stop_after
):
    assert predict(judge, synthetic_file, tmp_path / "first.parquet") == 0
    stop_after(6)
    words = ["--swap", "none", "--uncertain-in", str(tmp_path / "first.parquet")]
    assert in_time(judge, synthetic_file, tmp_path / "second.parquet", *words) == 130
    ids, probs, _ = average_orders(whole)
    seen = read_probs(tmp_path / "second.parquet")
    judged = np.isin(ids.astype(str), seen.ids[seen.scored].astype(str))
    assert judged.sum() == 18 and uncertainty(probs)[judged].min() >= uncertainty(probs)[~judged].max()


def test_exchanged_responses_exchange_the_result_of_both_orders_out_of_time_too(
    judge, synthetic_table, synthetic_file, tmp_path, small_blocks, stop_after
):
    write_battles(tmp_path / "exchanged.parquet", exchange(synthetic_table))
    for battles, name in ((synthetic_file, "one"), (tmp_path / "exchanged.parquet", "other")):
        stop_after(5)
        assert in_time(judge, battles, tmp_path / f"{name}.parquet", "--swap", "both") == 130
    one, other = (average_orders(read_probs(tmp_path / f"{name}.parquet"))[1] for name in ("one", "other"))
    np.testing.assert_allclose(one[:, [1, 0, 2]], other, atol=1e-6)


def test_two_shards_do_half_each_and_each_writes_what_both_know(
    judge, synthetic_file, whole, tmp_path, small_blocks, stop_after
):
    output = tmp_path / "probs.parquet"
    for shard, judged in (("1/2", 30), ("0/2", 60)):
        counted = stop_after()
        assert in_time(judge, synthetic_file, output, "--shard", shard) == 0
        assert sum(counted) == 60  # half of 60 battles in two orders
        assert read_probs(output).metadata["deadline"]["judged"] == judged
        assert (tmp_path / "probs.parquet.manifest.json").exists() == (shard == "0/2")
    np.testing.assert_allclose(np.exp(read_probs(output).logp), np.exp(whole.logp), atol=1e-5)


def test_a_start_that_takes_longer_than_there_is_time_is_given_up(
    judge, synthetic_file, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("sft_judge.inference.time_budget.predict.open_engine", lambda *words, **more: time.sleep(600))
    assert in_time(judge, synthetic_file, tmp_path / "probs.parquet", budget="9s") == 0
    assert "0 of 60 battles judged" in capsys.readouterr().out
    assert not read_probs(tmp_path / "probs.parquet").scored.any()


def test_an_unfinished_file_is_read_with_a_caveat(
    judge, synthetic_file, sample, tmp_path, small_blocks, stop_after, capsys
):
    output = tmp_path / "probs.parquet"
    stop_after(12)
    assert in_time(judge, synthetic_file, output) == 130
    capsys.readouterr()
    said = (
        "24 of 60 battles were not judged and have class frequencies, 36 of 60 battles were judged in only one order"
    )
    assert main(["submit", "--probs", str(output), "--sample", str(sample), "--output", str(tmp_path / "o.csv")]) == 0
    assert said in capsys.readouterr().out
    words = ["--probs", str(output), "--battles", str(synthetic_file), "--output", str(tmp_path / "report")]
    assert main(["evaluate", *words]) == 0
    assert f"caveat: {tmp_path.name}: {said}" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert said in str(metrics["provenance"]) and metrics["n"] == 60
    assert said in (tmp_path / "report" / "report.html").read_text()
    orders = align_judges({"it": output}, read_battles(synthetic_file), synthetic_file).judges["it"].orders
    assert np.isnan(orders[:, :, 0]).sum(axis=0).tolist() == [24, 60]  # frequencies are no judgement in any order
    copy = shutil.copytree(judge, tmp_path / "judge")
    assert main(["calibrate", "--probs", str(output), "--battles", str(synthetic_file), "--model", str(copy)]) == 0
    said = capsys.readouterr().out
    assert "on 36 rows" in said and "24 without probabilities" in said


def test_class_frequencies_are_no_labels(command, judge, synthetic_file, tmp_path, capsys):
    assert in_time(judge, synthetic_file, tmp_path / "labels.parquet", budget="4s") == 0
    words = {"labels": tmp_path / "labels.parquet", "distill_weight": 0.5, "allow_in_sample": "true"}
    assert main(command(**words)) == 2
    assert re.search("60 battles, such as .*, were not scored and hold class frequencies", capsys.readouterr().err)


BAD = {
    "no time": (["--time-budget", "9"], "is not a time"),
    "budget alone": (["--swap", "budget"], "needs --time-budget"),
    "a sample alone": (["--time-budget", "9h", "--sample", "SAMPLE"], "--sample and --submission go together"),
    "without a deadline": (["--sample", "SAMPLE", "--submission", "s.csv"], "--sample needs --time-budget"),
    "out of fold": (["--time-budget", "9h", "--out-of-fold"], "cannot be combined with --time-budget"),
    "a check": (["--time-budget", "9h", "--check", "3"], "cannot be combined with --time-budget"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_one_line_and_nothing_is_written(case, judge, synthetic_file, sample, tmp_path, capsys):
    words, said = BAD[case]
    words = [str(sample) if word == "SAMPLE" else word for word in words]
    assert predict(judge, synthetic_file, tmp_path / "probs.parquet", *words) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["sample.csv"]


def test_a_sample_of_other_battles_is_refused_before_anything_is_written(judge, synthetic_file, tmp_path, capsys):
    (tmp_path / "sample.csv").write_text("id,winner\nother,model_a\n")
    words = ["--sample", str(tmp_path / "sample.csv"), "--submission", str(tmp_path / "s.csv")]
    assert in_time(judge, synthetic_file, tmp_path / "probs.parquet", *words) == 2
    assert "no probabilities for 1 of 1 ids" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["sample.csv"]
