"""Limits, full queues and hostile texts end in a clean 4xx or 503, or are data, and cost nothing."""

import json
import random

import httpx
import pytest

from helpers.injection import CORPUS, attack, fuzzed
from helpers.serving import BATTLE, BODIES, JSON, LINES, LINES_TYPE, SECRET, connected, eventually, refused, served
from sft_judge.core.swap_orders import ORDERS
from sft_judge.prompts.prompt import JudgePrompt

pytestmark = pytest.mark.unit


def test_unknown_paths_and_methods_are_errors_of_the_same_form(server):
    refused(server[1].get("/v1/judge"), 405)
    for path in ("/v1/completions", "/docs", "/load", "/v1/load_lora_adapter", "//v1/judge", "/../etc/passwd"):
        refused(server[1].get(path), 404)


def test_more_turns_than_the_budget_has_room_for_are_judged_in_part_and_counted(judge, server, tmp_path):
    import shutil

    from sft_judge.modeling.judge_spec import read_spec, write_spec

    folder = shutil.copytree(judge, tmp_path / "judge")
    spec = read_spec(folder)
    spec.budget.total = len(server[0].prompt.encode([{**turns(2), "language": None}], ("ab",))[0][0]) + 6
    write_spec(folder, spec)
    with served(folder) as (_, client):
        many = {"battles": [turns(1), turns(60)]}
        whole, part = client.post("/v1/judge", json=many).json()["judgements"]
        assert whole["turns_left_out"] == 0 and part["turns_left_out"] == 58
        assert part["cut"]["prompt"] >= 58


def turns(number: int) -> dict:
    return {name: ["word"] * number for name in ("prompt", "response_a", "response_b")}


# Size and time


@pytest.mark.parametrize("path, megabytes", [("/v1/judge/batch", 2), *((path, 1) for path in BODIES)])
def test_a_large_body_is_413_with_and_without_its_length_said(server, path, megabytes):
    headers = LINES if path.endswith("batch") else JSON
    large = json.dumps({**BATTLE, "prompt": [SECRET] * 10}).encode() + b" " * megabytes * 2**20
    for body in (large, b" " * 10_000_000, iter([large[: 2**18]] * 100)):
        with httpx.Client(base_url=server[1].base_url) as client:
            response = client.post(path, content=body, headers=headers)
            assert response.status_code == 413 and f"{megabytes} MiB" in response.text
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


@pytest.mark.parametrize("path", ["/v1/judge/batch", *BODIES])
def test_a_client_that_goes_away_takes_its_battles_with_it(server, path):
    service, client = server
    service.engine.busy = True
    content_type = LINES_TYPE if path.endswith("batch") else "application/json"
    asked, cancelled, body = len(service.engine.asked), service.engine.cancelled, json.dumps(BODIES.get(path, BATTLE))
    with connected(client, f"POST {path}", f"Content-Length: {len(body)}", content_type=content_type) as peer:
        peer.sendall(body.encode())
        eventually(lambda: len(service.engine.asked) > asked)
    eventually(lambda: service.engine.cancelled == cancelled + 1 and service.queue.taken == 0)
    service.engine.busy = False
    assert client.post("/v1/judge", json=BATTLE).status_code == 200


def test_half_a_request_and_then_nobody_costs_nothing(server):
    for head in ("GET /health", *(f"POST {path}" for path in BODIES)):
        with connected(server[1], head, "Content-Length: 50") as peer:
            peer.sendall(b"{")
    eventually(lambda: server[0].queue.taken == 0)
    assert server[1].get("/health").status_code == 200


def test_an_engine_that_takes_too_long_is_503(narrow):
    with narrow(seconds=1) as (service, client):
        for path, body in BODIES.items():
            service.engine.busy = True
            response = client.post(path, json=body)
            service.engine.busy = False
            assert response.status_code == 503 and "longer than 1 s" in response.text
            assert int(response.headers["retry-after"]) > 0
            assert service.queue.taken == 0
        eventually(lambda: client.post("/v1/judge", json=BATTLE).status_code == 200)


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


def test_battles_of_every_shape_fill_no_memory(server, monkeypatch):
    monkeypatch.setattr("sft_judge.prompts.prompt.SHAPES", 10)
    prompt: JudgePrompt = server[0].prompt
    for number in range(30):
        rows = [{**turns(1), "prompt": ["p"] * (number + 1), "language": None}]
        assert prompt.encode(rows, ORDERS) and len(prompt._frames) <= 10 + 6 and len(prompt._guards) <= 10 + 6
