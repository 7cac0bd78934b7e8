"""`/v1/systemone` against the public conformance suite `jevcompat` and TypeSafe's own client."""

import json

import pytest

from helpers.judges import make_judge
from helpers.serving import KEY, served

pytestmark = pytest.mark.unit
jevcompat = pytest.importorskip("jevcompat")
TEXTS = {"prompt": "Name a prime.", "response_a": "Seven.", "response_b": "Nine, of course."}
# Requirements of the suite that need an answer to a general question (yes or no, a scale, a ticket's team).
REFUSED = {
    "choice.options",
    "http.endpoint",
    "noul.criteria",
    "noul.no-instructions",
    "request.question-ids",
    "request.state",
    "request.structured-text",
    "request.unknown-fields",
    "score.levels",
}
PASSED = {
    *("auth.bearer", "auth.invalid", "auth.missing", "errors.json", "errors.no-5xx", "errors.reject-invalid"),
    *("errors.shape", "errors.validation-shape", "http.content-type", "http.models", "score.map-rejected"),
}
OVER = {
    "type": "choice",
    "instructions": "Which response do people prefer?",
    "criteria": {"A": "the first", "B": None, "tie": None},
}
AMONG = {"type": "choice", "criteria": {"일곱": "Seven.", "🙂 neun": "Nine, of course.", "other": "I would not know."}}


@pytest.fixture(scope="module")
def server(bases, tmp_path_factory):
    with served(make_judge(tmp_path_factory.mktemp("judge") / "judge", bases["qwen2"]), keys=[KEY]) as (_, client):
        yield client


@pytest.fixture(scope="module")
def suite(server):
    from jevcompat.client import Client

    return Client(str(server.base_url), key=KEY, model="jev-latest", timeout=30)


def test_what_needs_no_answer_to_a_general_question_passes(suite):
    from jevcompat.checks import CASES, Ctx
    from jevcompat.runner import fold

    context = Ctx(suite, key_given=True)
    context.info["types_ok"] = {"noul"}  # as its preflight, whose question the judge refuses
    for case in CASES:
        case.fn(context, case.name)
    results = {one.id: one for one in fold(context, None)}
    failed = {name for name, one in results.items() if one.status == "fail"}
    passed = {name for name, one in results.items() if one.status == "pass"}
    assert failed == REFUSED and passed >= PASSED - {"auth.bearer"}
    for name in failed:  # and these fail for no other reason than the refusal
        assert all("valid request got 422" in one.message for one in results[name].findings)
        refusals = [exchange for exchange in context.exchanges if exchange.status == 422]
        assert any("This judge answers" in exchange.response for exchange in refusals)


def answered(suite, questions, state=TEXTS, **more) -> dict:
    """Send a question about a battle, and hold the response to every rule of the suite."""
    from jevcompat.validate import validate_success

    payload = {"model": "jev-latest", "state": state, "questions": questions, **more}
    response = suite.request("POST", "/v1/systemone", json.dumps(payload).encode(), auth=True)
    assert response.status == 200, response.excerpt(300)
    assert [str(violation) for violation in validate_success(payload, response)] == []
    return response.data["answers"]


@pytest.mark.parametrize("state", [TEXTS, json.dumps(TEXTS), {name: [text, text] for name, text in TEXTS.items()}])
def test_battles_are_answered_by_every_rule_of_the_suite(suite, state):
    answers = answered(suite, {"q": OVER, "질문 🎯": OVER}, state, x_trace_id="1", seed=7)
    assert answers["q"] == answers["질문 🎯"]


def test_responses_are_chosen_among_by_every_rule_of_the_suite(suite):
    answered(suite, {"q": AMONG}, "Name a prime.", x_judge="responses")
    answered(suite, {"q": AMONG}, [{"role": "user", "content": "Name a prime."}], x_judge="responses")


def test_ids_other_questions_and_their_order_change_no_answer(suite):
    from jevcompat.validate import max_difference

    other = {"type": "choice", "criteria": {"x": "2", "y": "4"}}
    alone = answered(suite, {"q": AMONG}, "p", x_judge="responses")["q"]
    for questions in ({"zz.1": AMONG}, {"q": AMONG, "o": other}, {"o": other, "q": AMONG}):
        name = "q" if "q" in questions else "zz.1"
        assert max_difference(alone, answered(suite, questions, "p", x_judge="responses")[name]) < 1e-6
    shuffled = {**OVER, "criteria": dict(reversed(OVER["criteria"].items()))}
    one, two = answered(suite, {"q": OVER, "r": shuffled}).values()
    assert max_difference(one, two) == 0


@pytest.mark.parametrize("asynchronous", [False, True])
def test_typesafes_client_gets_the_numbers_of_v1_judge(server, asynchronous):
    import asyncio

    from typesafe_sdk import AsyncTypeSafeClient, Choice, TypeSafeClient

    headers = {"Authorization": f"Bearer {KEY}"}
    (expected,) = server.post("/v1/judge", json=TEXTS, headers=headers).json()["judgements"]
    settings = {"api_key": KEY, "base_url": str(server.base_url).rstrip("/")}
    asked = {"state": TEXTS, "questions": {"q": Choice(instructions="Which?", criteria=OVER["criteria"])}}

    async def ask():
        async with AsyncTypeSafeClient(**settings) as client:
            return await client.system_one(**asked)

    if asynchronous:
        found = asyncio.run(ask()).choices["q"]
    else:
        with TypeSafeClient(**settings) as client:
            found = client.system_one(**asked).choices["q"]
    assert found.probabilities == pytest.approx(
        {"A": expected["a"], "B": expected["b"], "tie": expected["tie"]}, abs=1e-6
    )


def test_litellm_reads_both_forms(server, monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # otherwise it asks the network on import
    litellm = pytest.importorskip("litellm")
    headers = {"Authorization": f"Bearer {KEY}"}
    (expected,) = server.post("/v1/judge", json=TEXTS, headers=headers).json()["judgements"]
    settings = {"api_key": KEY, "api_base": f"{server.base_url}/v1", "num_retries": 0}
    choices = [{"value": name} for name in OVER["criteria"]]
    questions = [{"type": "choice", "name": "q", "instructions": "Which?", "choices": choices}]
    one = litellm.decisions(model="openai/tiny", input=json.dumps(TEXTS), questions=questions, **settings)
    two = litellm.systemone(model="hosted_vllm/tiny", state=TEXTS, questions={"q": OVER}, **settings)
    wanted = pytest.approx([expected[name] for name in ("a", "b", "tie")], abs=1e-6)
    assert [part.probability for part in one.answers[0].probabilities] == wanted
    assert list(two.answers["q"].probabilities.values()) == wanted
