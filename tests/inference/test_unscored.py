"""A battle without finite scores: others keep theirs, it is asked again, and no verdict is made of NaN."""

import csv
import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from helpers.judges import exchange, predict
from helpers.serving import Reference, refused, served, shares
from sft_judge import Judge
from sft_judge.cli import main
from sft_judge.client import JudgeClient
from sft_judge.core.errors import InputError
from sft_judge.data.battles import battle_table, write_battles
from sft_judge.data.probs import read_probs
from sft_judge.inference.engines import open_engine
from sft_judge.inference.judge_lines import judge_lines
from sft_judge.inference.scoring import MOST_IN_FLOAT32, score_finite
from sft_judge.modeling.judge_spec import read_spec, write_spec
from sft_judge.modeling.loading import load_tokenizer
from sft_judge.rewards import judge_battles
from sft_judge.training.soft_labels import read_teachers

pytestmark = pytest.mark.unit
RARE = "§"  # its last byte's token occurs in no other battle
TEXTS = ("prompt", "response_a", "response_b")


def planted(folder, judge, value: float):
    """The judge with the embedding of RARE's token set to a value."""
    shutil.copytree(judge, folder)
    spec = read_spec(folder)
    spec.training["verdict_shares"] = [0.5, 0.3, 0.2]
    write_spec(folder, spec)
    token = load_tokenizer(str(judge))(RARE, add_special_tokens=False)["input_ids"][-1]
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][token] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def damaged(judge, tmp_path_factory):
    """A judge one of whose embeddings is infinite."""
    return planted(tmp_path_factory.mktemp("damaged") / "judge", judge, float("inf"))


@pytest.fixture(scope="module")
def rows():
    """Six battles without a label; the third has RARE in a response."""
    texts = [[f"Name {n} primes."] for n in range(6)]
    battles = [
        {"id": f"row{n}", "prompt": text, "response_a": ["2, 3 " * n], "response_b": ["9."]}
        for n, text in enumerate(texts)
    ]
    battles[2]["response_b"] = [RARE]
    return battles


@pytest.fixture(scope="module")
def file(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "battles.parquet"
    write_battles(path, battle_table(rows))
    return path


def test_other_battles_keep_their_scores_and_the_one_has_class_frequencies(
    damaged, judge, rows, file, tmp_path, caplog
):
    assert predict(damaged, file, tmp_path / "p.parquet") == 0
    assert predict(judge, file, tmp_path / "whole.parquet") == 0
    found, whole = read_probs(tmp_path / "p.parquet"), read_probs(tmp_path / "whole.parquet")
    of_it = found.ids == rows[2]["id"]
    assert found.scored.tolist() == (~of_it).tolist() and of_it.sum() == 1 and len(found.ids) == 11
    assert found.logp[~of_it] == pytest.approx(whole.logp[whole.ids != rows[2]["id"]], abs=1e-5)
    assert np.exp(found.logp[of_it][0]) == pytest.approx([0.4, 0.4, 0.2]), "the same after an exchange"
    assert found.metadata["unscored"]["from"] == "verdicts in training, from judge.json"
    assert any("no finite scores" in message and rows[2]["id"] in message for message in caplog.messages)
    assert any("1 of 6 battles have class frequencies" in message for message in caplog.messages)


def test_the_submission_is_written_and_exchanging_the_responses_exchanges_it(damaged, rows, file, tmp_path):
    (tmp_path / "sample.csv").write_text(
        "id,winner_model_a,winner_model_b,winner_tie\n" + "".join(f"{row['id']},0.3,0.3,0.4\n" for row in rows)
    )
    write_battles(tmp_path / "swapped.parquet", exchange(battle_table(rows)))
    tables = []
    for name, battles in (("one", file), ("other", tmp_path / "swapped.parquet")):
        assert predict(damaged, battles, tmp_path / f"{name}.parquet") == 0
        words = ["--probs", tmp_path / f"{name}.parquet", "--sample", tmp_path / "sample.csv"]
        assert main(["submit", *map(str, words), "--output", str(tmp_path / f"{name}.csv")]) == 0
        lines = list(csv.reader((tmp_path / f"{name}.csv").open()))[1:]
        tables.append(np.array([line[1:] for line in lines], dtype=float))
    assert np.isfinite(tables[0]).all() and tables[0].sum(axis=1) == pytest.approx(np.ones(6))
    assert tables[0] == pytest.approx(tables[1][:, [1, 0, 2]], abs=1e-6)


def test_a_judge_without_a_finite_score_is_one_line_and_no_file(judge, file, tmp_path, capsys):
    shutil.copytree(judge, tmp_path / "nan")
    weights = load_file(tmp_path / "nan/model.safetensors")
    weights["model.norm.weight"][:] = float("nan")
    save_file(weights, tmp_path / "nan/model.safetensors", metadata={"format": "pt"})
    assert predict(tmp_path / "nan", file, tmp_path / "p.parquet") == 2
    assert "no battle of" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "p.parquet").exists()


