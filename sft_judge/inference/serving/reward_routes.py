"""
Rewards for reinforcement learning in the wire formats of others: `POST /reward` (OpenRLHF, slime) and `POST /compare`
(NeMo Gym).

`/reward` gets one rollout or some. It holds each until its group is whole, see `groups`. A label may be a JSON object,
or its text, with `prompt` (the prompt without a chat template) and `reference` (an answer to compare with; the rollout
is then not held).
"""

import asyncio
import json
import re
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, Field, StrictStr, WithJsonSchema
from pydantic_core import PydanticCustomError

from sft_judge.core.files import load_json
from sft_judge.inference.scoring import orders_of
from sft_judge.inference.serving.connections import body_of, while_connected
from sft_judge.inference.serving.decisions import MAX_JUDGEMENTS
from sft_judge.inference.serving.errors import CODES, HttpError
from sft_judge.inference.serving.groups import Groups, as_group, judge_group
from sft_judge.inference.serving.limits import RewardSettings
from sft_judge.inference.serving.schema import Error, inlined, no_constant, read_json, validated
from sft_judge.inference.serving.service import Service
from sft_judge.inference.tournaments import num_battles

# Control tokens that a policy's tokenizer decodes to at the end of a rollout
_END = re.compile(r"(?:\s*(?:<[|｜][^<>|｜]{1,40}[|｜]>|</s>|<eos>|<pad>|<end_of_turn>|<turn\|>))+\s*$")
MAX_MESSAGES, MAX_ROLLOUTS = 400, 1024


class Message(BaseModel):
    """A message of a conversation."""

    role: Literal["user", "assistant", "system", "developer"]
    content: StrictStr

    def as_chat(self) -> dict:
        """Return the message as `make_group` takes it."""
        return {"role": self.role.replace("developer", "system"), "content": self.content}


Messages = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]


class OpenRlhf(BaseModel):
    """Rollouts as OpenRLHF sends them: `query` is the prompt followed by the response, as decoded by the policy."""

    query: Annotated[list[StrictStr], Field(min_length=1, max_length=MAX_ROLLOUTS)]
    prompts: Annotated[list[Annotated[StrictStr, Field(min_length=1)]], Field(min_length=1, max_length=MAX_ROLLOUTS)]
    labels: list[Any] | None = None


class Slime(BaseModel):
    """A rollout as slime sends it."""

    prompt: StrictStr | Messages
    response: StrictStr
    label: Any = None


class ContentPart(BaseModel):
    """A part of a message; only `output_text` is read."""

    type: StrictStr
    text: StrictStr | None = None

    def shown(self) -> str:
        """Return its text if it is output, otherwise an empty text."""
        return self.text or "" if self.type == "output_text" else ""


class OutputItem(BaseModel):
    """An item of a response; only a `message` is read, no reasoning and no tool call."""

    type: StrictStr
    content: StrictStr | list[ContentPart] | None = None


class ResponseObject(BaseModel):
    """A response of OpenAI's Responses API."""

    output: list[OutputItem]

    def text(self) -> str:
        """Return the text of its messages; empty for one that ended within its reasoning."""
        contents = [item.content or [] for item in self.output if item.type == "message"]
        parts = [part for content in contents for part in ([content] if isinstance(content, str) else content)]
        return "".join(part if isinstance(part, str) else part.shown() for part in parts)


def _no_principle(value):
    if value not in (None, ""):
        raise PydanticCustomError(
            "principle", "this judge reads no principle; its question is always which response people prefer"
        )


class Compare(BaseModel):
    """All responses to a conversation, as NeMo Gym sends them."""

    conversation_history: Messages
    response_objs: Annotated[list[ResponseObject], Field(min_length=2)]
    principle: Annotated[None, BeforeValidator(_no_principle), WithJsonSchema({"enum": [None, ""]})] = None


class Rewards(BaseModel):
    """Answer to OpenRLHF."""

    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]]


class Compared(BaseModel):
    """Answer to NeMo Gym."""

    rewards: list[float]
    comparison_results: list[dict] | None
    metrics: dict[str, float] | None


class Rollout(NamedTuple):
    """A rollout: its prompt, its response, and an answer to compare with or None."""

    prompt: Any
    response: str
    reference: Any


