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
from sft_judge.data.candidates import Group
from sft_judge.inference.serving.connections import body_of, while_connected
from sft_judge.inference.serving.decisions import most_battles
from sft_judge.inference.serving.errors import CODES, HttpError, json_response
from sft_judge.inference.serving.groups import Groups, judge_group
from sft_judge.inference.serving.limits import RewardSettings
from sft_judge.inference.serving.schema import (
    MAX_MESSAGES,
    Error,
    as_group,
    inlined,
    no_constant,
    read_json,
    validated,
)
from sft_judge.inference.serving.service import Service
from sft_judge.inference.tournaments import num_battles

# A control token that a policy's tokenizer decodes to at the end of a rollout, and several at the start of a query
_END = re.compile(r"(?:<[|｜][^<>|｜]{1,40}[|｜]>|</s>|<eos>|<pad>|<end_of_turn>|<turn\|>)\Z")
_LONGEST_END = 50
_START = re.compile(r"\s*(?:<[|｜][^<>|｜]{1,40}[|｜]>|<s>|<bos>)")
MAX_ROLLOUTS, MAX_ITEMS = 1024, 400


class Message(BaseModel):
    """A message of a conversation."""

    role: Literal["user", "assistant", "system", "developer"]
    content: StrictStr

    def as_chat(self) -> dict:
        """Return the message as `make_group` takes it."""
        return {"role": self.role.replace("developer", "system"), "content": self.content}


Messages = Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]


class OpenRlhf(BaseModel):
    """Rollouts as OpenRLHF sends them: `query` is the prompt followed by the response, as decoded by the policy."""

    query: Annotated[list[StrictStr], Field(fail_fast=True, min_length=1, max_length=MAX_ROLLOUTS)]
    prompts: Annotated[list[Annotated[StrictStr, Field(min_length=1)]], Field(min_length=1, max_length=MAX_ROLLOUTS)]
    labels: Annotated[list[Any], Field(max_length=MAX_ROLLOUTS)] | None = None


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
    content: StrictStr | Annotated[list[ContentPart], Field(fail_fast=True, max_length=MAX_ITEMS)] | None = None


class ResponseObject(BaseModel):
    """A response of OpenAI's Responses API."""

    output: Annotated[list[OutputItem], Field(fail_fast=True, max_length=MAX_ITEMS)]

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
    response_objs: Annotated[list[ResponseObject], Field(fail_fast=True, min_length=2)]
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
    """A rollout: its prompt, its response, and a group of it and its reference, or None if it has none."""

    prompt: Any
    response: str
    compared: Group | None


def add_reward_routes(app, service: Service, settings: RewardSettings) -> None:
    """
    Add the routes.

    Args:
        app: the FastAPI app.
        service: answers the requests.
        settings: size of a group, how long it is held, and how it is judged.
    """
    from fastapi import Request

    async def judge(prompt, responses: list) -> list[float]:
        return await judge_group(service, as_group(prompt, responses), settings.method, held=True)

    groups = Groups(judge, settings, service.stopping)
    errors = {status: {"model": Error} for status in (400, 401, 408, 409, 413, 415, 422, 429, 503)}

    async def rewarded(rollout: Rollout) -> tuple[float, int]:
        if rollout.compared is not None:
            return (await judge_group(service, rollout.compared, settings.method, held=True))[0], settings.group_size
        return await groups.reward(json.dumps(rollout.prompt), rollout.prompt, rollout.response)

    async def reward_all(rollouts: list[Rollout]) -> list[tuple[float, int]]:
        with service.queue.places(len(rollouts) - 1):
            found = await asyncio.gather(*map(rewarded, rollouts), return_exceptions=True)
        for place, one in enumerate(found):
            if len(found) > 1 and isinstance(one, HttpError) and one.status == 409:
                found[place] = (0.5, 1)  # alone; the others keep their rewards
        failed = next((one for one in found if isinstance(one, BaseException)), None)
        if failed is not None:
            raise failed
        return found

    either = {"anyOf": [inlined(OpenRlhf), inlined(Slime)]}

    @app.post("/reward", openapi_extra=_body(either), response_model=Rewards | float, responses=errors)
    async def reward(request: Request):
        """
        Return the reward of each rollout: its mean outcome against the others of its group, from 0 to 1.

        The answer has OpenRLHF's form for `query`, and is a number for `prompt`, as slime expects it.
        """
        body = await body_of(request, "application/json")
        rollouts, many = await service.in_reader(lambda: read_rollouts(service, body))
        found = await while_connected(request, reward_all(rollouts))
        if not many:
            return json_response(found[0][0])
        values, sizes = [one for one, _ in found], [float(size) for _, size in found]
        whole = [float(size >= settings.group_size) for size in sizes]
        logs = {"group_size": sizes, "group_whole": whole}
        return json_response({"rewards": values, "scores": values, "extra_logs": logs})

    most = most_responses(service, settings.method)
    schema = inlined(Compare)
    schema["properties"]["response_objs"]["maxItems"] = most

    @app.post("/compare", openapi_extra=_body(schema), response_model=Compared, responses=errors)
    async def compare(request: Request):
        """Return the reward of each response to a conversation: its mean outcome against the others, from 0 to 1."""
        body = await body_of(request, "application/json")
        group = await service.in_reader(lambda: read_comparison(service, body, most))
        values = await while_connected(request, judge_group(service, group, settings.method, held=False))
        return json_response({"rewards": values, "comparison_results": None, "metrics": None})


