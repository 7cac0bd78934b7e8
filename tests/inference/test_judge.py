"""The Python API: it says what the predict file says, and what it cannot judge is an error."""

import shutil

import numpy as np
import pytest
from datasets import Dataset

from helpers.judges import predict
from sft_judge import Judge
from sft_judge.core.errors import InputError
from sft_judge.data.probs import average_orders, read_probs
from sft_judge.inference.judge import judgements
from sft_judge.modeling.judge_spec import Budget, JudgeSpec, read_spec, write_spec

pytestmark = pytest.mark.unit  # random judges: nothing is trained


@pytest.fixture
def judge(each_judge):
    return each_judge


def test_the_judge_of_the_api_says_what_the_predict_file_says(judge, synthetic_rows, synthetic_file, tmp_path):
    assert predict(judge, synthetic_file, tmp_path / "probs.parquet") == 0
    ids, probs, _ = average_orders(read_probs(tmp_path / "probs.parquet"))
    rows = synthetic_rows[:10]
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


def test_battles_whole_as_dicts_or_as_a_dataset_are_those_in_three_lists(judge, synthetic_rows):
    rows = [{name: row[name] for name in ("prompt", "response_a", "response_b")} for row in synthetic_rows[:6]]
    with Judge.load(judge) as api:
        expected = api.judge(*([row[name] for row in rows] for name in rows[0]))
        assert api.judge(rows) == api.judge(Dataset.from_list(rows)) == expected
        assert api.judge(rows[:1]) == [api.judge(rows[0])]
        assert api.judge({"prompt": "p", "response_a": "a", "response_b": "b", "verdict": None}) == api.judge(
            "p", "a", "b"
        )


WRONG = {
    "a key that is missing": (({"prompt": "p", "response_a": "a"},), "Battle 0 has no 'response_b'; it has 'prompt'"),
    "no battle": ((["p"],), "Battle 0 is a str, expected a dict of prompt, response_a, response_b"),
    "no responses": (("p",), "a str without responses"),
    "one response": (("p", "a"), "1 prompts, 1 and 0 responses|response_b of battle 0 is NoneType"),
    "no text": (("p", "a", 7), "response_b of battle 0 is int, expected a text or a list of turns"),
    "a chat": (
        ({"prompt": [{"role": "user"}], "response_a": "a", "response_b": "b"},),
        "prompt of battle 0 is a list of",
    ),
    "no turns": ((["p"], [[]], ["b"]), "response_a of battle 0 is list"),
    "languages for other battles": ((["p"], ["a"], ["b"], None, ["de", "fr"]), "2 languages for 1 battles"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_battle_is_an_error_that_says_what_was_seen(case, judge):
    texts, why = WRONG[case]
    with pytest.raises(InputError, match=why):
        Judge.load(judge).judge(*texts)


def test_settings_of_the_engine_are_used_or_refused(judge, synthetic_rows):
    rows = [{name: row[name] for name in ("prompt", "response_a", "response_b")} for row in synthetic_rows[:5]]
    expected = [each.a for each in Judge.load(judge).judge(rows)]
    small, sizes = Judge.load(judge, device="cpu", batch_size=2), []
    forward = small.engine._forward
    small.engine._forward = lambda prompts: sizes.append(len(prompts)) or forward(prompts)
    np.testing.assert_allclose([each.a for each in small.judge(rows)], expected, atol=1e-6)
    assert sizes == [2] * 5
    for name, value in {"batch_size": 0, "device": "cuda:99", "engine": "vlm"}.items():
        with pytest.raises(InputError, match=f"{name} is"):
            Judge.load(judge, **{name: value})
    with pytest.raises(InputError, match="device and batch_size are for the engine transformers"):
        Judge.load(judge, engine="vllm", batch_size=2)


@pytest.mark.parametrize("words", [["A", "B"], ["A", "B", "tie"]])
def test_two_responses_that_are_one_are_a_tie_in_either_place(words):
    orders = np.log([[0.6, 0.4, 0.1], [0.4, 0.6, 0.1]])[:, : len(words)]  # whoever stands first is liked more
    orders -= np.logaddexp.reduce(orders, axis=1, keepdims=True)
    spec = JudgeSpec(words, list(range(len(words))), "x", Budget())
    (one,), (clear,) = judgements(orders[None], spec), judgements(orders[None, :1], spec)
    assert one.a == one.b and one.verdict == "tie" and clear.verdict == "a"
