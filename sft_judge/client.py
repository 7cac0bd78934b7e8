"""
Client of `sft-judge serve`, sync and async: a list of battles in, a list of judgements out, in the same order.

Long lists are sent in several requests within the server's limits, which the client asks for once. If the queue is
full, the server restarts or the connection is lost, the request is repeated after the time that the server asks for;
judging twice does no harm. Needs httpx, which is installed with vLLM.
"""

import asyncio
import json
import time
from collections.abc import Iterator

LIMITS = {"battles": 32, "body_mb": 8}  # of a request to a server that does not say its own
BATTLES = 32  # maximum number in one request, so that no request takes long


class ServerError(RuntimeError):
    """Report an error response of the server: `status`, `code`, and `param`, the invalid field or None."""

    def __init__(self, status: int, code: str, message: str, param: str | None):
        super().__init__(f"{status} {code}: {message}")
        self.status, self.code, self.param = status, code, param


class JudgeClient:
    """
    Judge battles on a server.

    `with JudgeClient("http://127.0.0.1:8000") as client: client.judge(battles)`

    A battle is `{"prompt", "response_a", "response_b"}`, each a text or a list of turns, with an optional `id`. A
    judgement is a dict: `id`, `a`, `b`, `tie`, `verdict`, `swap_agreement`, `cut`.

    Args:
        url: URL of the server.
        api_key: API key, or None.
        timeout: time limit of a request in seconds.
        tries: maximum number of tries of a request.
    """

    def __init__(self, url: str, api_key: str | None = None, timeout: float = 120, tries: int = 6):
        import httpx

        self._http, self._tries = httpx.Client(**_settings(url, api_key, timeout)), tries
        self._limits: dict | None = None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._http.close()

    def judge(self, battles: list[dict], swap: str | None = None) -> list[dict]:
        """
        Judge battles.

        Args:
            battles: the battles.
            swap: `both` or `none`; by default the judge's own policy.

        Returns:
            The judgements, in the order of the battles. A battle to which the judge gives no finite numbers has `id`
            and `error` alone.

        Raises:
            ServerError: the server refuses a request.
        """
        if self._limits is None:
            self._limits = _limits(self._send("GET", "/health"))
        bodies = _bodies(battles, swap, self._limits)
        return [judged for body in bodies for judged in _judgements(self._send("POST", "/v1/judge", content=body))]

    def _send(self, method: str, path: str, **options):
        import httpx

        for left in reversed(range(self._tries)):
            try:
                answer = self._http.request(method, path, **options)
            except httpx.TransportError:
                if not left:
                    raise
                time.sleep(1)
                continue
            if not left or answer.status_code not in (429, 503):
                return answer
            time.sleep(_wait(answer))


class AsyncJudgeClient:
    """
    Judge battles on a server asynchronously: `async with` and `await client.judge(battles)`.

    Args:
        url: URL of the server.
        api_key: API key, or None.
        timeout: time limit of a request in seconds.
        tries: maximum number of tries of a request.
        at_once: maximum number of concurrent requests of one call.
    """

    def __init__(self, url: str, api_key: str | None = None, timeout: float = 120, tries: int = 6, at_once: int = 8):
        import httpx

        self._http, self._tries, self._at_once = httpx.AsyncClient(**_settings(url, api_key, timeout)), tries, at_once
        self._limits: dict | None = None

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        await self._http.aclose()

    async def judge(self, battles: list[dict], swap: str | None = None) -> list[dict]:
        """
        Judge battles.

        Args:
            battles: the battles.
            swap: `both` or `none`; by default the judge's own policy.

        Returns:
            The judgements, as those of `JudgeClient.judge`.

        Raises:
            ServerError: the server refuses a request.
        """
        room = asyncio.Semaphore(self._at_once)
        if self._limits is None:
            self._limits = _limits(await self._send(room, "GET", "/health"))
        bodies = _bodies(battles, swap, self._limits)
        answers = await asyncio.gather(*(self._send(room, "POST", "/v1/judge", content=body) for body in bodies))
        return [judged for answer in answers for judged in _judgements(answer)]

    async def reward(self, prompt, response: str, label=None) -> float:
        """
        Return the reward of a rollout, for reinforcement learning.

        The server holds the rollout until its group is whole, see `sft-judge serve --group-size`.

        Args:
            prompt: a text or messages.
            response: the policy's response.
            label: `{"reference": TEXT}` to compare with an answer instead of the group; None for the group.

        Raises:
            ServerError: the server refuses the rollout, or no other of the prompt came in time.
        """
        body = json.dumps({"prompt": prompt, "response": response, "label": label}).encode()
        answer = await self._send(asyncio.Semaphore(1), "POST", "/reward", content=body)
        return answer.json() if answer.status_code == 200 else _raise(answer)

    async def _send(self, room: asyncio.Semaphore, method: str, path: str, **options):
        import httpx

        for left in reversed(range(self._tries)):
            async with room:
                try:
                    answer = await self._http.request(method, path, **options)
                except httpx.TransportError:
                    if not left:
                        raise
                    await asyncio.sleep(1)
                    continue
            if not left or answer.status_code not in (429, 503):
                return answer
            await asyncio.sleep(_wait(answer))


def _settings(url: str, api_key: str | None, timeout: float) -> dict:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
    return {"base_url": url, "headers": headers, "timeout": timeout}


def _limits(health) -> dict:
    """Return the limits that the server states in its answer to `GET /health`; LIMITS if it states none."""
    try:
        known = health.json()["limits"]
        return {name: int(known[name]) for name in LIMITS}
    except (ValueError, KeyError, TypeError):  # an older server, or a proxy that answers itself
        return LIMITS


def _bodies(battles: list[dict], swap: str | None, limits: dict) -> Iterator[bytes]:
    """
    Yield the bodies of requests that are within the limits. A battle above them is sent alone, to be refused.

    Args:
        battles: the battles.
        swap: `both`, `none` or None.
        limits: the server's limits.
    """
    most, room = min(BATTLES, limits["battles"]), limits["body_mb"] * 2**20
    head, tail = b'{"battles":[', b"]}" if swap is None else b'],"swap":' + json.dumps(swap).encode() + b"}"
    parts, size = [], 0
    for battle in battles:
        part = json.dumps(battle, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        if parts and (len(parts) == most or len(head) + size + len(part) + 1 + len(tail) > room):
            yield head + b",".join(parts) + tail
            parts, size = [], 0
        parts.append(part)
        size += len(part) + 1
    if parts:
        yield head + b",".join(parts) + tail


def _judgements(answer) -> list[dict]:
    return answer.json()["judgements"] if answer.status_code == 200 else _raise(answer)


def _raise(answer):
    """Raise `ServerError` for an error response."""
    try:
        error = answer.json()["error"]
        raise ServerError(answer.status_code, error["code"], error["message"], error["param"])
    except (ValueError, KeyError, TypeError):  # an error page of a proxy
        raise ServerError(answer.status_code, "not_ours", answer.text[:200], None) from None


def _wait(answer) -> float:
    header = answer.headers.get("Retry-After", "")
    return float(header) if header.isdigit() else 1.0
