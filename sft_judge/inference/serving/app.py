"""
The server's app: `/v1/judge` and its batch form, `/health`, `/metrics`, the page at `/`, and the OpenAPI document.

Routes in the wire formats of others are added from `decision_routes`.
"""

import json
from dataclasses import asdict
from typing import Any

from sft_judge.inference.serving.auth import Keys
from sft_judge.inference.serving.connections import LINES, body_of, stream, while_connected
from sft_judge.inference.serving.decision_routes import add_decision_routes, add_models_route
from sft_judge.inference.serving.demo_page import content_policy, page
from sft_judge.inference.serving.errors import add_handlers, json_response, path_of, unavailable
from sft_judge.inference.serving.limits import RewardSettings
from sft_judge.inference.serving.middleware import BATCH_PATH, Guard
from sft_judge.inference.serving.reward_routes import add_reward_routes
from sft_judge.inference.serving.schema import EXAMPLES, Answer, Error, inlined
from sft_judge.inference.serving.service import Service

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
    rewards: RewardSettings | None = None,
) -> Guard:
    """
    Build the ASGI app.

    Args:
        service: answers the requests.
        keys: the API keys.
        registries: Prometheus registries whose metrics are shown with ours.
        others: paths and the ASGI app that answers them, or None.
        hosts: host names that a request may address, or None for any.
        rewards: settings of the reward routes; None for the defaults.
    """
    from fastapi import FastAPI, Request
    from fastapi.responses import HTMLResponse, PlainTextResponse, Response

    from sft_judge.core.version import __version__

    app = FastAPI(title="sft_judge", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    add_handlers(app)
    errors = {status: {"model": Error} for status in (400, 401, 408, 413, 415, 429, 503)}
    broken = {503: {"model": Error}}

    @app.post("/v1/judge", openapi_extra=_body(service), response_model=Answer, responses=errors)
    async def judge(request: Request):
        """Return the probabilities that people prefer each answer, for one or several battles."""
        body = await body_of(request, "application/json")
        return json_response(await while_connected(request, service.answer(body)))

    lines = {200: {"content": {LINES: {"schema": {"type": "string"}}}}}
    batch_route = {"openapi_extra": _lines(), "response_class": Response, "responses": {**errors, **lines}}

    @app.post(BATCH_PATH, **batch_route)
    async def batch(request: Request):
        """
        Judge one battle per line (JSONL), and return one line for each, in order: its judgement, or `{"error": ...}`.
        """
        body = await body_of(request, LINES, "application/jsonl")
        return stream(service.answer_lines(body), service.limits.seconds)

    add_decision_routes(app, service)
    add_reward_routes(app, service, rewards or RewardSettings())
    if others is None:  # otherwise vLLM lists the model
        add_models_route(app, service)

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


def _body(service: Service) -> dict:
    one, many = inlined(service.requests.one), inlined(service.requests.many)
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
