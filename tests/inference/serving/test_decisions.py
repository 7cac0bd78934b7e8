"""The decision routes: the numbers of /v1/judge in the formats of OpenAI and TypeSafe, read by their own clients."""

import asyncio
import json
from itertools import combinations

import numpy as np
import pytest

from helpers.injection import CORPUS, attack
from helpers.judges import make_judge
from helpers.serving import BATTLE, JSON, KEY, SECRET, served, shares
from sft_judge.core.swap_orders import ORDERS

pytestmark = pytest.mark.unit
TEXTS = {"prompt": "Name a prime.", "response_a": "Seven.", "response_b": "Nine, of course."}
OVER = [{"value": value} for value in ("A", "B", "tie")]
CANDIDATES = {"first": "Seven.", "second": "Nine, of course.", "third": "I would not know.", "fourth": "2"}
NAMES = ("a", "b", "tie")


def judged(client, *battles) -> np.ndarray:
    return shares(client.post("/v1/judge", json={"battles": list(battles)}).json()["judgements"])


def data(battle) -> list[dict]:
    return [{"role": "user", "content": [{"type": "input_json", "data": battle}]}]


def choice(choices=OVER, **more) -> dict:
    return {"type": "choice", "instructions": "Which?", "choices": choices, **more}


def decide(client, given=None, questions=None, **more):
    body = {"model": "tiny", "input": data(TEXTS) if given is None else given, "questions": questions or [choice()]}
    return client.post("/v1/decisions", json=body | more)


def ask(client, state=TEXTS, questions=None, **more):
    questions = questions or {"q": {"type": "choice", "criteria": {"A": None, "B": None, "tie": None}}}
    return client.post("/v1/systemone", json={"state": state, "questions": questions} | more)


@pytest.fixture(scope="module")
def unfair(bases, tmp_path_factory):
    """A judge of random weights whose outcomes are far from one half."""
    return make_judge(tmp_path_factory.mktemp("unfair") / "judge", bases["qwen2"])


@pytest.fixture(scope="module")
def server(unfair):
    with served(unfair) as (service, client):
        yield service, client


# The numbers


def test_openais_client_gets_the_numbers_of_v1_judge(server):
    from openai import AsyncOpenAI, OpenAI

    expected = judged(server[1], TEXTS)[0]
    assert np.ptp(expected) > 1e-3
    settings = {"base_url": f"{server[1].base_url}/v1", "api_key": KEY, "max_retries": 0}
    asked = {"model": "tiny", "questions": [choice(name="better"), choice(OVER[::-1])]}
    inputs = (data(TEXTS), json.dumps(TEXTS), [{"role": "user", "content": json.dumps(TEXTS)}])

    async def asynchronously():
        async with AsyncOpenAI(**settings) as client:
            return [await client.decisions.create(input=given, **asked) for given in inputs]

    with OpenAI(**settings) as client:
        found = [client.decisions.create(input=given, **asked) for given in inputs]
    for decision in found + asyncio.run(asynchronously()):
        one, other = decision.answers
        assert [one.name, other.name] == ["better", None] and decision.model == "tiny"
        seen = {part.value: part.probability for part in one.probabilities}
        np.testing.assert_allclose([seen[part["value"]] for part in OVER], expected, atol=1e-6)
        assert seen == {part.value: part.probability for part in other.probabilities}
        assert one.choice == other.choice == max(seen, key=seen.get)
        assert one.confidence == pytest.approx((expected.max() - 1 / 3) / (2 / 3))
        row = {name: [text] for name, text in TEXTS.items()} | {"language": None}
        (prompts,) = server[0].prompt.encode([row], ORDERS)
        assert decision.usage.input_tokens == sum(map(len, prompts))


def test_the_verdicts_may_be_named_in_any_case_and_by_the_fields_of_a_battle(server):
    expected = judged(server[1], TEXTS)[0]
    for names in (("a", "b", "TIE"), ("response_a", "Response_B", "tie")):
        answer = decide(server[1], questions=[choice([{"value": name} for name in names])]).json()["answers"][0]
        seen = {one["value"]: one["probability"] for one in answer["probabilities"]}
        np.testing.assert_allclose([seen[name] for name in names], expected, atol=1e-6)


