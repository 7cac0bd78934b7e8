"""Prediction: exchanged responses exchange the result, no judge labels what it saw, and a killed run goes on."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from helpers.judges import exchange, make_judge, naive, predict
from sft_judge import Judge
from sft_judge.cli import main
from sft_judge.core.errors import GateError, InputError
from sft_judge.core.files import content_hash
from sft_judge.data.battles import battle_table, write_battles
from sft_judge.data.probs import average_orders, read_probs
from sft_judge.inference import predict as prediction
from sft_judge.inference.engines.transformers_engine import TransformersEngine
from sft_judge.inference.judge import judgements
from sft_judge.inference.parity import TOLERANCES
from sft_judge.modeling.judge_spec import Budget, JudgeSpec, read_spec, write_spec

pytestmark = pytest.mark.unit  # random judges: nothing is trained


@pytest.fixture(scope="module")
def judge(base, tmp_path_factory):
    """A judge of each family."""
    return make_judge(tmp_path_factory.mktemp("judge") / "judge", base)


@pytest.fixture(scope="module")
def folds(bases, tmp_path_factory):
    """Three judges, each of which left out the fold of its name."""
    folder = tmp_path_factory.mktemp("folds")
    for fold in range(3):
        make_judge(folder / f"fold-{fold}", bases["qwen2"], fold, folds_seen=sorted({0, 1, 2} - {fold}))
    return folder


def test_probabilities_are_those_of_whole_logits_one_row_at_a_time(judge, planted_rows, planted_file, tmp_path):
    assert predict(judge, planted_file, tmp_path / "probs.parquet", "--limit", "12") == 0
    probs = read_probs(tmp_path / "probs.parquet")
    assert probs.ids.tolist() == [row["id"] for row in planted_rows[:12] for _ in "ab"]
    assert probs.orders.tolist() == ["ab", "ba"] * 12
    seen = np.exp(probs.logp).reshape(12, 2, 3)
    np.testing.assert_allclose(seen, naive(judge, planted_rows[:12]), atol=1e-5)
    assert seen.std(axis=0).max() > 1e-3  # else nothing was tested


def test_exchanged_responses_exchange_a_and_b(judge, planted_table, planted_file, tmp_path):
    write_battles(tmp_path / "exchanged.parquet", exchange(planted_table))
    assert predict(judge, planted_file, tmp_path / "one.parquet") == 0
    assert predict(judge, tmp_path / "exchanged.parquet", tmp_path / "other.parquet") == 0
    one, other = (average_orders(read_probs(tmp_path / name))[1] for name in ("one.parquet", "other.parquet"))
    np.testing.assert_allclose(one[:, [1, 0, 2]], other, atol=1e-6)
    assert np.abs(one[:, 0] - one[:, 1]).max() > 1e-3


def test_one_order_is_the_first_of_both(judge, planted_file, tmp_path):
    assert predict(judge, planted_file, tmp_path / "both.parquet") == 0
    assert predict(judge, planted_file, tmp_path / "one.parquet", "--swap", "none") == 0
    both, one = read_probs(tmp_path / "both.parquet"), read_probs(tmp_path / "one.parquet")
    assert set(one.orders) == {"ab"}
    np.testing.assert_allclose(one.logp, both.logp[::2], atol=1e-5)


def test_two_verdicts_leave_no_probability_to_a_tie(bases, planted_file, tmp_path):
    judge = make_judge(tmp_path / "two", bases["gemma2"], words=("A", "B"))
    assert predict(judge, planted_file, tmp_path / "probs.parquet") == 0
    probs = read_probs(tmp_path / "probs.parquet")
    assert probs.num_verdicts == 2 and np.isneginf(probs.logp[:, 2]).all()


def test_several_files_are_scored_as_each_alone(judge, planted_file, planted_table, tmp_path):
    write_battles(tmp_path / "few.parquet", planted_table.slice(3, 4))
    outputs = [str(tmp_path / "out" / name) for name in ("one.parquet", "two.parquet")]
    words = ["--battles", str(planted_file), str(tmp_path / "few.parquet"), "--output", *outputs]
    assert main(["predict", "--model", str(judge), *words]) == 0
    assert predict(judge, tmp_path / "few.parquet", tmp_path / "alone.parquet") == 0
    alone, two, one = (read_probs(path) for path in (tmp_path / "alone.parquet", outputs[1], outputs[0]))
    np.testing.assert_allclose(two.logp, alone.logp, atol=1e-6)
    np.testing.assert_allclose(two.logp, one.logp[6:14], atol=1e-5)


def test_the_engine_check_passes_against_itself(judge, planted_file, tmp_path, capsys):
    assert predict(judge, planted_file, tmp_path / "probs.parquet", "--check", "5") == 0
    assert "max |Δp| 0.00e+00" in capsys.readouterr().out


def test_a_refused_check_writes_nothing_and_is_not_passed_by_running_again(judge, planted_file, tmp_path, monkeypatch):
    monkeypatch.setattr("sft_judge.inference.parity.TOLERANCES", dict.fromkeys(TOLERANCES, -1.0))
    for _ in range(2):
        assert predict(judge, planted_file, tmp_path / "probs.parquet", "--check", "5") == 3
        assert not (tmp_path / "probs.parquet").exists()


# Out of fold


def test_out_of_fold_each_row_is_scored_by_the_judge_that_did_not_see_it(folds, planted_rows, planted_file, tmp_path):
    assert predict(folds, planted_file, tmp_path / "probs.parquet", "--out-of-fold") == 0
    probs = read_probs(tmp_path / "probs.parquet")
    seen = np.exp(probs.logp).reshape(len(planted_rows), 2, 3)
    for fold in range(3):
        rows = [place for place, row in enumerate(planted_rows) if row["fold"] == fold][:4]
        expected = naive(folds / f"fold-{fold}", [planted_rows[row] for row in rows])
        np.testing.assert_allclose(seen[rows], expected, atol=1e-5)
    assert probs.metadata["battles_sha256"] == content_hash(planted_file)
    for fold, proof in probs.metadata["folds"].items():
        assert proof["model"].endswith(f"fold-{fold}") and int(fold) not in proof["folds_seen"]


def test_a_row_without_a_fold_is_the_mean_of_all_judges(folds, planted_rows, tmp_path):
    rows = [{**row, "fold": None if place else 1} for place, row in enumerate(planted_rows[:3])]
    write_battles(tmp_path / "battles.parquet", battle_table(rows))
    assert predict(folds, tmp_path / "battles.parquet", tmp_path / "probs.parquet", "--out-of-fold") == 0
    seen = np.exp(read_probs(tmp_path / "probs.parquet").logp).reshape(3, 2, 3)
    each = np.stack([naive(folds / f"fold-{fold}", rows) for fold in range(3)])
    np.testing.assert_allclose(seen[1:], each[:, 1:].mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(seen[0], each[1, 0], atol=1e-5)


def test_a_folder_of_folds_is_averaged_where_it_is_not_asked_for_out_of_fold(
    folds, planted_rows, planted_file, tmp_path
):
    assert predict(folds, planted_file, tmp_path / "probs.parquet", "--limit", "3") == 0
    seen = np.exp(read_probs(tmp_path / "probs.parquet").logp).reshape(3, 2, 3)
    each = [naive(folds / f"fold-{fold}", planted_rows[:3]) for fold in range(3)]
    np.testing.assert_allclose(seen, np.mean(each, axis=0), atol=1e-5)


def test_a_judge_that_saw_the_fold_is_refused_with_status_3(folds, planted_file, tmp_path, capsys):
    copy = shutil.copytree(folds, tmp_path / "folds")
    spec = read_spec(copy / "fold-1")
    spec.training["folds_seen"] = [0, 1]
    write_spec(copy / "fold-1", spec)
    capsys.readouterr()
    assert predict(copy, planted_file, tmp_path / "probs.parquet", "--out-of-fold") == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "trained on fold 1" in error
    assert [path.name for path in tmp_path.iterdir()] == ["folds"]


def test_a_fold_without_its_judge_is_an_error(folds, planted_file, tmp_path, capsys):
    copy = shutil.copytree(folds, tmp_path / "folds")
    shutil.rmtree(copy / "fold-2")
    assert predict(copy, planted_file, tmp_path / "probs.parquet", "--out-of-fold") == 2
    assert "there is no judge fold-2" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["folds"]


# Going on, and bad input


def test_finished_blocks_are_not_scored_again_after_a_kill(judge, planted_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sft_judge.inference.shards.ROWS_A_BLOCK", 16)
    assert predict(judge, planted_file, tmp_path / "whole.parquet") == 0
    score, scored = TransformersEngine.score, []

    def failing(self, prompts):
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.append(len(prompts))
        return score(self, prompts)

    monkeypatch.setattr(TransformersEngine, "score", failing)
    capsys.readouterr()
    assert predict(judge, planted_file, tmp_path / "killed.parquet") == 130
    assert "this goes on: sft-judge predict" in capsys.readouterr().err
    assert not (tmp_path / "killed.parquet").exists()
    scored.clear()
    monkeypatch.setattr(
        TransformersEngine, "score", lambda self, prompts: scored.append(len(prompts)) or score(self, prompts)
    )
    assert predict(judge, planted_file, tmp_path / "killed.parquet") == 0
    assert scored == [32, 24]  # 60 rows in blocks of 16, two orders each: the last two blocks
    whole, killed = read_probs(tmp_path / "whole.parquet"), read_probs(tmp_path / "killed.parquet")
    assert killed.ids.tolist() == whole.ids.tolist() and np.array_equal(killed.logp, whole.logp)
    assert not [path.name for path in tmp_path.iterdir() if "partial" in path.name]


def test_shards_score_each_row_once_and_the_last_one_writes_what_one_process_does(
    folds, planted_file, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("sft_judge.inference.shards.ROWS_A_BLOCK", 8)
    assert predict(folds, planted_file, tmp_path / "whole.parquet", "--out-of-fold") == 0
    score, scored = TransformersEngine.score, []
    monkeypatch.setattr(
        TransformersEngine, "score", lambda self, prompts: scored.append(len(prompts)) or score(self, prompts)
    )
    output = tmp_path / "shared.parquet"
    for place, shard in enumerate(("2/3", "0/3", "1/3")):
        assert not output.exists()
        assert predict(folds, planted_file, output, "--out-of-fold", "--shard", shard) == 0
        assert ("this shard is done" in capsys.readouterr().out) == (place < 2)
    assert sum(scored) == 120  # 60 rows in two orders
    whole, shared = read_probs(tmp_path / "whole.parquet"), read_probs(output)
    assert shared.ids.tolist() == whole.ids.tolist() and np.array_equal(shared.logp, whole.logp)
    assert shared.metadata["folds"] == whole.metadata["folds"]
    for wrong in ("3/3", "x", "1"):
        assert predict(folds, planted_file, tmp_path / "none.parquet", "--shard", wrong) == 2
        assert f"{wrong} is no shard; expected I/N" in capsys.readouterr().err


@pytest.mark.parametrize("damage, reason", [("none", "no judge.json"), ("key", "unknown key"), ("ids", "ids")])
def test_a_folder_that_is_no_judge_is_one_line_and_status_2(damage, reason, judge, planted_file, tmp_path, capsys):
    copy = shutil.copytree(judge, tmp_path / "judge")
    file = copy / "judge.json"
    fields = json.loads(file.read_text())
    changed = {"key": fields | {"budgets": 1}, "ids": fields | {"verdict_ids": [1, 2, 3]}, "none": None}[damage]
    file.write_text(json.dumps(changed)) if changed else file.unlink()
    capsys.readouterr()
    assert predict(copy, planted_file, tmp_path / "probs.parquet") == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sft-judge:")]
    assert len(error) == 1 and reason in error[0]
    assert [path.name for path in tmp_path.iterdir()] == ["judge"]


def test_a_file_too_many_or_an_empty_fold_is_an_error(judge, planted_file, tmp_path, capsys):
    assert predict(judge, planted_file, tmp_path / "a.parquet", "--fold", "8") == 2
    assert "no battle in fold 8" in capsys.readouterr().err
    with pytest.raises(InputError, match="1 battles files for 2 outputs"):
        prediction.open_jobs([planted_file], [tmp_path / "a", tmp_path / "b"], None, None)


# The same from Python and on the terminal


def test_the_judge_of_the_api_says_what_the_predict_file_says(judge, planted_rows, planted_file, tmp_path):
    assert predict(judge, planted_file, tmp_path / "probs.parquet") == 0
    ids, probs, _ = average_orders(read_probs(tmp_path / "probs.parquet"))
    rows = planted_rows[:10]
    with Judge.load(str(judge)) as api:
        many = api.judge(*([row[name] for row in rows] for name in ("prompt", "response_a", "response_b")))
        first = next(row for row in rows if len(row["prompt"]) == 1)
        one = api.judge(*(first[name][0] for name in ("prompt", "response_a", "response_b")))
    seen = np.array([(judgement.a, judgement.b, judgement.tie) for judgement in many])
    np.testing.assert_allclose(seen, probs[:10], atol=1e-5)
    assert [judgement.verdict for judgement in many] == [
        ("a", "b", "tie")[place] for place in probs[:10].argmax(axis=1)
    ]
    assert one.a == pytest.approx(many[rows.index(first)].a, abs=1e-5)


def test_the_judges_temperature_is_applied_by_the_api(judge, tmp_path):
    copy = shutil.copytree(judge, tmp_path / "judge")
    spec = read_spec(copy)
    spec.calibration = {"temperature": 2.0}
    write_spec(copy, spec)
    raw, calibrated = (Judge.load(str(folder)).judge("Why?", "So.", "Ah, because") for folder in (judge, copy))
    powered = np.sqrt([raw.a, raw.b, raw.tie])
    np.testing.assert_allclose([calibrated.a, calibrated.b, calibrated.tie], powered / powered.sum(), atol=1e-6)


def test_unequal_lists_are_an_error_and_no_battles_no_judgements(judge):
    api = Judge.load(str(judge))
    with pytest.raises(InputError, match="2 prompts, 1 and 2 responses"):
        api.judge(["p", "q"], ["a"], ["b", "c"])
    assert api.judge([], [], []) == []
    assert api.judge("half a \ud83d", "b", "c") == api.judge("half a \ufffd", "b", "c")  # as import has it
    with pytest.raises(InputError, match="expected one of both, none"):
        api.judge("p", "a", "b", swap="boht")


@pytest.mark.parametrize("words", [["A", "B"], ["A", "B", "tie"]])
def test_two_responses_that_are_one_are_a_tie_in_either_place(words):
    orders = np.log([[0.6, 0.4, 0.1], [0.4, 0.6, 0.1]])[:, : len(words)]  # whoever stands first is liked more
    orders -= np.logaddexp.reduce(orders, axis=1, keepdims=True)
    spec = JudgeSpec(words, list(range(len(words))), "x", Budget())
    (one,), (clear,) = judgements(orders[None], spec), judgements(orders[None, :1], spec)
    assert one.a == one.b and one.verdict == "tie" and clear.verdict == "a"


def test_one_battle_on_the_terminal_sums_to_one(judge, capsys):
    words = ["judge", "--model", str(judge), "--prompt", "Name a prime.", "--response-a", "7", "--response-b", "Nine"]
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["a"] + answer["b"] + answer["tie"] == pytest.approx(1)
    assert main(words) == 0
    shares = [float(line.split()[1].rstrip("%")) for line in capsys.readouterr().out.splitlines()[:3]]
    np.testing.assert_allclose(shares, [100 * answer[name] for name in ("a", "b", "tie")], atol=0.06)


# Merged


def test_a_merged_adapter_gives_the_adapters_probabilities(base, planted_rows, planted_file, tmp_path, capsys):
    adapter = make_judge(tmp_path / "adapter", base, adapter=True)
    merged = tmp_path / "merged"
    words = ["--output", str(merged), "--battles", str(planted_file), "--limit", "8"]
    assert main(["merge", str(adapter), *words]) == 0
    assert "adapter against merged" in capsys.readouterr().out
    assert (merged / "model.safetensors").is_file() and not (merged / "adapter_config.json").exists()
    np.testing.assert_allclose(naive(merged, planted_rows[:8]), naive(adapter, planted_rows[:8]), atol=1e-4)


def test_a_merge_that_changes_probabilities_is_refused_with_status_3(
    bases, planted_file, tmp_path, monkeypatch, capsys
):
    from sft_judge.conversion.merge_adapter import AdapterByShards

    adapter = make_judge(tmp_path / "adapter", bases["qwen2"], adapter=True)
    monkeypatch.setattr(AdapterByShards, "merge", lambda self, name, weight: weight)  # forgets the adapter
    before = {path.name for path in tmp_path.iterdir()}
    assert main(["merge", str(adapter), "--output", str(tmp_path / "merged"), "--battles", str(planted_file)]) == 3
    assert "Parity gate" in capsys.readouterr().err and {path.name for path in tmp_path.iterdir()} == before


def test_a_judge_merged_with_itself_is_itself(judge, tmp_path):
    assert main(["merge", str(judge), str(judge), "--output", str(tmp_path / "merged"), "--weights", "0.25,0.75"]) == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (judge, tmp_path / "merged"))
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=1e-7, rtol=1e-6)


def test_merged_weights_are_the_weighted_mean(folds, tmp_path):
    models = [str(folds / f"fold-{fold}") for fold in range(2)]
    assert main(["merge", *models, "--output", str(tmp_path / "merged"), "--weights", "0.75,0.25"]) == 0
    one, two, merged = (load_file(f"{folder}/model.safetensors") for folder in (*models, tmp_path / "merged"))
    for name, value in merged.items():
        torch.testing.assert_close(value, 0.75 * one[name] + 0.25 * two[name], atol=1e-6, rtol=1e-5)
    assert read_spec(tmp_path / "merged").training["folds_seen"] == [0, 1, 2]


@pytest.mark.parametrize(
    "weights, reason",
    [
        ("1", "1 weights"),
        ("1,0", "above 0"),
        ("1,-1", "above 0"),
        ("a,b", "numbers"),
        ("3,1", "sum to 4"),
        ("0.5,0.49", "sum to 0.99"),
    ],
)
def test_bad_weights_are_an_error(weights, reason, folds, tmp_path, capsys):
    models = [str(folds / f"fold-{fold}") for fold in range(2)]
    assert main(["merge", *models, "--output", str(tmp_path / "merged"), f"--weights={weights}"]) == 2
    assert reason in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_judges_of_two_families_or_prompts_are_not_merged(bases, folds, tmp_path, capsys):
    gemma = make_judge(tmp_path / "gemma", bases["gemma2"])
    two = make_judge(tmp_path / "two", bases["qwen2"], words=("A", "B"))
    for other, reason in ((gemma, "verdict_ids"), (two, "verdict_words")):
        assert main(["merge", str(folds / "fold-0"), str(other), "--output", str(tmp_path / "merged")]) == 2
        assert f"differ in '{reason}'" in capsys.readouterr().err


def test_plan_refuses_before_anything_is_scored(folds, planted_table):
    judges = prediction.find_judges(str(folds))
    judges[str(folds / "fold-0")].training["folds_seen"] = [0]
    with pytest.raises(GateError, match="in-sample"):
        prediction.plan(judges, planted_table, True, "another")


# Out of memory


def test_out_of_memory_halves_the_batch_and_the_numbers_stay(judge, planted_file, tmp_path, monkeypatch, capsys):
    assert predict(judge, planted_file, tmp_path / "whole.parquet") == 0
    forward, sizes = TransformersEngine._forward, []

    def small_memory(self, prompts):
        sizes.append(len(prompts) * max(map(len, prompts)))
        if sizes[-1] > 900:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than there is.")
        return forward(self, prompts)

    monkeypatch.setattr(TransformersEngine, "_forward", small_memory)
    capsys.readouterr()
    assert predict(judge, planted_file, tmp_path / "halved.parquet") == 0
    assert "out of memory: batches of" in capsys.readouterr().err
    refused = [size for size in sizes if size > 900]
    assert 0 < len(refused) <= 5 and sizes[: len(refused)] == refused  # then never again
    np.testing.assert_allclose(
        np.exp(read_probs(tmp_path / "halved.parquet").logp),
        np.exp(read_probs(tmp_path / "whole.parquet").logp),
        atol=1e-5,
    )


def test_one_battle_that_is_too_long_for_the_memory_says_what_to_set(
    judge, planted_file, tmp_path, monkeypatch, capsys
):
    def no_memory(self, prompts):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore lines")

    monkeypatch.setattr(TransformersEngine, "_forward", no_memory)
    capsys.readouterr()
    assert predict(judge, planted_file, tmp_path / "probs.parquet") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "out of memory with one battle" in error and "sft-judge quantize" in error and "more lines" not in error
    assert not (tmp_path / "probs.parquet").exists()
