"""
`POST /v1/systemone` in the wire format of TypeSafe and vLLM (`vllm/entrypoints/generate/structured_decisions/`), as
the public suite `jevcompat` 0.1.1 states it.

The format knows no refusal: a question that the judge cannot answer makes the request invalid, with status 422.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StrictStr

from sft_judge.inference.serving import decisions
from sft_judge.inference.serving.decisions import (
    MAX_CANDIDATES,
    MAX_CHOICES,
    MAX_JUDGEMENTS,
    MAX_QUESTIONS,
    RESPONSES,
    Asked,
    Question,
)
from sft_judge.inference.serving.errors import CODES, HttpError
from sft_judge.inference.serving.schema import EXAMPLE, read_json, validated
from sft_judge.inference.serving.service import Judged, Service

ALIASES = ("jev-latest",)  # what the clients send by default


class SystemOneQuestion(BaseModel):
    """A question; `criteria` maps each choice to its description or null."""

    type: StrictStr
    instructions: Any = Field(None, description="not read by the judge")
    criteria: Any = None


class SystemOneRequest(BaseModel):
    """Body of a request. Further fields are ignored."""

    model: StrictStr | None = None
    state: Any = Field(description="a battle, or with `x_judge` a conversation")
    questions: Annotated[
        dict[Annotated[str, Field(min_length=1)], SystemOneQuestion],
        Field(min_length=1, max_length=MAX_QUESTIONS),
    ]
    x_judge: Literal["battle", "responses"] | None = None


class SystemOneAnswers(BaseModel):
    """Body of the response. Fields with the prefix `x_` are ours."""

    class Answered(BaseModel):
        """The answer to a choice."""

        type: Literal["choice"]
        choice: str
        probabilities: dict[str, float]
        confidence: float
        x_swap_agreement: float | None
        x_cut: dict
        x_turns_left_out: int
        x_mean_outcomes: list[float] | None = None

    class Usage(BaseModel):
        """Tokens of the prompts in all orders."""

        input_tokens: int
        output_tokens: int

    model: str
    answers: dict[str, Answered]
    usage: Usage
    x_calibration: dict | None


def examples(service: Service) -> dict:
    """Return examples of requests for the OpenAPI document."""
    question = {"type": "choice", "instructions": "Which response do people prefer?"}
    over = dict.fromkeys(decisions.verdict_choices(service))
    among = {"first": "Seven.", "second": "Nine, of course.", "third": "I would not know."}
    responses = {"best": {"type": "choice", "criteria": among}}
    return {
        "a battle": {"value": {"state": EXAMPLE, "questions": {"better": {**question, "criteria": over}}}},
        "among responses": {"value": {"x_judge": "responses", "state": "Name a prime.", "questions": responses}},
    }


def request_schema(service: Service) -> dict:
    """
    Return the JSON schema of requests that are answered, without the battle as a JSON text.

    Args:
        service: the service.
    """
    battle = service.requests.battle.model_json_schema()
    words = decisions.verdict_choices(service)
    over = {
        "type": "object",
        "properties": dict.fromkeys(words, {}),
        "required": list(words),
        "additionalProperties": False,
    }
    among = {
        "type": "object",
        "additionalProperties": {"type": "string", "maxLength": service.limits.characters},
        "minProperties": 2,
        "maxProperties": MAX_CANDIDATES,
    }
    text = {"type": "string", "maxLength": service.limits.characters}
    names, alias = [service.name, *ALIASES, None], [service.name + RESPONSES]
    forms = [
        _body(battle, over, names, ["battle", None]),
        _body(text, among, names, ["responses"], "x_judge"),
        _body(text, among, alias, ["responses", None], "model"),
    ]
    return {"anyOf": forms, "description": f"at most {MAX_JUDGEMENTS} judgements"}


def _body(state: dict, criteria: dict, models: list, kinds: list, *required: str) -> dict:
    question = {
        "type": "object",
        "required": ["type", "criteria"],
        "properties": {"type": {"const": "choice"}, "criteria": criteria, "instructions": {}},
    }
    questions = {
        "type": "object",
        "additionalProperties": question,
        "propertyNames": {"minLength": 1},
        "minProperties": 1,
        "maxProperties": MAX_QUESTIONS,
    }
    properties = {"state": state, "questions": questions, "model": {"enum": models}, "x_judge": {"enum": kinds}}
    return {"type": "object", "required": ["state", "questions", *required], "properties": properties}


def read(service: Service, body: bytes) -> Asked:
    """
    Read a request.

    Args:
        service: the service.
        body: the body.

    Raises:
        HttpError: the body is invalid, or the judge cannot answer a question.
    """
    value = read_json(body)
    if isinstance(value.get("questions"), dict) and len(value["questions"]) > MAX_QUESTIONS:
        message = f"questions: {len(value['questions'])}, expected at most {MAX_QUESTIONS}."
        raise HttpError(400, CODES[400], message, "questions")
    request = validated(SystemOneRequest, value)
    responses = decisions.among_responses(service, request.model, request.x_judge, ALIASES)
    questions = [_question(name, question) for name, question in request.questions.items()]
    source = _conversation(request.state) if responses else _battle(request.state)
    asked = decisions.plan(service, questions, source, "state", responses)
    refused = next((question for question in questions if question.refusal), None)
    if refused:
        raise HttpError(400, "cannot_answer", refused.refusal, refused.where)
    return asked


def _question(name: str, question: SystemOneQuestion) -> Question:
    where = f"questions.{name[:100]}"
    if question.type != "choice":
        return Question(name, question.type, [], [], where)
    criteria = question.criteria
    if not isinstance(criteria, dict) or not 2 <= len(criteria) <= MAX_CHOICES:
        message = f"{where}.criteria: expected an object of 2 to {MAX_CHOICES} choices."
        raise HttpError(400, CODES[400], message, f"{where}.criteria")
    return Question(name, "choice", list(criteria), list(criteria.values()), where)


def _battle(state) -> dict | str:
    if isinstance(state, dict):
        return state
    return decisions.battle_in(state) if isinstance(state, str) else "The state is no battle; expected an object."


def _conversation(state):
    """Return the state as `make_group` takes it: a text, or messages."""
    if isinstance(state, str) or (isinstance(state, list) and state and all(isinstance(one, dict) for one in state)):
        return state
    raise HttpError(400, CODES[400], "state: expected a text or a list of messages with role and content.", "state")


def answer(service: Service, asked: Asked, judged: list[Judged]) -> dict:
    """
    Return the body of the response.

    Args:
        service: the service.
        asked: the request.
        judged: what the judge says of its battles.

    Raises:
        HttpError: 422, the judge gives no finite numbers for a battle.
    """
    told = {}
    for question, found in zip(asked.questions, decisions.answers(service, asked, judged), strict=True):
        if isinstance(found, str):
            raise HttpError(422, CODES[422], found, question.where)
        told[question.name] = {
            "type": "choice",
            "choice": question.values[found.top],
            "probabilities": dict(zip(question.values, found.probabilities, strict=True)),
            "confidence": found.confidence,
            **found.extensions,
        }
    usage = {"input_tokens": sum(one.tokens for one in judged), "output_tokens": 0}
    return {"model": service.name, "answers": told, "usage": usage, "x_calibration": service.spec.calibration}
