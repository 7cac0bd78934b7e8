"""
Routes in the wire formats of decision models: `POST /v1/decisions` (OpenAI), `POST /v1/systemone` (TypeSafe, vLLM),
and `GET /v1/models` in both.
"""

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, Field

from sft_judge.inference.serving import openai_decisions, systemone
from sft_judge.inference.serving.connections import body_of, while_connected
from sft_judge.inference.serving.decisions import RESPONSES
from sft_judge.inference.serving.errors import DECISIONS, SYSTEMONE, json_response
from sft_judge.inference.serving.schema import Error, inlined
from sft_judge.inference.serving.service import Service


class OpenAIError(BaseModel):
    """Body of an error in OpenAI's form."""

    class Detail(BaseModel):
        """The error; `param` is the invalid field."""

        code: str
        message: str
        param: str | None
        type: str

    error: Detail


class SystemOneInvalid(BaseModel):
    """Body of status 422: the request is invalid, or the judge cannot answer a question."""

    class Detail(BaseModel):
        """The error at a place of the body."""

        loc: list[str]
        msg: str
        type: str

    detail: list[Detail] = Field(min_length=1)


class SystemOneError(BaseModel):
    """Body of any other error."""

    class Detail(BaseModel):
        """The error."""

        error_type: str
        message: str

    detail: Detail


def add_decision_routes(app, service: Service) -> None:
    """
    Add the two routes.

    Args:
        app: the FastAPI app.
        service: answers the requests.
    """
    from fastapi import Request

    def add(path: str, form, schema: dict, answer: type, failures: dict, about: str):
        examples = {"application/json": {"schema": schema, "examples": form.examples(service)}}
        options = {"openapi_extra": {"requestBody": {"required": True, "content": examples}}}

        @app.post(
            path, name=path.rpartition("/")[2], description=about, response_model=answer, responses=failures, **options
        )
        async def decide(request: Request):
            body = await body_of(request, "application/json")
            work = service.judge(lambda: form.read(service, body))
            return json_response(form.answer(service, *await while_connected(request, work)))

    errors = {status: {"model": OpenAIError} for status in (400, 401, 404, 408, 413, 415, 429, 503)}
    about = "Answer choices over A, B and tie, or among responses, in OpenAI's form."
    add(DECISIONS, openai_decisions, inlined(openai_decisions.Request), openai_decisions.Decision, errors, about)
    errors = {status: {"model": SystemOneError} for status in (401, 404, 408, 413, 415, 429, 503)}
    about = "Answer choices over A, B and tie, or among responses, in TypeSafe's form."
    errors |= {422: {"model": SystemOneInvalid}}
    add(SYSTEMONE, systemone, systemone.request_schema(service), systemone.SystemOneAnswers, errors, about)


def add_models_route(app, service: Service) -> None:
    """
    Add `GET /v1/models`, in OpenAI's form (`data`) and in TypeSafe's (`models`).

    Args:
        app: the FastAPI app.
        service: the service, for the judge's name.
    """
    started = datetime.now(UTC)
    about = {
        service.name: "answers choices over A, B and tie",
        service.name + RESPONSES: "answers choices among candidate responses",
    }

    @app.get("/v1/models", responses={401: {"model": Error}})
    async def models() -> dict[str, Any]:
        """List the judge, in OpenAI's form and in TypeSafe's."""
        facts = {"object": "model", "created": int(started.timestamp()), "owned_by": "sft_judge"}
        dated = {"release_date": started.date().isoformat()}
        return {
            "object": "list",
            "data": [{"id": name, **facts} for name in about],
            "models": [{"name": name, "description": text, **dated} for name, text in about.items()],
        }
