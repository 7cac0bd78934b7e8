"""`POST /v1/judge`: the numbers of the API, battles in and judgements out in order, on transformers behind the app."""

import json

import numpy as np
import pytest

from helpers.judges import make_judge
from helpers.serving import served, shares
from sft_judge import Judge
from sft_judge.data.battles import write_battles
from sft_judge.modeling.judge_spec import read_spec, write_spec

pytestmark = pytest.mark.unit
FIELDS = ("prompt", "response_a", "response_b")


@pytest.fixture(scope="module")
def calibrated(judge, tmp_path_factory):
    """The judge of all tests with a temperature, and a budget so small that it cuts."""
    import shutil

    folder = shutil.copytree(judge, tmp_path_factory.mktemp("served") / "judge")
    spec = read_spec(folder)
    spec.calibration, spec.budget.response = {"temperature": 1.7}, 20
    write_spec(folder, spec)
    return folder


@pytest.fixture(scope="module")
def server(calibrated):
    with served(calibrated) as (service, client):
        yield service, client


@pytest.fixture
def battles(synthetic_rows):
    return [{name: row[name] for name in ("id", *FIELDS)} for row in synthetic_rows[:20]]


@pytest.mark.parametrize("swap", ["both", "none", None])
def test_answers_are_those_of_the_api_in_the_order_asked(server, calibrated, battles, swap):
    body = {"battles": battles} | ({"swap": swap} if swap else {})
    answer = server[1].post("/v1/judge", json=body).json()
    assert answer["model"] == "tiny" and answer["calibration"] == {"temperature": 1.7}
    assert [judged["id"] for judged in answer["judgements"]] == [row["id"] for row in battles]
    with Judge.load(str(calibrated)) as api:
        expected = api.judge(*([row[name] for row in battles] for name in FIELDS), swap=swap)
    seen = shares(answer["judgements"])
    np.testing.assert_allclose(seen, [(one.a, one.b, one.tie) for one in expected], atol=1e-6)
    assert [judged["verdict"] for judged in answer["judgements"]] == [one.verdict for one in expected]
    assert [judged["swap_agreement"] for judged in answer["judgements"]] == [one.swap_agreement for one in expected]
    assert seen.std(axis=0).max() > 1e-3


def test_what_was_cut_is_told_in_tokens(server, battles):
    service, client = server
    judged = client.post("/v1/judge", json={"battles": battles}).json()["judgements"]
    rows = [{**row, "language": None} for row in battles]
    for one, row in zip(judged, rows, strict=True):
        lengths = {name: sum(len(service.prompt.plain.encode(turn).ids) for turn in row[name]) for name in FIELDS}
        (fields,) = service.prompt.fit([row])
        kept = {name: sum(map(len, getattr(fields, name))) for name in FIELDS}
        assert one["cut"] == {name: lengths[name] - kept[name] for name in FIELDS}
    assert any(one["cut"]["response_a"] for one in judged) and not all(one["cut"]["response_a"] for one in judged)


def test_exchanged_responses_exchange_a_and_b(server, battles):
    exchanged = [{**row, "response_a": row["response_b"], "response_b": row["response_a"]} for row in battles]
    one, other = (server[1].post("/v1/judge", json={"battles": rows}).json() for rows in (battles, exchanged))
    np.testing.assert_allclose(shares(one["judgements"])[:, [1, 0, 2]], shares(other["judgements"]), atol=1e-6)


def test_one_bare_battle_of_texts_is_a_list_of_one(server):
    texts = dict(zip(FIELDS, ("Name a prime.", "7", "Nine"), strict=True))
    bare = server[1].post("/v1/judge", json=texts).json()
    listed = server[1].post("/v1/judge", json={"battles": [{name: [text] for name, text in texts.items()}]}).json()
    assert bare == listed and bare["judgements"][0]["id"] is None


def test_a_row_of_a_battles_file_is_taken_as_it_is(server, synthetic_rows, battles):
    rows = synthetic_rows[:20]
    assert {"verdict", "fold"} <= set(rows[0])
    answers = [server[1].post("/v1/judge", json={"battles": some}).json() for some in (rows, battles)]
    np.testing.assert_allclose(*(shares(answer["judgements"]) for answer in answers), atol=1e-6)


def test_half_a_surrogate_is_mended_as_import_does(server):
    texts = {"prompt": "half a \ud83d", "response_a": "7", "response_b": "9"}
    odd = server[1].post("/v1/judge", content=json.dumps(texts), headers={"content-type": "application/json"})
    assert odd.json() == server[1].post("/v1/judge", json={**texts, "prompt": "half a \ufffd"}).json()


def test_two_verdicts_leave_no_tie(bases, tmp_path, battles):
    with served(make_judge(tmp_path / "two", bases["gemma2"], words=("A", "B"))) as (_, client):
        answer = client.post("/v1/judge", json={"battles": battles}).json()
    seen = shares(answer["judgements"])
    assert answer["calibration"] is None and (seen[:, 2] == 0).all()
    np.testing.assert_allclose(seen.sum(axis=1), 1)


def lines_of(response) -> list[dict]:
    return [json.loads(line) for line in response.text.splitlines()]


def test_a_batch_gives_a_line_for_a_line(server, battles):
    service, client = server
    rows = battles * 8  # more than are in work at once
    lines = [json.dumps(row) for row in rows]
    lines[3], lines[5], lines[7] = '{"prompt": 3}', "no JSON", json.dumps({"battles": battles})
    response = client.post(
        "/v1/judge/batch", content="\n".join(lines), headers={"content-type": "application/x-ndjson"}
    )
    answers = lines_of(response)
    assert len(rows) > service.limits.battles and len(answers) == len(rows)
    assert ["error" in answer for answer in answers] == [place in (3, 5, 7) for place in range(len(rows))]
    assert answers[3]["error"]["message"].startswith("line 4: ") and answers[3]["error"]["param"] == "prompt"
    good = [place for place in range(len(rows)) if place not in (3, 5, 7)]
    assert [answers[place]["id"] for place in good] == [rows[place]["id"] for place in good]
    alone = client.post("/v1/judge", json={"battles": battles}).json()["judgements"]
    np.testing.assert_allclose(shares([answers[place] for place in good[-20:]]), shares(alone), atol=1e-6)
    assert service.queue.taken == 0


def test_a_battles_file_in_jsonl_is_a_batch(server, synthetic_table, battles, tmp_path):
    write_battles(tmp_path / "battles.jsonl", synthetic_table.slice(0, 20))
    content = (tmp_path / "battles.jsonl").read_bytes()
    answers = lines_of(
        server[1].post("/v1/judge/batch", content=content, headers={"content-type": "application/x-ndjson"})
    )
    alone = server[1].post("/v1/judge", json={"battles": battles}).json()["judgements"]
    np.testing.assert_allclose(shares(answers), shares(alone), atol=1e-6)


def test_metrics_and_health_say_what_was_done(server, battles):
    service, client = server
    before = service.metrics.registry.get_sample_value("sft_judge_battles_total")
    client.post("/v1/judge", json={"battles": battles})
    text = client.get("/metrics").text
    assert f"sft_judge_battles_total {before + len(battles)}" in text and "sft_judge_queue 0.0" in text
    health = client.get("/health").json()
    assert (health["status"], health["model"]) == ("ok", "tiny")
    assert health["limits"]["battles"] == service.limits.battles and health["limits"]["body_mb"] == 8
