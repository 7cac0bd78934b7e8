"""Limits, full queues, hostile requests and texts end in a clean 4xx or 503, or are data, and cost nothing."""

import json
import os
import random
import subprocess
import sys

import httpx
import pytest

from helpers.injection import CORPUS, attack, fuzzed
from helpers.serving import BATTLE, KEY, SECRET, connected, eventually, refused, served
from sft_judge.core.verdicts import ORDERS
from sft_judge.prompts.prompt import JudgePrompt

pytestmark = pytest.mark.unit
LINES_TYPE = "application/x-ndjson"
JSON, LINES = {"content-type": "application/json"}, {"content-type": LINES_TYPE}


@pytest.fixture(scope="module")
def server(judge):
    with served(judge, body_mb=1, batch_mb=2, battles=8, turns=5, characters=2000, queue=20) as (service, client):
        yield service, client


@pytest.fixture
def narrow(server, judge):
    """A function that serves the same engine under other limits."""
    return lambda keys=(), **limits: served(judge, server[0].engine, keys, **limits)


# Bodies


@pytest.mark.parametrize(
    "change, param",
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": {"text": SECRET}}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"response_a": [SECRET, None]}, "response_a.1"),
        ({"response_a": [[SECRET]]}, "response_a.0"),
        ({"response_b": [SECRET] * 6}, "response_b"),
        ({"response_b": SECRET * 200}, "response_b.0"),
        ({"id": 3}, "id"),
        ({"id": "i" * 201}, "id"),
        ({"language": ["English"]}, "language"),
        ({"swap": "boht"}, "swap"),
        ({"swap": True}, "swap"),
        ({"promt": SECRET}, "promt"),
        ({"battles": [BATTLE]}, "prompt"),
    ],
)
def test_a_field_that_is_wrong_is_named(server, change, param):
    refused(server[1].post("/v1/judge", json={**BATTLE, **change}), 400, param)


@pytest.mark.parametrize(
    "battles, param",
    [
        ([], "battles"),
        ([BATTLE] * 9, "battles"),
        ("text", "battles"),
        ([BATTLE, {"prompt": "p"}], "battles.1.response_a"),
        ([BATTLE, "text"], "battles.1"),
        ([{**BATTLE, "swap": "both"}], "battles.0.swap"),
    ],
)
def test_a_battle_that_is_wrong_is_named(server, battles, param):
    refused(server[1].post("/v1/judge", json={"battles": battles}), 400, param)


@pytest.mark.parametrize(
    "body, said",
    [
        (b"", "not JSON"),
        (b"nonsense", "not JSON"),
        (b"[]", "not an object"),
        (b"null", "not an object"),
        (b'"text"', "not an object"),
        (b'{"prompt": NaN}', "NaN is no JSON"),
        (b'{"prompt": -Infinity}', "no JSON"),
        (b'{"prompt": 1' + b"0" * 5000 + b"}", "not JSON"),
        (b'{"prompt": "\xff\xfe"}', "not UTF-8: byte 12"),
        (json.dumps(BATTLE).encode("utf-16"), "not UTF-8"),
        (b"[" * 500_000, "nested too deeply"),
        (b'{"prompt":' * 100_000, "nested too deeply"),
        (b'{"prompt": ' + b"[" * 900 + b"]" * 900 + b"}", "prompt"),
    ],
)
def test_a_body_that_is_no_object_of_json_is_told_so(server, body, said):
    response = server[1].post("/v1/judge", content=body, headers=JSON)
    param = response.json()["error"]["param"]
    assert said in refused(response, 400, param)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "x" * 5000, None])
def test_another_content_type_is_415(server, content_type):
    headers = {"content-type": content_type} if content_type else {}
    refused(server[1].post("/v1/judge", content=json.dumps(BATTLE), headers=headers), 415)


def test_a_charset_is_no_other_content_type(server):
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    assert server[1].post("/v1/judge", content=json.dumps(BATTLE), headers=headers).status_code == 200


def test_unknown_paths_and_methods_are_errors_of_the_same_form(server):
    refused(server[1].get("/v1/judge"), 405)
    for path in ("/v1/models", "/docs", "/load", "/v1/load_lora_adapter", "//v1/judge", "/../etc/passwd"):
        refused(server[1].get(path), 404)


