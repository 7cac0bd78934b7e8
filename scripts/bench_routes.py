"""
Compare the rate of every route of `sft-judge serve` at 64 concurrent clients with that of `predict`'s engine, and the
cost of judging in both orders with that of one order.

The judge has random weights of 14 million parameters, and prompts of a few hundred tokens, so that most of the work is
the model's, as for a real judge; server, clients and engine share the cores. In each round every leg gets battles that
no engine has seen. A battle in `/reward` and `/compare` is one pair of a group of 4 responses.

For the orders' cost, prompts are long. The second order finds the tokens that both have in common in vLLM's prefix
cache, in whole blocks of it (128 tokens on a CPU). The share of tokens that came from there is vLLM's own count.
"""

import asyncio
import json
import os
import re
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from bench_serve import make_judge
from measuring import over_rounds, serving

ROUNDS, BATTLES, CLIENTS, GROUP = 5, 96, 64, 4
BUDGET = (600, 150, 1000)  # tokens of a prompt, of a response, and in all
LONG = 12  # texts that make up a long prompt
QUESTION = {"type": "choice", "instructions": "Which is better?"}


def main() -> None:
    from sft_judge import Judge

    with tempfile.TemporaryDirectory() as folder:
        legs = len(ROUTES) + 3
        judge, rows = make_judge(Path(folder), (ROUNDS * legs + 2) * BATTLES, BUDGET, hidden=512, layers=6)
        flags = ("--dtype", "bfloat16", "--group-size", GROUP)
        with serving(judge, *flags) as (server, url), Judge.load(judge, "vllm", "bfloat16") as api:
            left = iter(rows)
            take = lambda: [next(left) for _ in range(BATTLES)]  # noqa: E731
            api.judge(take())
            asyncio.run(sent(url, judge_in(take(), "both")))
            own, served = engines(os.getpid(), server.pid), engines(server.pid)
            rates = {name: [] for name in ("predict", *ROUTES, "one order", "both orders")}
            hits = []
            for _ in range(ROUNDS):
                with suspended(served):
                    rates["predict"].append(rate(lambda: api.judge(take()), BATTLES))
                with suspended(own):
                    for name, route in ROUTES.items():
                        rates[name].append(asyncio.run(sent(url, route(take()))))
                    rates["one order"].append(asyncio.run(sent(url, judge_in(long_prompts(take()), "none"))))
                    before = cached(url)
                    rates["both orders"].append(asyncio.run(sent(url, judge_in(long_prompts(take()), "both"))))
                    hits.append(np.subtract(cached(url), before))
    rates = {name: np.array(values) for name, values in rates.items()}
    for name, values in rates.items():
        print(f"{name}: {np.round(values, 1).tolist()} battles/s", file=sys.stderr)
    results = [
        over_rounds(f"{name} against predict, 64 clients", ratio(rates[name], rates["predict"]), ROUNDS, ">= 0.8")
        for name in ROUTES
    ]
    queried, hit = np.sum(hits, axis=0)
    shared = hit / queried  # of both orders; the second order's share is twice that
    cost = ratio(rates["one order"], rates["both orders"])
    goal = 1.07 * (2 - 2 * shared)
    print(f"{shared:.1%} of the tokens of both orders came from the cache; goal {goal:.3f}", file=sys.stderr)
    results.append(over_rounds("both orders against one, seconds a battle", cost, ROUNDS, f"<= {goal:.3f}"))
    print(json.dumps(results))


def engines(process: int, other: int | None = None) -> list:
    """
    Return the processes of vLLM's engines that a process started.

    Args:
        process: its number.
        other: number of a process whose engines are left out, or None.
    """
    import psutil

    children = psutil.Process(process).children(recursive=True)
    apart = {child.pid for child in psutil.Process(other).children(recursive=True)} if other else set()
    return [child for child in children if child.name().startswith("VLLM") and child.pid not in apart]


@contextmanager
def suspended(processes: list):
    """Stop processes for a while: an idle engine looks for work all the time, and takes a part of a core."""
    for process in processes:
        process.suspend()
    yield
    for process in processes:
        process.resume()


def ratio(values: np.ndarray, others: np.ndarray):
    """Return a function from rounds to the median ratio of two legs, for `over_rounds`."""
    return lambda rounds: np.median(values[rounds] / others[rounds])


