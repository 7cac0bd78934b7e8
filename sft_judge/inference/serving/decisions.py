"""
Questions of the decision routes: which battles answer them, and what the judgements of these battles say.

A judge answers a choice in one of two ways. Over A, B and, for a judge of three verdicts, tie: the request's input is
one battle. Or, where the request asks for it (`x_judge: "responses"`), over candidate responses: the input is a
conversation, and the descriptions of the choices are responses to it, all of which are compared with each other. The
judge reads no instructions: its question is always which response people prefer.
"""

from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from sft_judge.core.files import load_json
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.battles import FIELDS
from sft_judge.data.candidates import make_group
from sft_judge.data.importing.conversation import RowError
from sft_judge.inference.contests import Entry, choice_probabilities, exchange_judgement, outcomes, shown_pair
from sft_judge.inference.scoring import orders_of
from sft_judge.inference.serving.errors import CODES, HttpError, no_finite_scores
from sft_judge.inference.serving.schema import no_constant
from sft_judge.inference.serving.service import Judged, Service

MAX_CANDIDATES = 16  # of one question
MAX_JUDGEMENTS = 240  # of one request: a battle in one order each; a round robin of 16 in both orders
MAX_QUESTIONS = 400
RESPONSES = "/responses"  # appended to the judge's name, asks for a choice among responses
_VERDICT = {
    "a": VERDICTS[0],
    "b": VERDICTS[1],
    "tie": VERDICTS[2],
    "response_a": VERDICTS[0],
    "response_b": VERDICTS[1],
}


@dataclass
class Question:
    """
    A question as it was asked.

    Attributes:
        name: its name or id.
        kind: its type, such as `choice`.
        values: the choices.
        descriptions: a description of each choice, or None.
        where: place in the body, for messages.
        verdicts: the verdict that each choice means, in a choice over verdicts.
        entry: the contest of the candidates, in a choice among responses.
        refusal: why the judge cannot answer it, or None.
    """

    name: str | None
    kind: str
    values: list[str | bool]
    descriptions: list
    where: str
    verdicts: list[str] | None = None
    entry: Entry | None = None
    refusal: str | None = None


@dataclass
class Asked:
    """
    The questions of a request, and the battles that answer them.

    Attributes:
        model: the judge's name in the answer.
        questions: the questions.
        rows: the battles, each once. A battle over verdicts comes first, then those of the contests.
        swap: the orders to show, None for the judge's own policy.
    """

    model: str
    questions: list[Question]
    rows: list[dict] = field(default_factory=list)
    swap: str | None = None


@dataclass
class Answer:
    """
    What the judge says of a choice.

    Attributes:
        probabilities: probability of each choice [n].
        extensions: our own fields of the answer, with the prefix `x_`.
    """

    probabilities: list[float]
    extensions: dict

    @property
    def top(self) -> int:
        """Return the number of the most probable choice; the first of equals."""
        return int(np.argmax(self.probabilities))

    @property
    def confidence(self) -> float:
        """
        Return (max p - 1/n) / (1 - 1/n), from 0 to 1: the reference formula of the public suite `jevcompat`, 4.5.
        """
        chance = 1 / len(self.probabilities)
        return max(0.0, (max(self.probabilities) - chance) / (1 - chance))


def named_model(service: Service, model: str | None, aliases: tuple[str, ...] = ()) -> tuple[str, bool]:
    """
    Return the judge's name, and whether the request asks for a choice among responses.

    Args:
        service: the service.
        model: model of the request; None for the one that is served.
        aliases: further names.

    Raises:
        HttpError: 404, the server has no such model.
    """
    responses = model is not None and model.endswith(RESPONSES)
    name = model.removesuffix(RESPONSES) if responses else model
    if name not in (None, service.name, *aliases):
        known = f"{service.name} and {service.name}{RESPONSES}"
        raise HttpError(
            404, "model_not_found", f"There is no model {model[:100]!r}; this server has {known}.", "model"
        )
    return service.name, responses