def test_the_judge_says_where_turns_are_too_many_for_its_budget(judge, server, tmp_path):
    import shutil

    from sft_judge.modeling.judge_spec import read_spec, write_spec

    folder = shutil.copytree(judge, tmp_path / "judge")
    spec = read_spec(folder)
    spec.budget.total = len(server[0].prompt.encode([{**turns(1), "language": None}], ("ab",))[0][0]) + 6
    write_spec(folder, spec)
    with served(folder) as (_, client):
        many = {"battles": [turns(1), turns(60)]}
        assert "Budget too small" in refused(client.post("/v1/judge", json=many), 400, "battles.1")


def turns(number: int) -> dict:
    return {name: ["word"] * number for name in ("prompt", "response_a", "response_b")}


# Size and time


@pytest.mark.parametrize("path, megabytes", [("/v1/judge", 1), ("/v1/judge/batch", 2)])
def test_a_large_body_is_413_with_and_without_its_length_said(server, path, megabytes):
    headers = LINES if path.endswith("batch") else JSON
    large = json.dumps({**BATTLE, "prompt": [SECRET] * 10}).encode() + b" " * megabytes * 2**20
    for body in (large, b" " * 10_000_000, iter([large[: 2**18]] * 100)):
        with httpx.Client(base_url=server[1].base_url) as client:
            assert f"{megabytes} MiB" in refused(client.post(path, content=body, headers=headers), 413)
    assert server[0].queue.taken == 0


def test_a_body_of_a_billion_turns_is_refused_by_its_length_alone(server):
    with connected(server[1], "POST /v1/judge", "Content-Length: 4000000000") as peer:
        peer.sendall(b'{"prompt": [')
        assert b" 413 " in peer.recv(4096)
    with connected(server[1], "POST /v1/judge", "Content-Length: 99999999999999999999999") as peer:
        assert peer.recv(4096)[9:12] in (b"413", b"400")


@pytest.mark.parametrize("head", [b"X: " + b"a" * 2**17, b"X: y\r\n" * 2**15, b"POST /" + b"a" * 2**17])
def test_a_head_without_end_is_refused(server, head):
    """With httptools in the place of h11, uvicorn would keep all of it."""
    with connected(server[1], "GET /health", "Content-Length: 5") as peer:
        peer.sendall(b"12345")
        assert b" 200 " in peer.recv(4096)
        with pytest.raises(OSError):
            peer.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n")
            for _ in range(100):
                peer.sendall(head)
    assert server[1].get("/health").status_code == 200


def test_a_body_that_does_not_come_is_408_and_gives_its_place_back(narrow):
    with narrow(seconds=1) as (service, client):
        with connected(client, "POST /v1/judge", "Content-Length: 100") as peer:
            peer.sendall(b"{")
            eventually(lambda: service.queue.taken == 1)
            assert b" 408 " in peer.recv(4096)
        eventually(lambda: service.queue.taken == 0)


@pytest.mark.parametrize("path, content_type", [("/v1/judge", "application/json"), ("/v1/judge/batch", LINES_TYPE)])
def test_a_client_that_goes_away_takes_its_battles_with_it(server, path, content_type):
    service, client = server
    service.engine.busy = True
    asked, cancelled, body = len(service.engine.asked), service.engine.cancelled, json.dumps(BATTLE)
    with connected(client, f"POST {path}", f"Content-Length: {len(body)}", content_type=content_type) as peer:
        peer.sendall(body.encode())
        eventually(lambda: len(service.engine.asked) > asked)
    eventually(lambda: service.engine.cancelled == cancelled + 1 and service.queue.taken == 0)
    service.engine.busy = False
    assert client.post("/v1/judge", json=BATTLE).status_code == 200


def test_half_a_request_and_then_nobody_costs_nothing(server):
    for head in ("POST /v1/judge", "GET /health"):
        with connected(server[1], head, "Content-Length: 50") as peer:
            peer.sendall(b"{")
    eventually(lambda: server[0].queue.taken == 0)
    assert server[1].get("/health").status_code == 200


