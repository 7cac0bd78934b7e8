"""
Client of `sft-judge serve`, sync and async: a list of battles in, a list of judgements out, in the same order.

Long lists are sent in several requests. If the queue is full, the server restarts or the connection is lost, the
request is repeated after the time that the server asks for; judging twice does no harm. Needs httpx, which is
installed with vLLM.
"""

import asyncio
import time

BATTLES = 32  # maximum number in one request


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
            The judgements, in the order of the battles.

        Raises:
            ServerError: the server refuses a request.
        """
        return [judged for body in _bodies(battles, swap) for judged in self._post(body)]

    def _post(self, body: dict) -> list[dict]:
        import httpx

        for left in reversed(range(self._tries)):
            try:
                answer = self._http.post("/v1/judge", json=body)
            except httpx.TransportError:
                if not left:
                    raise
                time.sleep(1)
                continue
            if not left or answer.status_code not in (429, 503):
                return _judgements(answer)
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
            The judgements, in the order of the battles.

        Raises:
            ServerError: the server refuses a request.
        """
        room = asyncio.Semaphore(self._at_once)
        answers = await asyncio.gather(*(self._post(body, room) for body in _bodies(battles, swap)))
        return [judged for answer in answers for judged in answer]

    async def _post(self, body: dict, room: asyncio.Semaphore) -> list[dict]:
        import httpx

        for left in reversed(range(self._tries)):
            async with room:
                try:
                    answer = await self._http.post("/v1/judge", json=body)
                except httpx.TransportError:
                    if not left:
                        raise
                    await asyncio.sleep(1)
                    continue
            if not left or answer.status_code not in (429, 503):
                return _judgements(answer)
            await asyncio.sleep(_wait(answer))


def _settings(url: str, api_key: str | None, timeout: float) -> dict:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    return {"base_url": url, "headers": headers, "timeout": timeout}


def _bodies(battles: list[dict], swap: str | None) -> list[dict]:
    order = {"swap": swap} if swap else {}
    return [{"battles": battles[start : start + BATTLES], **order} for start in range(0, len(battles), BATTLES)]


def _judgements(answer) -> list[dict]:
    if answer.status_code == 200:
        return answer.json()["judgements"]
    try:
        error = answer.json()["error"]
        raise ServerError(answer.status_code, error["code"], error["message"], error["param"])
    except (ValueError, KeyError, TypeError):  # an error page of a proxy
        raise ServerError(answer.status_code, "not_ours", answer.text[:200], None) from None


def _wait(answer) -> float:
    header = answer.headers.get("Retry-After", "")
    return float(header) if header.isdigit() else 1.0
