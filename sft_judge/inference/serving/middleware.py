"""
What stands before every route: the key, the queue, the size of a body and the time that it takes to come.

A body is read here, whole, before anything behind sees the request, so that no route can forget a limit, vLLM's own
included. All paths are closed but those that are named open.
"""

import asyncio

from sft_judge.inference.serving.auth import Keys
from sft_judge.inference.serving.errors import CODES, HttpError, response

OPEN_PATHS = ("/", "/health", "/openapi.json")
BATCH_PATH = "/v1/judge/batch"


class Guard:
    """ASGI middleware."""

    def __init__(self, app, keys: Keys, service):
        self.app, self.keys = app, keys
        self.queue, self.limits, self.requests = service.queue, service.limits, service.metrics.requests

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return  # no websockets; and no lifespan, as the engine outlives the app

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
            late = f"The body was not whole after {self.limits.seconds} s."
            raise HttpError(408, CODES[408], late, headers={"Connection": "close"}) from None


class Gone(Exception):
    """The client has hung up."""


def _replay(body: bytes, receive):
    """A `receive` that gives the body that was read, then what else comes: the client hanging up."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def again():
        return messages.pop() if messages else await receive()

    return again