def rate(work, battles: int) -> float:
    """Return battles per second of a call."""
    start = time.perf_counter()
    work()
    return battles / (time.perf_counter() - start)


def judge_in(rows: list[dict], swap: str) -> list[tuple]:
    """Return the path, body and number of battles of each request, in both orders or one (`none`)."""
    return [("/v1/judge", {**row, "swap": swap}, 1) for row in rows]


def long_prompts(rows: list[dict]) -> list[dict]:
    """Return battles of one turn with long prompts that begin differently, and the responses of `rows`."""
    texts = [row["prompt"][0] for row in rows]
    prompts = [" ".join((texts[place:] + texts[:place])[:LONG]) for place in range(len(rows))]
    return [
        {"prompt": prompt, "response_a": row["response_a"][0], "response_b": row["response_b"][0]}
        for prompt, row in zip(prompts, rows, strict=True)
    ]


def judge(rows: list[dict]) -> list[tuple]:
    """Return requests to our own route."""
    return judge_in(rows, "both")


def decisions(rows: list[dict]) -> list[tuple]:
    """Return requests to OpenAI's route."""
    choices = [{"value": value} for value in ("A", "B", "tie")]
    questions = [{**QUESTION, "choices": choices}]
    return [("/v1/decisions", {"model": "judge", "input": json.dumps(row), "questions": questions}, 1) for row in rows]


def systemone(rows: list[dict]) -> list[tuple]:
    """Return requests to TypeSafe's route."""
    questions = {"q": {**QUESTION, "criteria": dict.fromkeys(("A", "B", "tie"))}}
    return [("/v1/systemone", {"state": row, "questions": questions}, 1) for row in rows]


def groups(rows: list[dict]) -> list[tuple[str, list[str]]]:
    """Return groups of GROUP responses to a prompt, with as many pairs in all as there are rows."""
    pairs = GROUP * (GROUP - 1) // 2
    texts = [row[name][0] for row in rows for name in ("response_a", "response_b")]
    return [
        (row["prompt"][0], texts[GROUP * place : GROUP * (place + 1)])
        for place, row in enumerate(rows[: len(rows) // pairs])
    ]


def reward(rows: list[dict]) -> list[tuple]:
    """Return one request for each rollout, in slime's form."""
    share = (GROUP - 1) / 2
    found = groups(rows)
    return [("/reward", {"prompt": prompt, "response": text}, share) for prompt, texts in found for text in texts]


def compare(rows: list[dict]) -> list[tuple]:
    """Return one request for each group, in NeMo Gym's form."""

    def response(text):
        return {"output": [{"type": "message", "content": [{"type": "output_text", "text": text}]}]}

    return [
        (
            "/compare",
            {
                "conversation_history": [{"role": "user", "content": prompt}],
                "response_objs": [response(text) for text in texts],
            },
            GROUP * (GROUP - 1) // 2,
        )
        for prompt, texts in groups(rows)
    ]


ROUTES = {
    "/v1/judge": judge,
    "/v1/decisions": decisions,
    "/v1/systemone": systemone,
    "/reward": reward,
    "/compare": compare,
}


async def sent(url: str, requests: list[tuple]) -> float:
    """
    Send requests, each by the next free client, and return the rate in battles per second.

    Args:
        url: address of the server.
        requests: path, body and number of battles of each.
    """
    import aiohttp

    left = iter(requests)

    async def client(http):
        for path, body, _ in left:
            async with http.post(url + path, json=body) as answer:
                answer.raise_for_status()
                await answer.read()

    connections, limit = aiohttp.TCPConnector(limit=CLIENTS), aiohttp.ClientTimeout(600)
    async with aiohttp.ClientSession(connector=connections, timeout=limit) as http:
        start = time.perf_counter()
        await asyncio.gather(*(client(http) for _ in range(CLIENTS)))
    return sum(count for *_, count in requests) / (time.perf_counter() - start)


def cached(url: str) -> tuple[float, float]:
    """Return the numbers of tokens that vLLM looked for in its prefix cache and found there, since its start."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        text = answer.read().decode()
    names = ("queries", "hits")
    return tuple(float(re.search(rf"^vllm:prefix_cache_{name}_total{{.*}} (\S+)$", text, re.M)[1]) for name in names)


if __name__ == "__main__":
    main()
