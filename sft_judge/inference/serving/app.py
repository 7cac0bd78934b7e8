"""
Routes of the server: `/v1/judge` and its batch form, `/health`, `/metrics`, the page at `/`, and the OpenAPI document.
"""

import asyncio
import json
from dataclasses import asdict
from typing import Any

from sft_judge.inference.serving.auth import Keys
from sft_judge.inference.serving.demo_page import content_policy, page
from sft_judge.inference.serving.errors import CODES, HttpError, add_handlers, unavailable
from sft_judge.inference.serving.middleware import BATCH_PATH, Guard, path_of
from sft_judge.inference.serving.schema import EXAMPLES, Answer, Error
from sft_judge.inference.serving.service import Service

LINES = "application/x-ndjson"
PAGE_HEADERS = {
    "Content-Security-Policy": content_policy(),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def build_app(
    service: Service,
    keys: Keys,
    registries: tuple = (),
    others: tuple[tuple[str, ...], Any] | None = None,
    hosts: frozenset[str] | None = None,
) -> Guard:
    """
    Build the ASGI app.

    Args:
        service: answers the requests.
        keys: the API keys.
        registries: Prometheus registries whose metrics are shown with ours.
        others: paths and the ASGI app that answers them, or None.
        hosts: host names that a request may address, or None for any.
    """
    from fastapi import FastAPI, Request
    from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

    from sft_judge.core.version import __version__

    app = FastAPI(title="sft_judge", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    add_handlers(app)
    errors = {status: {"model": Error} for status in (400, 401, 408, 413, 415, 429, 503)}
    broken = {503: {"model": Error}}

    @app.post("/v1/judge", openapi_extra=_body(service), response_model=Answer, responses=errors)
    async def judge(request: Request):
        """Return the probabilities that people prefer each answer, for one or several battles."""
        body = await _body_of(request, "application/json")
        return JSONResponse(await _while_connected(request, service.answer(body)))

    lines = {200: {"content": {LINES: {"schema": {"type": "string"}}}}}
    batch_route = {"openapi_extra": _lines(), "response_class": Response, "responses": {**errors, **lines}}

    @app.post(BATCH_PATH, **batch_route)
    async def batch(request: Request):
        """
        Judge one battle per line (JSONL), and return one line for each, in order: its judgement, or `{"error": ...}`.
        """
        body = await _body_of(request, LINES, "application/jsonl")
        return _stream(service.answer_lines(body), service.limits.seconds)

    @app.get(
        "/health",
        responses={200: {"content": {"application/json": {"example": {"status": "ok", "model": "judge"}}}}, **broken},
    )
    async def health():
        """Return 200 while the engine is alive."""
        if not service.engine.alive:
            raise unavailable("The judge's engine has stopped.")
        return {"status": "ok", "model": service.name, "limits": asdict(service.limits)}

    plain = {200: {"content": {"text/plain": {}}}, 401: {"model": Error}}

    @app.get("/metrics", response_class=Response, responses=plain)
    async def prometheus():
        """Return vLLM's and the judge's metrics for Prometheus."""
        return PlainTextResponse(service.metrics.text(*registries))

    @app.get("/", include_in_schema=False)
    async def root():
        return HTMLResponse(page(service.name, bool(keys)), headers=PAGE_HEADERS)

    if keys:
        _document_keys(app)
    return Guard(app if others is None else _by_path(app, *others), keys, service, hosts)


def _by_path(app, paths: tuple[str, ...], other):
    """Return an ASGI app that passes requests for some paths to another app."""

    async def passed_on(scope, receive, send):
        await (other if path_of(scope) in paths else app)(scope, receive, send)

    return passed_on


async def _body_of(request, *types: str) -> bytes:
    """Return the request's body if its content type is one of `types`. Raise `HttpError` 415 otherwise."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given not in types:
        raise HttpError(415, CODES[415], f"The content type is {given[:100]!r}, expected {types[0]}.")
    return await request.body()


async def _while_connected(request, work):
    """Return the result of `work`; cancel it if the client disconnects."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise HttpError(408, CODES[408], "The client has disconnected.")  # not read by anybody, but counted
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _hung_up(request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _stream(lines, seconds: int):
    """Stream lines as the response. It ends if the client disconnects, or accepts no data for so many seconds."""
    from fastapi.responses import StreamingResponse

    class Lines(StreamingResponse):
        async def stream_response(self, send):
            async def patient(message):
                async with asyncio.timeout(seconds):
                    await send(message)

            await super().stream_response(patient)

        async def __call__(self, scope, receive, send):
            try:
                await super().__call__(scope, receive, send)
            except* TimeoutError:
                pass
            finally:
                await lines.aclose()

    return Lines(lines, media_type=LINES)


def _body(service: Service) -> dict:
    one, many = service.requests.one.model_json_schema(), service.requests.many.model_json_schema()
    nested = many.pop("$defs")["Battle"]
    many["properties"]["battles"]["items"] = nested
    content = {"application/json": {"schema": {"anyOf": [one, many]}, "examples": EXAMPLES}}
    return {"requestBody": {"required": True, "content": content}}


def _lines() -> dict:
    line = json.dumps(EXAMPLES["one battle"]["value"])
    schema = {"description": "one battle a line, as /v1/judge takes it"}
    content = {LINES: {"schema": schema, "example": f"{line}\n{line}\n"}}
    return {"requestBody": {"required": True, "content": content}}


def _document_keys(app) -> None:
    """Mark the routes that need a key in the OpenAPI document."""
    document = app.openapi()
    document.setdefault("components", {})["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, methods in document["paths"].items():
        if path != "/health":
            for operation in methods.values():
                operation["security"] = [{"key": []}]