def _body(schema: dict) -> dict:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def most_responses(service: Service, method: str) -> int:
    """
    Return the largest number of responses to a prompt that one request may have.

    Args:
        service: the service, for its limits.
        method: round-robin, anchor or knockout.
    """
    most = most_battles(service)
    return max(count for count in range(2, most + 2) if num_battles(method, count) <= most)


def read_comparison(service: Service, body: bytes, most: int) -> Group:
    """
    Read a request to `/compare`.

    Args:
        service: the service, for its limits.
        body: the body.
        most: maximum number of responses.

    Raises:
        HttpError: the body is invalid.
    """
    value = read_json(body)
    count = len(value["response_objs"]) if isinstance(value.get("response_objs"), list) else 0
    if count > most:
        raise HttpError(400, CODES[400], f"response_objs: {count}, expected 2 to {most}.", "response_objs")
    given = validated(Compare, value)
    history = [message.as_chat() for message in given.conversation_history]
    group = as_group(history, [response.text() for response in given.response_objs], where="conversation_history")
    service.requests.check_group(group, "")
    return group


def read_rollouts(service: Service, body: bytes) -> tuple[list[Rollout], bool]:
    """
    Read a request to `/reward`.

    Args:
        service: the service, for its limits.
        body: the body.

    Returns:
        The rollouts, and True if they came in OpenRLHF's form.

    Raises:
        HttpError: the body is invalid.
    """
    value = read_json(body)
    if "query" in value:
        return _of_openrlhf(service, validated(OpenRlhf, value)), True
    given = validated(Slime, value)
    prompt = given.prompt if isinstance(given.prompt, str) else [message.as_chat() for message in given.prompt]
    return [_rollout(service, prompt, given.response, given.label)], False


def _of_openrlhf(service: Service, given: OpenRlhf) -> list[Rollout]:
    labels = given.labels or [None] * len(given.query)
    if not len(given.query) == len(given.prompts) == len(labels):
        message = f"{len(given.query)} query, {len(given.prompts)} prompts and {len(labels)} labels, expected as many."
        raise HttpError(400, CODES[400], message, "prompts")
    found = []
    for place, (query, prompt, label) in enumerate(zip(given.query, given.prompts, labels, strict=True)):
        response = after_prompt(query, prompt)
        if response is None:
            raise HttpError(400, CODES[400], f"query.{place} does not begin with its prompt.", f"query.{place}")
        found.append(_rollout(service, prompt, response, label))
    return found


def after_prompt(query: str, prompt: str) -> str | None:
    """
    Return the text after the prompt, or None if the query does not begin with it.

    Args:
        query: prompt and response, decoded by the policy's tokenizer, which may have added control tokens before it.
        prompt: the prompt.
    """
    start = 0
    while not query.startswith(prompt, start):
        found = _START.match(query, start)
        if found is None:
            return None
        start = found.end()
    return query[start + len(prompt) :]


def without_end(response: str) -> str:
    """Return a response without control tokens, and white space among them, at its end."""
    kept = end = len(response)
    while True:
        while end and response[end - 1].isspace():
            end -= 1
        found = _END.search(response, max(0, end - _LONGEST_END), end)
        if found is None:
            return response[:kept]
        kept = end = found.start()


def _rollout(service: Service, prompt, response: str, label) -> Rollout:
    """Return a rollout, with the prompt and the reference of its label if it has them. Raises `HttpError`."""
    facts = label if isinstance(label, dict) else {}
    if isinstance(label, str) and label.lstrip().startswith("{"):
        try:
            facts = load_json(label, parse_constant=no_constant)
        except (ValueError, RecursionError):
            facts = {}  # a label of the user's own that only looks like JSON
    prompt, reference = facts.get("prompt") or prompt, facts.get("reference")
    rollout = without_end(response)
    group = as_group(prompt, [rollout], reference, "prompt")
    service.requests.check_group(group, "")
    return Rollout(prompt, rollout, None if reference is None else group)