def test_a_battle_of_turns_and_its_cuts_are_those_of_v1_judge(server):
    battle = {name: [text * 200, text] for name, text in TEXTS.items()}
    whole = server[1].post("/v1/judge", json=battle).json()["judgements"][0]
    told = decide(server[1], data(battle)).json()["answers"][0]
    assert told["x_cut"] == whole["cut"] and sum(whole["cut"].values()) and told["x_turns_left_out"] == 0
    assert told["x_swap_agreement"] == float(whole["swap_agreement"])
    np.testing.assert_allclose([one["probability"] for one in told["probabilities"]], [whole[name] for name in NAMES])


def test_the_calibration_is_applied_once_and_told(server, unfair, tmp_path):
    import shutil

    from sft_judge.modeling.judge_spec import read_spec, write_spec

    folder = shutil.copytree(unfair, tmp_path / "judge")
    spec = read_spec(folder)
    spec.calibration = {"temperature": 3.0}
    write_spec(folder, spec)
    with served(folder) as (_, client):
        answer = ask(client).json()
        expected = judged(client, TEXTS)[0]
    assert answer["x_calibration"] == {"temperature": 3.0}
    np.testing.assert_allclose(list(answer["answers"]["q"]["probabilities"].values()), expected, atol=1e-6)
    assert np.abs(expected - judged(server[1], TEXTS)[0]).max() > 1e-3


@pytest.mark.parametrize("as_messages", [False, True])
def test_two_responses_are_one_battle_of_which_a_tie_counts_half_for_each(server, as_messages):
    battle = judged(server[1], TEXTS)[0]
    two = [{"value": value, "description": TEXTS[value]} for value in ("response_a", "response_b")]
    given = [{"role": "user", "content": TEXTS["prompt"]}] if as_messages else TEXTS["prompt"]
    for answer in (
        decide(server[1], given, [choice(two)], x_judge="responses"),
        decide(server[1], given, [choice(two)], model="tiny/responses"),
    ):
        seen = [part["probability"] for part in answer.json()["answers"][0]["probabilities"]]
        np.testing.assert_allclose(seen, [battle[0] + battle[2] / 2, battle[1] + battle[2] / 2], atol=1e-6)


def test_among_many_all_pairs_are_judged_and_the_strengths_explain_the_outcomes(server):
    """The probabilities solve the equations of Bradley and Terry: each wins as often as its strength says."""
    texts = list(CANDIDATES.values())
    outcome = np.full((4, 4), 0.5)
    for one, two in combinations(range(4), 2):
        battle = {"prompt": "Name a prime.", "response_a": texts[one], "response_b": texts[two]}
        share = judged(server[1], battle)[0]
        outcome[one, two], outcome[two, one] = share[0] + share[2] / 2, share[1] + share[2] / 2
    questions = {"q": {"type": "choice", "criteria": CANDIDATES}}
    told = ask(server[1], "Name a prime.", questions, x_judge="responses").json()["answers"]["q"]
    probabilities = np.array(list(told["probabilities"].values()))
    assert list(told["probabilities"]) == list(CANDIDATES) and probabilities.sum() == pytest.approx(1)
    expected = probabilities[:, None] / (probabilities[:, None] + probabilities)
    np.testing.assert_allclose(expected.sum(axis=1), outcome.sum(axis=1), atol=1e-6)
    np.testing.assert_allclose(told["x_mean_outcomes"], (outcome.sum(axis=1) - 0.5) / 3, atol=1e-6)
    assert told["choice"] == list(CANDIDATES)[int(outcome.sum(axis=1).argmax())]
    assert told["confidence"] == pytest.approx((probabilities.max() - 1 / 4) / (3 / 4))


def test_the_order_of_candidates_and_copies_among_them_change_nothing_else(server):
    def among(names):
        questions = {"q": {"type": "choice", "criteria": {name: CANDIDATES[name[:5].strip("2")] for name in names}}}
        return ask(server[1], "Name a prime.", questions, x_judge="responses").json()["answers"]["q"]["probabilities"]

    one, other = among(["first", "third"[:5]]), among(["third"[:5], "first"])
    assert one == pytest.approx(other)
    copies = among(["first", "third"[:5], "first2"])
    assert copies["first"] == pytest.approx(copies["first2"])
    assert copies["first"] / copies["third"] == pytest.approx(one["first"] / one["third"], rel=0.2)
    assert set(among(["first", "first2"]).values()) == {0.5}


