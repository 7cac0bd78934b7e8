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
from sft_judge.inference.contests import Entry, choice_probabilities, outcomes, rewards, shown_pair
from sft_judge.inference.scoring import orders_of
from sft_judge.inference.serving.errors import CODES, HttpError, no_finite_scores
from sft_judge.inference.serving.schema import as_group, no_constant
from sft_judge.inference.serving.service import Judged, Service
from sft_judge.inference.tournaments import num_battles

MAX_CANDIDATES = 16  # of one question
MAX_JUDGEMENTS = 240  # of one request: a battle in one order each; a round robin of 16 in both orders
MAX_QUESTIONS, MAX_CHOICES = 400, 255
RESPONSES = "/responses"  # appended to the judge's name, asks for a choice among responses
_VERDICT = {name: name for name in VERDICTS} | {"response_a": "a", "response_b": "b"}


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
        questions: the questions.
        rows: the battles, each once. A battle over verdicts comes first, then those of the contests.
        swap: the orders to show, None for the judge's own policy.
    """

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


def among_responses(service: Service, model: str | None, x_judge: str | None, aliases: tuple[str, ...] = ()) -> bool:
    """
    Return True if a request asks for a choice among responses.

    Args:
        service: the service.
        model: model of the request; None for the one that is served.
        x_judge: `battle`, `responses` or None.
        aliases: further names of the judge.

    Raises:
        HttpError: 404, the server has no such model; 400, the model and `x_judge` contradict each other.
    """
    alias = model is not None and model.endswith(RESPONSES)
    name = model.removesuffix(RESPONSES) if alias else model
    if name not in (None, service.name, *aliases):
        message = f"There is no model {model[:100]!r}; expected {service.name} or {service.name}{RESPONSES}."
        raise HttpError(404, "model_not_found", message, "model")
    if alias and x_judge == "battle":
        raise HttpError(400, CODES[400], f"x_judge is 'battle', but the model ends with {RESPONSES}.", "x_judge")
    return alias or x_judge == "responses"


def plan(service: Service, questions: list[Question], source, place: str, responses: bool) -> Asked:
    """
    Find the battles that answer the questions.

    Args:
        service: the service, for its limits.
        questions: the questions; their verdicts, contests and refusals are filled in.
        source: the battle as a dict, or the reason why the input is none; with `responses` the conversation, as
            `make_group` takes it.
        place: place of the source in the body, for messages.
        responses: the choices are candidate responses.

    Raises:
        HttpError: 400, a text is invalid, or the request needs more judgements than MAX_JUDGEMENTS.
    """
    asked = Asked(questions)
    for question in questions:
        if question.kind != "choice":
            question.refusal = f"This judge answers choices between responses, and gives no {question.kind[:40]}."
        elif responses and not all(isinstance(text, str) for text in question.descriptions):
            question.refusal = "The description of every choice must be a candidate response, as text."
    open_questions = [question for question in questions if not question.refusal]
    if not responses:
        for question in open_questions:
            _ask_verdict(service, asked, question, source, place)
        return asked
    _check_count(service, open_questions)
    for question in open_questions:
        group = as_group(source, question.descriptions, where=place)
        service.requests.check_group(group, question.where)
        question.entry = Entry.of(group, "round-robin")
        asked.rows += map(question.entry.battle, question.entry.contest.due())
    return asked


def verdict_choices(service: Service) -> list[str]:
    """Return the names of the choices over verdicts, such as A, B and tie."""
    return ["A", "B", "tie"][: service.spec.num_verdicts]


def most_battles(service: Service) -> int:
    """Return the largest number of battles that one request may need."""
    return min(MAX_JUDGEMENTS // len(orders_of(service.spec.swap)), service.limits.queue)


def _check_count(service: Service, questions: list[Question]) -> None:
    """Raise `HttpError` if a question has too many candidates, or all questions need too many judgements."""
    for question in questions:
        if not 2 <= len(question.values) <= MAX_CANDIDATES:
            message = f"{question.where}: {len(question.values)} candidate responses, expected 2 to {MAX_CANDIDATES}."
            raise HttpError(400, CODES[400], message, question.where)
    needed = sum(num_battles("round-robin", len(question.values)) for question in questions)
    orders, most = len(orders_of(service.spec.swap)), most_battles(service)
    if needed > most:
        limit = f"the limit is {most} battles, {most * orders} judgements."
        message = f"The request needs {needed} battles in {orders} orders; {limit}"
        raise HttpError(400, CODES[400], message, "questions")


def _ask_verdict(service: Service, asked: Asked, question: Question, source: dict | str, place: str) -> None:
    expected = list(VERDICTS[: service.spec.num_verdicts])
    verdicts = [_VERDICT.get(value.casefold()) if isinstance(value, str) else None for value in question.values]
    if sorted(map(str, verdicts)) != sorted(expected):
        wanted = ", ".join(verdict_choices(service))
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
    cut = {"prompt": 0, "responses": [0] * len(entry.texts)}
    for pair, one in zip(entry.contest.due(), judged, strict=True):
        entry.record(pair, one.judgement)
        cut["prompt"] = max(cut["prompt"], one.cut["prompt"])
        for place, name in zip(shown_pair(pair), FIELDS[1:], strict=True):
            cut["responses"][place] = max(cut["responses"][place], one.cut[name])
    cut["responses"] = [cut["responses"][place] for place in entry.places]
    agree = [one.judgement.swap_agreement for one in judged if one.judgement.swap_agreement is not None]
    extensions = {
        "x_swap_agreement": float(np.mean(agree)) if agree else None,
        "x_cut": cut,
        "x_turns_left_out": max((one.turns_left_out for one in judged), default=0),
        "x_mean_outcomes": rewards(entry).tolist(),
    }
    return Answer(choice_probabilities(outcomes(entry)).tolist(), extensions)


def battle_in(text: str) -> dict | str:
    """Return the battle in a text that is a JSON object, or the reason why it is none."""
    wanted = f"expected JSON with {', '.join(FIELDS)}"
    if not text.lstrip().startswith("{"):
        return f"The input is plain text and no battle; {wanted}."
    try:
        return load_json(text, parse_constant=no_constant)
    except (ValueError, RecursionError):
        return f"The input is no battle: it begins as JSON, but is not valid; {wanted}."
