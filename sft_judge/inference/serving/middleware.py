"""
Middleware in front of every route: the API key, the queue, the size of a body, and the time until it has arrived.

The whole body is read here, before any route sees the request, so that no route, including vLLM's own, can miss a
limit. All paths need a key except those in OPEN_PATHS.
"""

import asyncio

from sft_judge.inference.serving.auth import Keys
from sft_judge.inference.serving.errors import CODES, HttpError, response

OPEN_PATHS = ("/", "/health", "/openapi.json")
BATCH_PATH = "/v1/judge/batch"


class Guard:
    """
    Check requests before the app sees them (ASGI middleware).

    Args:
        app: the ASGI app.
        keys: the API keys.
        service: the service, for its queue, limits and metrics.
    """

    def __init__(self, app, keys: Keys, service):
        self.app, self.keys = app, keys
        self.queue, self.limits, self.requests = service.queue, service.limits, service.metrics.requests

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return  # websockets are not supported; lifespan is not needed, because the engine outlives the app

        async def counted(message):
            if message["type"] == "http.response.start":
                self.requests.labels(message["status"]).inc()
            await send(message)

        try:
            await self._admit(scope, receive, counted)
        except HttpError as error:
            await response(error)(scope, receive, counted)
        except Gone:
            return

    async def _admit(self, scope, receive, send):
        headers = dict(scope["headers"])
        if scope["path"] not in OPEN_PATHS and not self.keys.admit(headers):
            header = {"WWW-Authenticate": "Bearer"}
            raise HttpError(401, CODES[401], "Send a key of this server: `Authorization: Bearer KEY`.", headers=header)
        if scope["method"] != "POST":
            return await self.app(scope, receive, send)
        with self.queue.places(1):
            body = await self._body(scope["path"], headers, receive)
            await self.app(scope, _replay(body, receive), send)

    async def _body(self, path: str, headers: dict, receive) -> bytes:
        megabytes = self.limits.batch_mb if path == BATCH_PATH else self.limits.body_mb
        too_large = HttpError(
            413, CODES[413], f"The body is larger than {megabytes} MiB.", headers={"Connection": "close"}
        )
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > megabytes * 2**20:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Gone
                    body += message.get("body", b"")
                    if len(body) > megabytes * 2**20:
                        raise too_large
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            late = f"The body was not complete after {self.limits.seconds} s."
            raise HttpError(408, CODES[408], late, headers={"Connection": "close"}) from None


class Gone(Exception):
    """Signal that the client has disconnected."""


def _replay(body: bytes, receive):
    """
    Return a `receive` that gives the body already read, then further messages such as the client's disconnection.
    """
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def again():
        return messages.pop() if messages else await receive()

    return again
