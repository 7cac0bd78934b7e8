"""
Request and response of `POST /v1/judge` as pydantic models, which check a body and produce the OpenAPI document.

The request models hold the server's limits, so they are created for given limits. A battle may have the columns of a
battles file that a judge does not use; any other unknown key is an error.
"""

import json
from collections import Counter
from typing import Annotated, Literal, NamedTuple

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from sft_judge.core.files import load_json
from sft_judge.data.battles import FIELDS, OPTIONAL, REQUIRED
from sft_judge.data.candidates import Group, make_group
from sft_judge.data.importing.conversation import RowError, clean_text
from sft_judge.inference.serving.errors import CODES, HttpError
from sft_judge.inference.serving.limits import Limits

EXAMPLE = {"prompt": "Name a prime.", "response_a": "Seven.", "response_b": "Nine, of course."}
EXAMPLES = {
    "one battle": {"value": EXAMPLE},
    "several, in one order": {
        "value": {
            "battles": [
                {"id": "first", **EXAMPLE},
                {
                    "id": "second",
                    "prompt": ["Hi", "Name a prime."],
                    "response_a": ["Hi!", "7"],
                    "response_b": ["", "9"],
                },
            ],
            "swap": "none",
        }
    },
}
_SEEN = {"id", "prompt", "response_a", "response_b", "language"}
_NOT_SEEN = (set(REQUIRED) | set(OPTIONAL)) - _SEEN


class Cut(BaseModel):
    """Number of tokens removed from each text to fit the budget."""

    prompt: int
    response_a: int
    response_b: int


class BattleJudgement(BaseModel):
    """Calibrated probabilities, which sum to one; `tie` is 0 for a judge with two verdicts."""

    id: str | None = Field(description="as in the request")
    a: float
    b: float
    tie: float
    verdict: Literal["a", "b", "tie"] = Field(
        description="the most likely verdict; also tie if a and b are exactly equally likely"
    )
    swap_agreement: bool | None = Field(description="true if both orders favour the same verdict; null with one order")
    cut: Cut
    turns_left_out: int = Field(description="number of earliest turns that the budget has no room for")


class Answer(BaseModel):
    """The judgements, in the order of the battles."""

    model: str
    calibration: dict | None = Field(description="temperatures and the data they were fitted on; null if uncalibrated")
    judgements: list[BattleJudgement]


class Error(BaseModel):
    """Body of every response that is not 200."""

    class Detail(BaseModel):
        """The error; `param` is the invalid field, such as `battles.3.prompt`."""

        code: str
        message: str
        param: str | None

    error: Detail


MAX_MESSAGES = 400  # of a conversation, in the wire formats of others


class Battles(NamedTuple):
    """The battles of a request as rows for `JudgePrompt`, and the orders to show, None for the judge's own policy."""

    rows: list[dict]
    swap: str | None = None


class Requests:
    """Create the models of a request for the given limits."""

    def __init__(self, limits: Limits):
        text = {"type": "string", "maxLength": limits.characters}
        turns = {"type": "array", "items": text, "minItems": 1, "maxItems": limits.turns}
        turn = Annotated[str, Field(strict=True, max_length=limits.characters)]
        text_or_turns = Annotated[
            Annotated[list[turn], Field(min_length=1, max_length=limits.turns)],
            BeforeValidator(_as_turns),
            WithJsonSchema({"anyOf": [text, turns], "description": "one text, or the turns of a conversation"}),
        ]
        short = Annotated[str, Field(strict=True, max_length=200)]
        swap = (
            Literal["both", "none"] | None,
            Field(None, description="the orders to show; by default the judge's own policy"),
        )
        self.battle = create_model(
            "Battle",
            __config__=ConfigDict(extra="forbid", json_schema_extra={"anyOf": _equal_turns(limits.turns)}),
            __doc__="A prompt and two responses, with the same number of turns.",
            __validators__={"turns": model_validator(mode="after")(_check_turns)},
            id=(short | None, None),
            prompt=(text_or_turns, ...),
            response_a=(text_or_turns, ...),
            response_b=(text_or_turns, ...),
            language=(short | None, Field(None, description="language of the prompt, for a judge that shows it")),
        )
        self.one = create_model("OneBattle", __base__=self.battle, swap=swap)
        battle = Annotated[self.battle, BeforeValidator(_without_unseen)]
        self.many = create_model(
            "Battles",
            __config__=ConfigDict(extra="forbid"),
            __doc__="Several battles.",
            battles=(Annotated[list[battle], Field(min_length=1, max_length=limits.battles)], ...),
            swap=swap,
        )

    def read(self, body: bytes, one: bool = False) -> Battles:
        """
        Read a request.

        Args:
            body: the body.
            one: accept a single battle only, not `{"battles": [...]}`.

        Raises:
            HttpError: the body is invalid.
        """
        value = read_json(body)
        if "battles" in value and not one:
            many = validated(self.many, value)
            return Battles([battle.model_dump() for battle in many.battles], many.swap)
        row = validated(self.one, _without_unseen(value)).model_dump()
        swap = row.pop("swap")
        return Battles([row], swap)

    def check_group(self, group: Group, where: str) -> None:
        """
        Check the texts of a prompt and its responses against the limits.

        Args:
            group: the group.
            where: its place in the body, for messages.

        Raises:
            HttpError: 400, a text is too long, or there are too many turns.
        """
        blank = [""] * len(group.prompts)
        validated(self.battle, {"prompt": group.prompts, "response_a": blank, "response_b": blank}, where)
        for response in group.responses:
            validated(self.battle, {"prompt": blank, "response_a": response, "response_b": blank}, where)

    def row(self, value: dict, where: str) -> dict:
        """
        Check a battle that stands within another body, and return it as a row.

        Args:
            value: the battle.
            where: its place in the body, for messages.
        """
        return validated(self.battle, _without_unseen(value), where).model_dump()


