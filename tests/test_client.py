"""The clients, one at a time and at once: they give what the server says, and wait where its queue is full."""

import asyncio
import json

import httpx
import numpy as np
import pytest

from helpers.serving import served, shares
from sft_judge.client import LIMITS, AsyncJudgeClient, JudgeClient, ServerError, _bodies, _limits

pytestmark = pytest.mark.unit
FIELDS = ("prompt", "response_a", "response_b")


@pytest.fixture(scope="module")
def server(judge):
    with served(judge) as (service, client):
        yield service, client


@pytest.fixture
def battles(synthetic_rows):
    return [{name: row[name] for name in ("id", *FIELDS)} for row in synthetic_rows[:20]]


def test_the_clients_give_what_the_server_says(server, battles):
    service, client = server
    rows = battles * 5
    expected = client.post("/v1/judge", json={"battles": battles}).json()["judgements"]

    async def ask():
        async with AsyncJudgeClient(str(client.base_url)) as judge:
            return await judge.judge(rows)

    with JudgeClient(str(client.base_url)) as judge:
        sync = judge.judge(rows)
        assert judge.judge([]) == []
        with pytest.raises(ServerError, match="400 bad_request") as caught:
            judge.judge([{**battles[0], "prompt": 3}])
    assert caught.value.param == "battles.0.prompt"
    for answers in (sync, asyncio.run(ask())):
        assert [judged["id"] for judged in answers] == [row["id"] for row in rows]
        np.testing.assert_allclose(shares(answers), np.tile(shares(expected), (5, 1)), atol=1e-6)


def test_the_clients_wait_where_the_queue_is_full(server, judge, battles):
    """The queue takes one request of twenty; four at once are all answered, as each comes back when told to."""
    with served(judge, server[0].engine, battles=20, queue=21) as (service, client):

        async def ask():
            async with AsyncJudgeClient(str(client.base_url), tries=60) as judge:
                return await asyncio.gather(*(judge.judge(battles) for _ in range(4)))

        answers = asyncio.run(ask())
        assert [[judged["id"] for judged in answer] for answer in answers] == [[row["id"] for row in battles]] * 4
        assert service.metrics.registry.get_sample_value("sft_judge_requests_total", {"status": "429"}) >= 1


def test_a_server_that_is_not_there_is_tried_again_and_then_told():
    with JudgeClient("http://127.0.0.1:9", tries=2) as judge, pytest.raises(httpx.TransportError):
        judge.judge([dict.fromkeys(FIELDS, "x")])


def test_requests_stay_within_the_limits_that_the_server_states(judge):
    rows = [{"id": str(n), "prompt": "p", "response_a": "word " * 40_000, "response_b": "b"} for n in range(7)]
    with served(judge, battles=3, body_mb=1, queue=10) as (service, client):
        with JudgeClient(str(client.base_url)) as mine:
            small = [{**row, "response_a": "a"} for row in rows]
            assert [one["id"] for one in mine.judge(small)] == [row["id"] for row in rows], "7 battles, 3 a request"
            assert len(mine.judge(rows, swap="none")) == 7, "1.4 MB in all, 1 MiB a request"
            with pytest.raises(ServerError, match="413"):
                mine.judge([{**rows[0], "response_a": "w" * 2**20}])

        async def ask():
            async with AsyncJudgeClient(str(client.base_url)) as other:
                return await other.judge(rows)

        assert [one["id"] for one in asyncio.run(ask())] == [row["id"] for row in rows]


@pytest.mark.parametrize("swap", [None, "both"])
def test_bodies_are_the_json_of_the_battles_and_no_larger_than_the_limit(swap):
    rows = [{"id": str(n), "prompt": 'é\n"' * n, "response_a": "中" * (7 * n), "response_b": "b"} for n in range(60)]
    limits = {"battles": 16, "body_mb": 4000 / 2**20}
    bodies = list(_bodies(rows, swap, limits))
    read = [json.loads(body) for body in bodies]
    assert [row for body in read for row in body["battles"]] == rows
    assert all(body.get("swap") == swap for body in read)
    assert all(len(body) <= 4000 and len(one["battles"]) <= 16 for body, one in zip(bodies, read, strict=True))
    assert list(_bodies([], swap, limits)) == []


def test_a_server_that_states_no_limits_gets_the_clients_own():
    class Answer:
        def json(self):
            return {"status": "ok"}

    assert _limits(Answer()) == LIMITS