def test_a_conversation_goes_on_in_the_candidates(server):
    chat = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": [{"type": "input_text", "text": "Name a prime."}]},
    ]
    two = [{"value": str(place), "description": text} for place, text in enumerate(("7", "9"))]
    seen = decide(server[1], chat, [choice(two)], x_judge="responses").json()["answers"][0]["probabilities"]
    battle = {"prompt": ["Hi", "Name a prime."], "response_a": ["Hello.", "7"], "response_b": ["Hello.", "9"]}
    share = judged(server[1], battle)[0]
    np.testing.assert_allclose([one["probability"] for one in seen], share[:2] + share[2] / 2, atol=1e-6)


# What is refused


@pytest.mark.parametrize(
    "question, said",
    [
        ({"type": "predicate", "instructions": "True?"}, "no predicate"),
        ({"type": "score", "instructions": "How?", "levels": [{"label": "1"}, {"label": "2"}]}, "no score"),
        (choice([{"value": "Billing"}, {"value": "Sales"}]), "a choice over A, B, tie"),
        (choice(OVER[:2]), "a choice over A, B, tie"),
        (choice([*OVER, {"value": "neither"}]), "a choice over A, B, tie"),
        (choice([{"value": True}, {"value": False}]), "a choice over A, B, tie"),
    ],
)
def test_what_the_judge_cannot_answer_is_a_refusal_and_other_questions_are_answered(server, question, said):
    refused, answered = decide(server[1], questions=[{**question, "name": "odd"}, choice()]).json()["answers"]
    assert (refused["type"], refused["name"]) == ("refusal", "odd") and said in refused["x_reason"]
    assert answered["type"] == "choice"


def test_a_general_question_about_any_text_is_a_refusal_for_openais_client(server):
    from openai import OpenAI

    with OpenAI(base_url=f"{server[1].base_url}/v1", api_key=KEY, max_retries=0) as client:
        questions = [{"type": "predicate", "instructions": "Is it a refund?", "name": "refund"}]
        found = client.decisions.create(model="tiny", input="I was charged twice.", questions=questions)
    assert found.answers[0].type == "refusal" and found.usage.total_tokens == 0


@pytest.mark.parametrize("given", ["Which is better?", data(TEXTS) * 2, '{"prompt": "p"', '{"prompt": NaN}', "[1]"])
def test_a_choice_over_verdicts_of_what_is_no_battle_is_a_refusal(server, given):
    refused = decide(server[1], given).json()["answers"][0]
    assert refused["type"] == "refusal" and "battle" in refused["x_reason"]


@pytest.mark.parametrize(
    "given, param",
    [
        ({"prompt": "p", "response_a": SECRET}, "input.response_b"),
        ({**BATTLE, "prompt": [SECRET, None]}, "input.prompt.1"),
        ({**BATTLE, "response_a": [SECRET, SECRET]}, "input"),
        ({**BATTLE, "promt": SECRET}, "input.promt"),
    ],
)
def test_a_broken_battle_is_a_400_in_openais_form(server, given, param):
    response = decide(server[1], data(given))
    error = response.json()["error"]
    assert response.status_code == 400 and error["param"] == param and error["type"] == "invalid_request_error"
    assert SECRET not in response.text


@pytest.mark.parametrize(
    "question, said",
    [
        ({"type": "noul", "instructions": "True?"}, "no noul"),
        ({"type": "score", "criteria": ["low", "high"]}, "no score"),
        ({"type": "choice", "criteria": {"Billing": None, "Sales": None}}, "a choice over A, B, tie"),
        ({"type": "choice", "criteria": {}}, "2 to 255 choices"),
        ({"type": "choice", "criteria": ["A", "B", "tie"]}, "2 to 255 choices"),
    ],
)
def test_systemone_knows_no_refusal_so_that_the_request_is_422(server, question, said):
    for state in (TEXTS, "any text", ["a", "list"], None, 3):
        response = ask(server[1], state, {"q": question})
        (detail,) = response.json()["detail"]
        assert (
            response.status_code == 422 and said in detail["msg"] and detail["loc"][:3] == ["body", "questions", "q"]
        )


def test_more_candidates_or_judgements_than_the_limit_are_refused_with_the_limit(server):
    many = {str(place): f"answer {place}" for place in range(17)}
    told = ask(server[1], "p", {"q": {"type": "choice", "criteria": many}}, x_judge="responses").json()
    assert "2 to 16" in told["detail"][0]["msg"]
    del many["16"]
    two = {name: {"type": "choice", "criteria": many} for name in ("q", "r")}
    told = ask(server[1], "p", two, x_judge="responses").json()
    assert "240 battles in 2 orders; the limit is 120 battles, 240 judgements" in told["detail"][0]["msg"]
    assert ask(server[1], "p", {"q": two["q"]}, x_judge="responses").status_code == 200


