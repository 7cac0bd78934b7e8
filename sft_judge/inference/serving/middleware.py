"""
Middleware in front of every route: the host, the API key, the queue, the size of a body, and the time until it came.

The whole body is read here, before any route sees the request, so that no route, including vLLM's own, can miss a
limit. All paths need a key except those in OPEN_PATHS.
"""

import asyncio

from sft_judge.inference.serving.auth import Keys
from sft_judge.inference.serving.errors import CODES, HttpError, path_of, response, unavailable

OPEN_PATHS = ("/", "/health", "/openapi.json")
BATCH_PATH = "/v1/judge/batch"


class Guard:
    """
    Check requests before the app sees them (ASGI middleware).

    Args:
        app: the ASGI app.
        keys: the API keys.
        service: the service, for its queue, limits and metrics.
        hosts: host names that a request may address, or None for any.
    """

    def __init__(self, app, keys: Keys, service, hosts: frozenset[str] | None = None):
        self.app, self.keys, self.hosts = app, keys, hosts
        self.queue, self.limits, self.requests = service.queue, service.limits, service.metrics.requests
        self.stopping = service.stopping

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return  # lifespan is not needed, because the engine outlives the app

        async def counted(message):
            if message["type"] == "http.response.start":
                self.requests.labels(message["status"]).inc()
            await send(message)

        try:
            await self._admit(scope, receive, counted)
        except HttpError as error:
            await response(error, path_of(scope))(scope, receive, counted)
        except Gone:
            return

    async def _admit(self, scope, receive, send):
        headers, path = dict(scope["headers"]), path_of(scope)
        self._check_host(headers)
        if path not in OPEN_PATHS and not self.keys.admit(headers):
            header = {"WWW-Authenticate": "Bearer"}
            raise HttpError(401, CODES[401], "Send a key of this server: `Authorization: Bearer KEY`.", headers=header)
        if scope["method"] == "HEAD":  # as GET; the server sends no body
            scope = {**scope, "method": "GET"}
        if scope["method"] != "POST":
            return await self.app(scope, receive, send)
        encoding = headers.get(b"content-encoding", b"identity").strip().lower()
        if encoding not in (b"", b"identity"):
            raise HttpError(415, CODES[415], f"The body is encoded as {encoding[:40]!r}; send it as it is.")
        with self.queue.places(1), self.queue.bytes_of_body() as count:
            body = await self._body(path, headers, receive, count)
            await self.app(scope, _replay(body, receive), send)

    def _check_host(self, headers: dict[bytes, bytes]) -> None:
        """
        Check the Host header of a server without keys, which a web page could otherwise reach under a name of its own
        (DNS rebinding, https://owasp.org/www-community/attacks/DNS_Rebinding).
        """
        if self.hosts is None:
            return
        name = host_name(headers.get(b"host", b"").decode("latin-1"))
        if name not in self.hosts:
            message = f"This server is not known as {name[:100]!r}; `--allowed-hosts` names other hosts."
            raise HttpError(400, CODES[400], message)

    async def _body(self, path: str, headers: dict, receive, count) -> bytes:
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
                    message = await self._next(receive)
                    part = message.get("body", b"")
                    count(len(part))
                    body += part
                    if len(body) > megabytes * 2**20:
                        raise too_large
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            late = f"The body was not complete after {self.limits.seconds} s."
            raise HttpError(408, CODES[408], late, headers={"Connection": "close"}) from None

    async def _next(self, receive) -> dict:
        """Return the next message of a request. Raise `HttpError` 503 if the server stops before it comes."""
        message = asyncio.ensure_future(receive())
        stopped = asyncio.ensure_future(self.stopping.wait())
        try:
            await asyncio.wait((message, stopped), return_when=asyncio.FIRST_COMPLETED)
            if not message.done():
                raise unavailable("The server stops.")
            if message.result()["type"] == "http.disconnect":
                raise Gone
            return message.result()
        finally:
            message.cancel()
            stopped.cancel()


class Gone(Exception):
    """Signal that the client has disconnected."""


def host_name(header: str) -> str:
    """Return the host of a Host header in lower case, without port and brackets."""
    name = header.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0]


def _replay(body: bytes, receive):
    """
    Return a `receive` that gives the body already read, then further messages such as the client's disconnection.
    """
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def again():
        return messages.pop() if messages else await receive()

    return again
