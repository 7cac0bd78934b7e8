"""Bodies: what is wrong in them is named in a clean 4xx, and the document promises no more than is kept."""

import json
import os
import subprocess
import sys

import pytest

from helpers.serving import BATTLE, JSON, KEY, LINES, SECRET, refused
from sft_judge.inference.serving.limits import RewardSettings

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "change, param",
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": {"text": SECRET}}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"response_a": [SECRET, None]}, "response_a.1"),
        ({"response_a": [[SECRET]]}, "response_a.0"),
        ({"response_b": [SECRET] * 6}, "response_b"),
        ({"response_b": SECRET * 200}, "response_b.0"),
        ({"id": 3}, "id"),
        ({"id": "i" * 201}, "id"),
        ({"language": ["English"]}, "language"),
        ({"swap": "boht"}, "swap"),
        ({"swap": True}, "swap"),
        ({"promt": SECRET}, "promt"),
        ({"battles": [BATTLE]}, "prompt"),
    ],
)
def test_a_field_that_is_wrong_is_named(server, change, param):
    refused(server[1].post("/v1/judge", json={**BATTLE, **change}), 400, param)


@pytest.mark.parametrize(
    "battles, param",
    [
        ([], "battles"),
        ([BATTLE] * 9, "battles"),
        ("text", "battles"),
        ([BATTLE, {"prompt": "p"}], "battles.1.response_a"),
        ([BATTLE, "text"], "battles.1"),
        ([{**BATTLE, "swap": "both"}], "battles.0.swap"),
    ],
)
def test_a_battle_that_is_wrong_is_named(server, battles, param):
    refused(server[1].post("/v1/judge", json={"battles": battles}), 400, param)


@pytest.mark.parametrize(
    "body, said",
    [
        (b"", "not JSON"),
        (b"nonsense", "not JSON"),
        (b'{"prompt": "p", "prompt": "q"}', "'prompt' occurs twice"),
        (b"[]", "not an object"),
        (b"null", "not an object"),
        (b'"text"', "not an object"),
        (b'{"prompt": NaN}', "NaN is not a JSON"),
        (b'{"prompt": -Infinity}', "not a JSON"),
        (b'{"prompt": 1' + b"0" * 5000 + b"}", "not JSON"),
        (b'{"prompt": "\xff\xfe"}', "not UTF-8: byte 12"),
        (json.dumps(BATTLE).encode("utf-16"), "not UTF-8"),
        (b"[" * 500_000, "nested too deeply"),
        (b'{"prompt":' * 100_000, "nested too deeply"),
        (b'{"prompt": ' + b"[" * 900 + b"]" * 900 + b"}", "prompt"),
    ],
)
def test_a_body_that_is_no_object_of_json_is_told_so(server, body, said):
    response = server[1].post("/v1/judge", content=body, headers=JSON)
    param = response.json()["error"]["param"]
    assert said in refused(response, 400, param)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "x" * 5000, None])
def test_another_content_type_is_415(server, content_type):
    headers = {"content-type": content_type} if content_type else {}
    refused(server[1].post("/v1/judge", content=json.dumps(BATTLE), headers=headers), 415)


def test_a_charset_is_no_other_content_type(server):
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    assert server[1].post("/v1/judge", content=json.dumps(BATTLE), headers=headers).status_code == 200


def test_the_documents_examples_are_answered(server):
    document = server[1].get("/openapi.json").json()
    examples = document["paths"]["/v1/judge"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert len(examples) >= 2
    for example in examples.values():
        assert server[1].post("/v1/judge", json=example["value"]).status_code == 200
    body = document["paths"]["/v1/judge/batch"]["post"]["requestBody"]["content"]["application/x-ndjson"]
    answer = server[1].post("/v1/judge/batch", content=body["example"], headers=LINES)
    assert answer.status_code == 200 and "error" not in answer.text


HOOKS = """
import schemathesis

@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
"""


# What the schemas cannot say: that a query contains its prompt, that lists are equally long, and, as any JSON may be
# the input of a question that is refused, that a battle is one.
NOT_IN_THE_SCHEMA = """
[[operations]]
include-path = "/reward"
checks.positive_data_acceptance.expected-statuses = [200, 400, 401, 404, 409]

[[operations]]
include-path = "/v1/decisions"
checks.positive_data_acceptance.expected-statuses = [200, 400, 401, 404]
"""


def test_what_the_document_promises_is_kept(narrow, tmp_path):
    """schemathesis by its command line: every check it knows, good and bad data, the same each time."""
    (tmp_path / "hooks.py").write_text(HOOKS)
    (tmp_path / "schemathesis.toml").write_text(NOT_IN_THE_SCHEMA)
    options = "--checks all --max-examples 30 --generation-deterministic --no-color --suppress-health-check all"
    words = [*options.split(), "--header", f"Authorization: Bearer {KEY}"]
    rewards = {"rewards": RewardSettings(group_size=2, group_seconds=0.05)}
    with narrow(keys=[KEY], characters=2000, turns=8, app_options=rewards) as (_, client):
        command = [sys.executable, "-m", "schemathesis.cli", "run", str(client.base_url.join("/openapi.json"))]
        environment = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(tmp_path)}
        done = subprocess.run([*command, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