def test_what_overflows_in_float16_is_scored_in_float32(judge, rows, file, tmp_path, caplog):
    large = planted(tmp_path / "large", judge, 1e6)  # above the largest float16, 65,504
    assert predict(large, file, tmp_path / "half.parquet", "--dtype", "float16") == 0
    assert predict(large, file, tmp_path / "whole.parquet", "--dtype", "float32") == 0
    half, whole = read_probs(tmp_path / "half.parquet"), read_probs(tmp_path / "whole.parquet")
    assert half.scored is None and np.exp(half.logp) == pytest.approx(np.exp(whole.logp), abs=0.02)
    of_it = half.ids == rows[2]["id"]
    assert half.logp[of_it] == pytest.approx(whole.logp[of_it], abs=1e-5), "in float32"
    assert any("scored again" in message and rows[2]["id"] in message for message in caplog.messages)


def test_a_deadline_leaves_only_the_battle_without_scores_at_class_frequencies(damaged, rows, file, tmp_path):
    assert predict(damaged, file, tmp_path / "p.parquet", "--time-budget", "60s") == 0
    probs = read_probs(tmp_path / "p.parquet")
    assert set(probs.ids[~probs.scored]) == {rows[2]["id"]}


def test_verify_names_the_battle_that_cannot_be_compared(damaged, judge, rows, tmp_path, capsys):
    file = tmp_path / "labelled.parquet"
    write_battles(file, battle_table([{**row, "verdict": "a"} for row in rows]))
    assert main(["verify", str(judge), str(damaged), "--battles", str(file), "--engines", "transformers"]) == 2
    assert f"No finite scores for {rows[2]['id']} ab" in capsys.readouterr().err


def test_the_mean_of_several_judges_is_over_those_with_numbers(damaged, judge, rows, file, tmp_path):
    for fold, of_fold in enumerate((damaged, judge)):
        shutil.copytree(of_fold, tmp_path / f"folds/fold-{fold}")
    assert predict(tmp_path / "folds", file, tmp_path / "mean.parquet") == 0
    assert predict(judge, file, tmp_path / "one.parquet") == 0
    mean, one = read_probs(tmp_path / "mean.parquet"), read_probs(tmp_path / "one.parquet")
    assert mean.scored is None and np.exp(mean.logp) == pytest.approx(np.exp(one.logp), abs=1e-6)


def test_candidates_are_ranked_although_a_battle_has_no_scores(damaged, tmp_path):
    rows = [{"prompt": "p", "candidates": ["2", RARE, "3 and 5"]}]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["best-of-n", tmp_path / "c.jsonl", "--model", damaged, "--output", tmp_path / "o.jsonl"]
    assert main(list(map(str, words))) == 0
    assert "NaN" not in (tmp_path / "o.jsonl").read_text()


# Python, lines and HTTP


def test_python_raises_and_names_the_place(damaged, rows):
    with Judge.load(damaged) as judge:
        with pytest.raises(InputError, match="no finite numbers.*Battle 2 of 6, 1 in all"):
            judge.judge([{name: row[name] for name in TEXTS} for row in rows])
        assert (
            len(judge.judge([{name: row[name] for name in TEXTS} for row in rows if row["id"] != rows[2]["id"]])) == 5
        )


def as_json(row: dict) -> dict:
    return {"id": row["id"], **{name: row[name] for name in TEXTS}}


def test_a_line_is_answered_with_an_error_and_the_others_with_judgements(damaged, rows):
    with Judge.load(damaged) as judge:
        (answers,) = judge_lines(judge, [[json.dumps(as_json(row)).encode() for row in rows]])
    assert ["error" in answer for answer in answers] == [False, False, True, False, False, False]
    assert answers[2]["error"]["code"] == "no_finite_scores" and answers[2]["id"] == rows[2]["id"]
    assert "NaN" not in json.dumps(answers)