def validated(model: type[BaseModel], value, where: str = "") -> BaseModel:
    """
    Check a value with a pydantic model.

    Args:
        model: the model.
        value: the value.
        where: its place in the body, for messages.

    Raises:
        HttpError: 400, naming the first field that is invalid.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        deepest = max(errors, key=lambda one: len(one["loc"]))  # of a union: that of the form which fits best
        param = ".".join(filter(None, (where, *_path(deepest, value)))) or None
        raise HttpError(400, CODES[400], f"{param or 'the body'}: {deepest['msg']}.", param) from None


def _path(error: dict, value) -> list[str]:
    """Return the place of an error as keys and indices of the value, without pydantic's names of a union's forms."""
    path = []
    for number, part in enumerate(error["loc"], 1):
        missing = error["type"] == "missing" and number == len(error["loc"])
        if isinstance(part, int) or missing or (isinstance(value, dict) and part in value):
            path.append(str(part))
            inside = isinstance(value, dict) or (isinstance(value, list) and isinstance(part, int))
            value = value[part] if inside and not missing else None
    return path


def as_group(prompt, responses: list, reference=None, where: str = "") -> Group:
    """
    Return a prompt's responses as a group, with the reference at its end if there is one.

    Args:
        prompt: a text or a chat.
        responses: a text or messages each.
        reference: an answer to compare with, or None.
        where: place in the body, for messages.

    Raises:
        HttpError: 400, the prompt or a response has another form.
    """
    try:
        group = make_group(prompt, [*responses, *([] if reference is None else [reference])])
    except RowError:  # its reason may repeat the text
        message = (
            f"{where or 'the body'}: expected a text, or messages with role and text content that end with the user."
        )
        raise HttpError(400, CODES[400], message, where or None) from None
    group.has_reference = reference is not None
    return group


def inlined(model: type[BaseModel]) -> dict:
    """Return a model's JSON schema without references, which OpenAPI would look for elsewhere."""
    schema = model.model_json_schema()
    nested = schema.pop("$defs", {})

    def resolve(value):
        if isinstance(value, list):
            return [resolve(one) for one in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            return resolve(nested[value["$ref"].rpartition("/")[2]])
        return {key: resolve(one) for key, one in value.items() if key != "discriminator"}

    return resolve(schema)


def read_json(body: bytes) -> dict:
    """Parse a body as a JSON object. Raise `HttpError` 400 for anything else."""
    try:
        value = load_json(body.decode("utf-8-sig"), parse_constant=no_constant)
    except UnicodeDecodeError as error:
        raise HttpError(400, CODES[400], f"The body is not UTF-8: byte {error.start} is invalid.") from None
    except json.JSONDecodeError as error:
        raise HttpError(400, CODES[400], f"The body is not JSON: {error}.") from None
    except RecursionError:
        raise HttpError(400, CODES[400], "The body is nested too deeply.") from None
    except ValueError as error:  # NaN, a duplicate key, or a number with thousands of digits
        raise HttpError(400, CODES[400], f"The body is not JSON: {str(error).split(';')[0]}.") from None
    if not isinstance(value, dict):
        raise HttpError(400, CODES[400], 'The body is not an object; expected a battle or {"battles": [...]}.')
    return value


def no_constant(name: str):
    """Refuse NaN and Infinity, as `parse_constant` of `json.loads`."""
    raise ValueError(f"{name} is not a JSON value")


def _as_turns(value):
    """Convert a text to a list of turns, cleaned as in `sft-judge import`; pydantic checks the turns."""
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list):
        raise PydanticCustomError("turns", "expected a string or a list of strings")
    return [clean_text(turn, Counter()) if isinstance(turn, str) else turn for turn in value]


def _equal_turns(most: int) -> list[dict]:
    """Return JSON schemas of battles with 1 to `most` turns in each text: other schemas cannot compare lengths."""
    shapes = [{"type": "array", "minItems": number, "maxItems": number} for number in range(1, most + 1)]
    shapes[0] = {"anyOf": [{"type": "string"}, shapes[0]]}
    return [{"properties": dict.fromkeys(FIELDS, shape)} for shape in shapes]


def _check_turns(battle):
    """Check that both responses have as many turns as the prompt, as `sft-judge import` does."""
    counts = [len(getattr(battle, name)) for name in FIELDS]
    if len(set(counts)) > 1:
        raise PydanticCustomError(
            "turns",
            "prompt, response_a and response_b have {counts} turns, expected the same number",
            {"counts": str(counts)},
        )
    return battle


def _without_unseen(value):
    return {key: item for key, item in value.items() if key not in _NOT_SEEN} if isinstance(value, dict) else value