def plan(service: Service, model: str, questions: list[Question], source, place: str, responses: bool) -> Asked:
    """
    Find the battles that answer the questions.

    Args:
        service: the service, for its limits.
        model: the judge's name.
        questions: the questions; their verdicts, contests and refusals are filled in.
        source: the battle as a dict, or the reason why the input is none; with `responses` the conversation, as
            `make_group` takes it.
        place: place of the source in the body, for messages.
        responses: the choices are candidate responses.

    Raises:
        HttpError: 400, a text is invalid, or the request needs more judgements than MAX_JUDGEMENTS.
    """
    asked = Asked(model, questions)
    for question in questions:
        if question.refusal:
            continue
        if question.kind != "choice":
            question.refusal = f"This judge answers choices between responses, and gives no {question.kind[:40]}."
        elif responses and not all(isinstance(text, str) for text in question.descriptions):
            question.refusal = "The description of every choice must be a candidate response, as text."
        elif responses:
            question.entry = _contest(service, question, source)
            asked.rows += map(question.entry.battle, question.entry.contest.due())
        else:
            _ask_verdict(service, asked, question, source, place)
    orders = len(orders_of(service.spec.swap))
    most = min(MAX_JUDGEMENTS // orders, service.limits.queue)
    if len(asked.rows) > most:
        raise HttpError(
            400,
            CODES[400],
            f"The request needs {len(asked.rows)} battles in {orders} orders; the limit is {most} battles, "
            f"{most * orders} judgements.",
            "questions",
        )
    return asked


def _ask_verdict(service: Service, asked: Asked, question: Question, source: dict | str, place: str) -> None:
    expected = list(VERDICTS[: service.spec.num_verdicts])
    verdicts = [
        _VERDICT.get(value.strip().casefold()) if isinstance(value, str) else None for value in question.values
    ]
    if sorted(map(str, verdicts)) != sorted(expected):
        wanted = ", ".join(word if len(word) > 1 else word.upper() for word in expected)
        question.refusal = (
            f"This judge answers a choice over {wanted}. To choose among candidate responses, send them as "
            'descriptions of the choices and `x_judge: "responses"`.'
        )
    elif isinstance(source, str):
        question.refusal = source
    else:
        question.verdicts = verdicts
        if not asked.rows:
            asked.rows = [service.requests.row(source, place)]


def _contest(service: Service, question: Question, conversation) -> Entry:
    """Return the round robin of a question's candidates, whose texts are within the limits."""
    count = len(question.values)
    if not 2 <= count <= MAX_CANDIDATES:
        message = f"{question.where}: {count} candidate responses, expected 2 to {MAX_CANDIDATES}."
        raise HttpError(400, CODES[400], message, question.where)
    try:
        group = make_group(conversation, question.descriptions)
    except RowError as error:
        raise HttpError(400, CODES[400], f"{error.field}: {error.reason}.", question.where) from None
    for response in group.responses:
        service.requests.row(dict(zip(FIELDS, (group.prompts, response, response), strict=True)), question.where)
    return Entry.of(group, "round-robin")


def answers(service: Service, asked: Asked, judged: list[Judged]) -> list[Answer | str]:
    """
    Return an answer to each question, or the reason why there is none.

    Args:
        service: the service.
        asked: the request.
        judged: what the judge says of its battles.
    """
    found, rest = [], iter(judged)
    over_verdicts = any(question.verdicts for question in asked.questions)
    battle = next(rest) if over_verdicts else None
    for question in asked.questions:
        if question.refusal:
            found.append(question.refusal)
        elif question.entry:
            found.append(_among_responses(question.entry, list(islice(rest, question.entry.num_battles))))
        else:
            found.append(_over_verdicts(question, battle))
    return found


def _over_verdicts(question: Question, battle: Judged) -> Answer | str:
    if battle.judgement is None:
        return str(no_finite_scores())
    agree = battle.judgement.swap_agreement
    extensions = {
        "x_swap_agreement": None if agree is None else float(agree),
        "x_cut": battle.cut,
        "x_turns_left_out": battle.turns_left_out,
    }
    return Answer([getattr(battle.judgement, verdict) for verdict in question.verdicts], extensions)


def _among_responses(entry: Entry, judged: list[Judged]) -> Answer | str:
    if any(one.judgement is None for one in judged):
        return str(no_finite_scores())
    pairs = entry.contest.due()
    cut = {"prompt": 0, "responses": [0] * len(entry.texts)}
    for pair, one in zip(pairs, judged, strict=True):
        in_order = shown_pair(pair) == pair
        entry.contest.judged[pair] = one.judgement if in_order else exchange_judgement(one.judgement)
        cut["prompt"] = max(cut["prompt"], one.cut["prompt"])
        for place, name in zip(shown_pair(pair), FIELDS[1:], strict=True):
            cut["responses"][place] = max(cut["responses"][place], one.cut[name])
    cut["responses"] = [cut["responses"][place] for place in entry.places]
    agree = [one.judgement.swap_agreement for one in judged if one.judgement.swap_agreement is not None]
    table = outcomes(entry)
    extensions = {
        "x_swap_agreement": float(np.mean(agree)) if agree else None,
        "x_cut": cut,
        "x_turns_left_out": max((one.turns_left_out for one in judged), default=0),
        "x_mean_outcomes": ((table.sum(axis=1) - 0.5) / (len(table) - 1)).tolist(),
    }
    return Answer(choice_probabilities(table).tolist(), extensions)


def battle_in(text: str) -> dict | str:
    """Return the battle in a text that is a JSON object, or the reason why it is none."""
    wanted = f"expected JSON with {', '.join(FIELDS)}"
    if not text.lstrip().startswith("{"):
        return f"The input is plain text and no battle; {wanted}."
    try:
        return load_json(text, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        return f"The input is no battle: it is not JSON ({error}); {wanted}."
