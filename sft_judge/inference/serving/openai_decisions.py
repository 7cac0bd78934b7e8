"""
`POST /v1/decisions` in OpenAI's wire format (`openai/types/decision_create_params.py` of the client `openai` 3.57).

A question that the judge cannot answer is a refusal with our field `x_reason`; other questions are still answered.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StrictBool, StrictStr

from sft_judge.inference.serving import decisions
from sft_judge.inference.serving.decisions import MAX_CHOICES, MAX_QUESTIONS, Answer, Asked, Question
from sft_judge.inference.serving.schema import EXAMPLE, MAX_MESSAGES, read_json, validated
from sft_judge.inference.serving.service import Judged, Service


class TextPart(BaseModel):
    """A text."""

    type: Literal["input_text", "output_text"]
    text: StrictStr


class JsonPart(BaseModel):
    """A JSON object: the battle, with `prompt`, `response_a` and `response_b`."""

    type: Literal["input_json"]
    data: dict[str, Any]


Part = Annotated[TextPart | JsonPart, Field(discriminator="type")]


class Message(BaseModel):
    """A message of the input."""

    role: Literal["user", "assistant", "system", "developer"]
    content: StrictStr | Annotated[list[Part], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]


class Choice(BaseModel):
    """One of the choices; among responses, `description` is the response."""

    value: StrictStr | StrictBool
    description: StrictStr | None = None


class Choices(BaseModel):
    """A choice over A, B and, for a judge of three verdicts, tie; or among candidate responses."""

    type: Literal["choice"]
    name: StrictStr | None = None
    instructions: Any = Field(None, description="not read by the judge")
    choices: Annotated[
        list[Choice], Field(fail_fast=True, min_length=2, max_length=MAX_CHOICES, description="no value twice")
    ]


class Unanswered(BaseModel):
    """A question that is refused."""

    type: Literal["predicate", "score"]
    name: StrictStr | None = None


class Request(BaseModel):
    """Body of a request. Further fields are ignored."""

    model: StrictStr
    input: StrictStr | Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)] = Field(
        description="a battle as JSON, or with `x_judge` a conversation"
    )
    questions: Annotated[
        list[Annotated[Choices | Unanswered, Field(discriminator="type")]],
        Field(fail_fast=True, min_length=1, max_length=MAX_QUESTIONS),
    ]
    x_judge: Literal["battle", "responses"] | None = Field(
        None, description="`responses`: the descriptions of the choices are candidate responses to the conversation"
    )


class Probability(BaseModel):
    """Probability of a choice."""

    value: str | bool
    probability: float


class Decision(BaseModel):
    """Body of the response."""

    class Answered(BaseModel):
        """An answer. Its fields with the prefix `x_` are ours."""

        type: Literal["choice"]
        name: str | None
        choice: str | bool
        confidence: float
        probabilities: list[Probability]
        x_swap_agreement: float | None = Field(
            description="share of battles in which both orders favour the same verdict; null with one order"
        )
        x_cut: dict = Field(description="number of tokens removed from each text to fit the budget")
        x_turns_left_out: int
        x_mean_outcomes: list[float] | None = Field(
            None, description="mean outcome of each response against the others"
        )

    class Refused(BaseModel):
        """A question without an answer."""

        type: Literal["refusal"]
        name: str | None
        x_reason: str

    model: str
    answers: list[Answered | Refused]
    usage: dict
    x_calibration: dict | None


def examples(service: Service) -> dict:
    """Return examples of requests for the OpenAPI document."""
    over = [{"value": word} for word in decisions.verdict_choices(service)]
    texts = {"first": "Seven.", "second": "Nine, of course.", "third": "I would not know."}
    among = [{"value": name, "description": text} for name, text in texts.items()]
    question = {"type": "choice", "instructions": "Which response do people prefer?"}
    content = [{"type": "input_json", "data": EXAMPLE}]
    battle = {"input": [{"role": "user", "content": content}], "questions": [{**question, "choices": over}]}
    responses = {"x_judge": "responses", "input": "Name a prime.", "questions": [{**question, "choices": among}]}
    return {
        "a battle": {"value": {"model": service.name, **battle}},
        "among responses": {"value": {"model": service.name, **responses}},
    }


def read(service: Service, body: bytes) -> Asked:
    """
    Read a request.

    Args:
        service: the service.
        body: the body.

    Raises:
        HttpError: the body is invalid.
    """
    request = validated(Request, read_json(body))
    responses = decisions.among_responses(service, request.model, request.x_judge)
    questions = [_question(question, f"questions.{place}") for place, question in enumerate(request.questions)]
    source = _conversation(request.input) if responses else _battle(request.input)
    return decisions.plan(service, questions, source, "input", responses)


def _question(question: Choices | Unanswered, where: str) -> Question:
    if isinstance(question, Unanswered):
        return Question(question.name, question.type, [], [], where)
    values = [choice.value for choice in question.choices]
    asked = Question(question.name, "choice", values, [choice.description for choice in question.choices], where)
    if len({(type(value), value) for value in values}) < len(values):
        asked.refusal = "A value occurs twice among the choices."
    return asked


def _battle(given: str | list[Message]) -> dict | str:
    """Return the battle of an input, or the reason why it is none."""
    if isinstance(given, str):
        return decisions.battle_in(given)
    first = given[0].content
    parts = [TextPart(type="input_text", text=first)] if isinstance(first, str) else first
    if len(given) > 1 or given[0].role != "user" or len(parts) > 1:
        return "The input has several messages or parts; expected one message of the user with the battle alone."
    return parts[0].data if isinstance(parts[0], JsonPart) else decisions.battle_in(parts[0].text)


def _conversation(given: str | list[Message]) -> str | list[dict]:
    """Return the input as `make_group` takes it. JSON is rendered as text."""
    if isinstance(given, str):
        return given
    messages = []
    for message in given:
        parts = [message.content] if isinstance(message.content, str) else map(_as_text, message.content)
        messages.append({"role": message.role.replace("developer", "system"), "content": "\n\n".join(parts)})
    return messages


def _as_text(part: TextPart | JsonPart) -> str:
    return part.text if isinstance(part, TextPart) else json.dumps(part.data, ensure_ascii=False)


def answer(service: Service, asked: Asked, judged: list[Judged]) -> dict:
    """
    Return the body of the response.

    Args:
        service: the service.
        asked: the request.
        judged: what the judge says of its battles.
    """
    found = decisions.answers(service, asked, judged)
    tokens = sum(one.tokens for one in judged)
    usage = {
        "input_tokens": tokens,
        "input_tokens_details": {"cached_tokens": sum(one.cached for one in judged), "cache_write_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": tokens,
    }
    told = [_told(question, answer) for question, answer in zip(asked.questions, found, strict=True)]
    return {"model": service.name, "answers": told, "usage": usage, "x_calibration": service.spec.calibration}


def _told(question: Question, answer: Answer | str) -> dict:
    if isinstance(answer, str):
        return {"type": "refusal", "name": question.name, "x_reason": answer}
    pairs = zip(question.values, answer.probabilities, strict=True)
    return {
        "type": "choice",
        "name": question.name,
        "choice": question.values[answer.top],
        "confidence": answer.confidence,
        "probabilities": [{"value": value, "probability": probability} for value, probability in pairs],
        **answer.extensions,
    }