def test_responses_are_chosen_among_only_where_the_request_says_so(server):
    described = [{"value": name, "description": text} for name, text in CANDIDATES.items()]
    assert decide(server[1], "Name a prime.", [choice(described)]).json()["answers"][0]["type"] == "refusal"
    missing = [*described[:2], {"value": "third"}]
    refused = decide(server[1], "Name a prime.", [choice(missing)], x_judge="responses").json()["answers"][0]
    assert "description of every choice" in refused["x_reason"]
    assert decide(server[1], "Name a prime.", [choice(described)], x_judge="resp").status_code == 400


def test_another_model_is_404_in_each_form_and_the_list_names_ours(server):
    assert decide(server[1], model="gpt-6-luna").json()["error"]["code"] == "model_not_found"
    response = ask(server[1], model="gpt-6-luna")
    assert response.status_code == 404 and response.json()["detail"]["error_type"] == "model_not_found"
    assert ask(server[1], model="jev-latest").status_code == ask(server[1], model="tiny").status_code == 200
    listed = server[1].get("/v1/models").json()
    assert (
        [one["id"] for one in listed["data"]]
        == [one["name"] for one in listed["models"]]
        == ["tiny", "tiny/responses"]
    )


def test_a_battle_without_finite_numbers_is_a_refusal_and_a_422(server, monkeypatch):
    async def broken(prompts, fresh=False):
        return np.full((len(prompts), 3), np.nan), np.zeros(len(prompts), int)

    monkeypatch.setattr(server[0].engine, "score", broken)
    assert "no finite numbers" in decide(server[1]).json()["answers"][0]["x_reason"]
    assert ask(server[1]).status_code == 422
    questions = {"q": {"type": "choice", "criteria": CANDIDATES}}
    assert ask(server[1], "p", questions, x_judge="responses").status_code == 422


@pytest.mark.parametrize("path", ["/v1/decisions", "/v1/systemone"])
def test_too_many_judgements_are_refused_before_a_text_is_looked_at(server, path, monkeypatch):
    monkeypatch.setattr("sft_judge.inference.serving.decisions.as_group", None)
    texts = {str(place): str(place) for place in range(16)}
    if path.endswith("systemone"):
        questions = {str(place): {"type": "choice", "criteria": texts} for place in range(3)}
        response = ask(server[1], "p", questions, x_judge="responses")
    else:
        choices = [{"value": value, "description": text} for value, text in texts.items()]
        response = decide(server[1], "p", [choice(choices)] * 3, x_judge="responses")
    assert 400 <= response.status_code < 500 and "360 battles in 2 orders; the limit is 120" in response.text


SURROGATE = b'"\\ud800"'


@pytest.mark.parametrize(
    "path, body, status",
    [
        (
            "/v1/systemone",
            b'{"x_judge":"responses","state":"p","questions":{"q":{"type":"choice","criteria":{%s:"x","b":"y"}}}}',
            200,
        ),
        ("/v1/systemone", b'{"state":"p","questions":{"q":{"type":%s}}}', 422),
        ("/v1/systemone", b'{"state":"p","questions":{%s:{"type":"noul"}}}', 422),
        ("/v1/decisions", b'{"model":"tiny","input":"p","questions":[{"type":"predicate","name":%s}]}', 200),
        ("/v1/decisions", b'{"model":%s,"input":"p","questions":[{"type":"predicate"}]}', 404),
    ],
)
def test_an_unpaired_surrogate_in_a_name_comes_back_as_it_was_or_is_a_4xx(server, path, body, status):
    response = server[1].post(path, content=body % SURROGATE, headers=JSON)
    assert response.status_code == status, response.text
    assert response.content.isascii()


def test_a_message_repeats_no_text_of_a_conversation(server):
    questions = {"q": {"type": "choice", "criteria": CANDIDATES}}
    for message in (
        {"role": "user", "content": [{"type": "input_text", "text": SECRET}]},
        {"role": SECRET, "content": "x"},
        {"role": "user", "content": {SECRET: 1}},
    ):
        response = ask(server[1], [message], questions, x_judge="responses")
        assert response.status_code == 422 and SECRET not in response.text
        assert response.json()["detail"][0]["loc"] == ["body", "state"]
    refused = decide(server[1], f'{{"{SECRET}": 1, "{SECRET}": 2}}')
    assert refused.json()["answers"][0]["type"] == "refusal" and SECRET not in refused.text