def add_reward_routes(app, service: Service, settings: RewardSettings) -> None:
    """
    Add the routes.

    Args:
        app: the FastAPI app.
        service: answers the requests.
        settings: size of a group, how long it is held, and how it is judged.
    """
    from fastapi import Request
    from fastapi.responses import JSONResponse

    async def judge(prompt, responses: list) -> list[float]:
        return await judge_group(service, as_group(prompt, responses), settings.method)

    groups = Groups(judge, settings, service.stopping)
    errors = {status: {"model": Error} for status in (400, 401, 408, 409, 413, 415, 422, 429, 503)}

    async def rewarded(rollout: Rollout) -> tuple[float, int]:
        group = as_group(rollout.prompt, [rollout.response], rollout.reference)
        _check(service, group)
        if rollout.reference is not None:
            return (await judge_group(service, group, settings.method))[0], 1
        return await groups.reward(json.dumps(rollout.prompt), rollout.prompt, rollout.response)

    async def reward_all(rollouts: list[Rollout]) -> list[tuple[float, int]]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(rewarded(rollout)) for rollout in rollouts]
        except ExceptionGroup as failed:
            first = failed.exceptions[0]
        else:
            return [task.result() for task in tasks]
        raise first  # outside of `except`, so that it is in no group

    either = {"anyOf": [inlined(OpenRlhf), inlined(Slime)]}

    @app.post(
        "/reward",
        openapi_extra=_body(either),
        response_model=Rewards | float,
        responses=errors,
    )
    async def reward(request: Request):
        """
        Return the reward of each rollout: its mean outcome against the others of its group, from 0 to 1.

        The answer has OpenRLHF's form for `query`, and is a number for `prompt`, as slime expects it.
        """
        value = read_json(await body_of(request, "application/json"))
        if "query" in value:
            found = await while_connected(request, reward_all(_of_openrlhf(validated(OpenRlhf, value))))
            values, sizes = [one for one, _ in found], [float(size) for _, size in found]
            whole = [float(size >= settings.group_size) for size in sizes]
            logs = {"group_size": sizes, "group_whole": whole}
            return JSONResponse({"rewards": values, "scores": values, "extra_logs": logs})
        one = validated(Slime, value)
        prompt = one.prompt if isinstance(one.prompt, str) else [message.as_chat() for message in one.prompt]
        rollout = _rollout(prompt, one.response, one.label)
        return JSONResponse((await while_connected(request, reward_all([rollout])))[0][0])

    most = most_responses(service, settings.method)
    schema = inlined(Compare)
    schema["properties"]["response_objs"]["maxItems"] = most

    @app.post("/compare", openapi_extra=_body(schema), response_model=Compared, responses=errors)
    async def compare(request: Request):
        """Return the reward of each response to a conversation: its mean outcome against the others, from 0 to 1."""
        given = validated(Compare, read_json(await body_of(request, "application/json")))
        responses = [response.text() for response in given.response_objs]
        if len(responses) > most:
            message = f"response_objs: {len(responses)} responses, expected 2 to {most}."
            raise HttpError(400, CODES[400], message, "response_objs")
        group = as_group([message.as_chat() for message in given.conversation_history], responses)
        _check(service, group)
        values = await while_connected(request, judge_group(service, group, settings.method))
        return JSONResponse({"rewards": values, "comparison_results": None, "metrics": None})


def _body(schema: dict) -> dict:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _check(service: Service, group) -> None:
    """Check each response against the limits before a rollout is held. Raises `HttpError`."""
    for response in group.responses:
        service.requests.row({"prompt": group.prompts, "response_a": response, "response_b": response}, "")


def most_responses(service: Service, method: str) -> int:
    """
    Return the largest number of responses to a prompt that one request may have.

    Args:
        service: the service, for its limits.
        method: round-robin, anchor or knockout.
    """
    most = min(MAX_JUDGEMENTS // len(orders_of(service.spec.swap)), service.limits.queue)
    return max(count for count in range(2, most + 2) if num_battles(method, count) <= most)


def _of_openrlhf(given: OpenRlhf) -> list[Rollout]:
    labels = given.labels or [None] * len(given.query)
    if not len(given.query) == len(given.prompts) == len(labels):
        message = f"{len(given.query)} query, {len(given.prompts)} prompts and {len(labels)} labels, expected as many."
        raise HttpError(400, CODES[400], message, "prompts")
    found = []
    for place, (query, prompt, label) in enumerate(zip(given.query, given.prompts, labels, strict=True)):
        _, at, response = query.partition(prompt)
        if not at:
            raise HttpError(400, CODES[400], f"query.{place} does not contain its prompt.", f"query.{place}")
        found.append(_rollout(prompt, response, label))
    return found


def _rollout(prompt, response: str, label) -> Rollout:
    """Return a rollout, with the prompt and the reference of its label if it has them."""
    facts = label if isinstance(label, dict) else {}
    if isinstance(label, str) and label.lstrip().startswith("{"):
        try:
            facts = load_json(label, parse_constant=no_constant)
        except (ValueError, RecursionError):
            facts = {}  # a label of the user's own that only looks like JSON
    prompt = facts.get("prompt") or prompt
    return Rollout(prompt, _END.sub("", response), facts.get("reference"))