def test_over_http_the_battle_has_an_error_and_the_others_their_judgements(damaged, rows):
    with served(damaged) as (_, client):
        judged = client.post("/v1/judge", json={"battles": [as_json(row) for row in rows]})
        assert judged.status_code == 200 and "NaN" not in judged.text
        judgements = judged.json()["judgements"]
        assert ["error" in one for one in judgements] == [False, False, True, False, False, False]
        assert judgements[2]["id"] == rows[2]["id"] and "verdict" not in judgements[2]
        refused(client.post("/v1/judge", json=as_json(rows[2])), 422)
        lines = "".join(json.dumps(as_json(row)) + "\n" for row in rows)
        answer = client.post("/v1/judge/batch", content=lines, headers={"content-type": "application/x-ndjson"})
        found = [json.loads(line) for line in answer.text.splitlines()]
        assert ["error" in one for one in found] == [False, False, True, False, False, False]


class Stale(Reference):
    """An engine that answers NaN until a row is computed without what is kept of earlier ones."""

    async def score(self, prompts, fresh=False):
        scores, cached = await super().score(prompts)
        return (scores if fresh else np.full_like(scores, np.nan)), cached


def test_the_server_asks_again_without_what_the_engine_keeps(judge, rows):
    with open_engine("transformers", str(judge), read_spec(judge)) as engine:
        with served(judge, Reference(engine)) as (_, client):
            expected = client.post("/v1/judge", json=as_json(rows[0])).json()
        with served(judge, Stale(engine)) as (_, client):
            answer = client.post("/v1/judge", json=as_json(rows[0])).json()
    np.testing.assert_allclose(shares(answer["judgements"]), shares(expected["judgements"]), atol=1e-6)


def test_a_reward_says_that_a_battle_has_no_judgement(damaged, rows):
    with served(damaged) as (_, client), JudgeClient(str(client.base_url)) as asked:
        with pytest.raises(InputError, match="1 of 6 battles have no judgement: The judge gives no finite numbers"):
            judge_battles(asked, [as_json(row) for row in rows], None)


# The retries, with engines that are not models


class Spreading:
    """An engine in which a row of token 9 makes all rows of its batch NaN; in float32 it has numbers."""

    def __init__(self, exact=None):
        self.exact, self.asked = exact, []

    def score(self, prompts, fresh=False):
        self.asked.append((len(prompts), fresh))
        wrong = any(9 in prompt for prompt in prompts)
        return np.full((len(prompts), 3), np.nan if wrong else np.log(1 / 3))

    def in_float32(self):
        return self.exact


class Exact:
    def score(self, prompts):
        return np.tile(np.log([0.5, 0.25, 0.25]), (len(prompts), 1))


PROMPTS, NAMES = [[1], [2, 9], [3]], ["x", "y", "z"]


def test_rows_that_another_made_nan_are_scored_alone():
    engine = Spreading()
    scores = score_finite(engine, PROMPTS, NAMES)
    assert np.isnan(scores).all(axis=1).tolist() == [False, True, False] and engine.asked == [
        (3, False),
        *[(1, True)] * 5,
    ]


def test_the_row_itself_is_scored_in_float32():
    scores = score_finite(Spreading(Exact()), PROMPTS, NAMES)
    assert np.exp(scores[1]) == pytest.approx([0.5, 0.25, 0.25]) and np.exp(scores[0]) == pytest.approx([1 / 3] * 3)


def test_no_more_rows_than_the_limit_are_scored_in_float32():
    prompts = [[9]] * (MOST_IN_FLOAT32 + 3)
    scores = score_finite(Spreading(Exact()), prompts, ["n"] * len(prompts))
    assert np.isnan(scores[:, 0]).sum() == 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_any_value_that_is_not_finite_makes_the_whole_row_unknown(value):
    class One(Spreading):
        def score(self, prompts, fresh=False):
            return np.array([[value, -1.0, -1.0]] * len(prompts))

    assert np.isnan(score_finite(One(), [[1]], ["x"])).all()


def test_class_frequencies_are_no_labels_for_a_student(damaged, file, tmp_path):
    assert predict(damaged, file, tmp_path / "labels.parquet") == 0
    with pytest.raises(InputError, match="1 battles, such as row2, were not scored.*remove these battles"):
        read_teachers([tmp_path / "labels.parquet"], None, None, 3, tmp_path, external_teacher=True)