@pytest.mark.parametrize(
    "change, param",
    [
        ({"input": [{"type": "function_call", "call_id": "c", "name": "n", "arguments": "{}"}]}, "input.0.role"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input.0.role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input.0.content.0"),
        ({"questions": [choice([{"value": 1}, {"value": "B"}])]}, "questions.0.choices.0.value"),
        ({"questions": [{"type": "rank"}]}, "questions.0"),
        ({"model": "tiny/responses", "x_judge": "battle"}, "x_judge"),
    ],
)
def test_the_field_that_is_wrong_is_named_by_its_place_in_the_body(server, change, param):
    body = {"input": data(TEXTS), "questions": [choice()], "model": "tiny"} | change
    error = server[1].post("/v1/decisions", json=body)
    assert (error.status_code, error.json()["error"]["param"]) == (400, param)


# Limits, keys and hostile texts


@pytest.mark.parametrize("body", [b"", b"[]", b'{"model": NaN}', b"[" * 100_000, b'{"a": 1, "a": 2}', b"\xff", b"{}"])
def test_a_body_that_is_none_is_told_so_in_each_form(server, body):
    one, other = (server[1].post(path, content=body, headers=JSON) for path in ("/v1/decisions", "/v1/systemone"))
    assert one.status_code == 400 and one.json()["error"]["type"] == "invalid_request_error"
    assert other.status_code == 422 and other.json()["detail"][0]["loc"][0] == "body"


def test_keys_sizes_and_content_types_are_held_as_for_v1_judge(narrow_unfair):
    with narrow_unfair(keys=[KEY], body_mb=1) as (_, client):
        assert decide(client).json()["error"]["type"] == "authentication_error"
        assert ask(client).json()["detail"]["error_type"] == "authentication_error"
        assert client.get("/v1/models").status_code == 401
        client.headers["Authorization"] = f"Bearer {KEY}"
        assert decide(client).status_code == ask(client).status_code == client.get("/v1/models").status_code == 200
        for path in ("/v1/decisions", "/v1/systemone"):
            assert client.post(path, content=b" " * 2**21, headers=JSON).status_code == 413
            assert client.post(path, content=b"{}").status_code == 415
        assert client.post("/v1/systemone", content=b"{}").json()["detail"]["error_type"] == "unsupported_media_type"


@pytest.fixture
def narrow_unfair(server, unfair):
    return lambda keys=(), **limits: served(unfair, server[0].engine, keys, **limits)


def test_a_full_queue_is_429_in_each_form(narrow_unfair):
    with narrow_unfair(battles=1, queue=2) as (service, client):
        questions = {"q": {"type": "choice", "criteria": CANDIDATES}}
        over = ask(client, "p", questions, x_judge="responses")
        assert over.status_code == 422 and "the limit is 2 battles" in over.text
        service.queue.taken = 2
        assert decide(client).json()["error"]["type"] == "rate_limit_error"
        assert ask(client).json()["detail"]["error_type"] == "queue_full"
        service.queue.taken = 0


def test_hostile_text_reaches_the_engine_as_data(server):
    """The ids are those of `JudgePrompt` for the same battle, which keeps control tokens out of its fields."""
    service, client = server
    texts = [text for text in CORPUS if len(text) < 5000]
    assert len(texts) > 80
    rows = []
    for text in texts:
        battle = {"prompt": [text], "response_a": [text * 2], "response_b": ["Seven."], "language": None}
        rows += [battle, {**battle, "response_a": battle["response_b"], "response_b": battle["response_a"]}]
        expected = service.prompt.encode(rows[-2:], ORDERS)
        service.engine.asked.clear()
        assert decide(client, data({name: battle[name] for name in TEXTS})).status_code == 200
        assert service.engine.asked == expected[0]
        service.engine.asked.clear()
        questions = {"q": {"type": "choice", "criteria": {"one": text * 2, text or "x": "Seven."}}}
        assert ask(client, text, questions, x_judge="responses").status_code == 200
        assert service.engine.asked in expected
    counts = attack(service.prompt, rows)
    assert counts["rows out"] == len(rows)
    assert not any(counts[name] for name in ("control tokens from fields", "control tokens moved", "moved slots"))