def test_an_engine_that_takes_too_long_is_503(narrow):
    with narrow(seconds=1) as (service, client):
        service.engine.busy = True
        response = client.post("/v1/judge", json=BATTLE)
        service.engine.busy = False
        assert "longer than 1 s" in refused(response, 503) and int(response.headers["retry-after"]) > 0
        assert service.queue.taken == 0 and client.post("/v1/judge", json=BATTLE).status_code == 200


def test_a_full_queue_is_429_and_when_to_come_back(server):
    service, client = server
    service.engine.busy = True
    with httpx.Client(base_url=client.base_url) as other:
        import threading

        waiting = [
            threading.Thread(target=other.post, args=("/v1/judge",), kwargs={"json": {"battles": [BATTLE] * 8}})
        ]
        waiting += [
            threading.Thread(target=other.post, args=("/v1/judge",), kwargs={"json": {"battles": [BATTLE] * 8}})
        ]
        for thread in waiting:
            thread.start()
        eventually(lambda: service.queue.taken == 16)
        response = client.post("/v1/judge", json={"battles": [BATTLE] * 8})
        assert "16" in refused(response, 429) or "17" in refused(response, 429)
        assert int(response.headers["retry-after"]) >= 1
        assert client.get("/health").status_code == 200
        service.engine.busy = False
        for thread in waiting:
            thread.join()
    assert service.queue.taken == 0 and client.post("/v1/judge", json=BATTLE).status_code == 200


# Text is data


def test_hostile_text_reaches_the_engine_as_data(server):
    """The ids are those of `JudgePrompt`, with the verdict's slot where it was and no control token from a field."""
    service, client = server
    rng = random.Random(0)
    pieces = [{**turns(1), "prompt": [text], "response_b": [text * 3]} for text in CORPUS]
    rows = [{**row, "id": str(place)} for place, row in enumerate([*pieces, *(fuzzed(rng) for _ in range(100))])]
    rows = [row for row in rows if max(len(turn) for name in turns(1) for turn in row[name]) <= 2000]
    assert len(rows) > 250
    service.engine.asked.clear()
    for start in range(0, len(rows), 8):
        answer = client.post("/v1/judge", json={"battles": rows[start : start + 8]})
        assert answer.status_code == 200, answer.text
    rows = [{"language": None, **row} for row in rows]
    expected = [ids for pair in service.prompt.encode(rows, ORDERS) for ids in pair]
    assert service.engine.asked == expected
    counts = attack(service.prompt, rows)
    assert counts["rows out"] == len(rows)
    assert not any(counts[name] for name in ("control tokens from fields", "control tokens moved", "moved slots"))


# The document


def test_the_documents_examples_are_answered(server):
    document = server[1].get("/openapi.json").json()
    examples = document["paths"]["/v1/judge"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert len(examples) >= 2
    for example in examples.values():
        assert server[1].post("/v1/judge", json=example["value"]).status_code == 200
    body = document["paths"]["/v1/judge/batch"]["post"]["requestBody"]["content"]["application/x-ndjson"]
    answer = server[1].post("/v1/judge/batch", content=body["example"], headers=LINES)
    assert answer.status_code == 200 and "error" not in answer.text


HOOKS = """
import schemathesis

@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
"""


def test_what_the_document_promises_is_kept(narrow, tmp_path):
    """schemathesis by its command line: every check it knows, good and bad data, the same each time."""
    (tmp_path / "hooks.py").write_text(HOOKS)
    options = "--checks all --max-examples 50 --generation-deterministic --no-color --suppress-health-check all"
    words = [*options.split(), "--header", f"Authorization: Bearer {KEY}"]
    with narrow(keys=[KEY], characters=2000) as (_, client):
        command = [sys.executable, "-m", "schemathesis.cli", "run", str(client.base_url.join("/openapi.json"))]
        environment = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(tmp_path)}
        done = subprocess.run([*command, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def test_battles_of_every_shape_fill_no_memory(server, monkeypatch):
    monkeypatch.setattr("sft_judge.prompts.prompt.SHAPES", 10)
    prompt: JudgePrompt = server[0].prompt
    for number in range(30):
        rows = [{**turns(1), "prompt": ["p"] * (number + 1), "language": None}]
        assert prompt.encode(rows, ORDERS) and len(prompt._frames) <= 10 + 6 and len(prompt._guards) <= 10 + 6
