"""Who may ask: keys, addresses, and the settings with which no server starts."""

import socket

import pytest

from helpers.serving import BATTLE, KEY, connected, refused, served
from sft_judge.cli import main
from sft_judge.inference.serving.auth import is_loopback

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def server(judge):
    with served(judge, keys=[KEY, KEY[::-1]]) as (service, client):
        yield service, client


def test_nothing_but_the_open_paths_answers_without_a_key(server):
    client = server[1]
    for key in (KEY, KEY[::-1]):
        headers = {"authorization": f"Bearer {key}"}
        assert client.post("/v1/judge", json=BATTLE, headers=headers).status_code == 200
    wrong = [{}, *({"authorization": value} for value in ("", KEY, f"Basic {KEY}", "Bearer", f"Bearer {KEY}x"))]
    for headers in wrong:
        response = client.post("/v1/judge", json=BATTLE, headers=headers)
        refused(response, 401)
        assert response.headers["www-authenticate"] == "Bearer"
    for path in ("/metrics", "/v1/judge/batch", "/nowhere", "/health/", "/.//", "/openapi.json/"):
        refused(client.get(path), 401)
    refused(client.options("/v1/judge"), 401)
    assert [client.get(path).status_code for path in ("/", "/health", "/openapi.json")] == [200] * 3


def test_a_body_is_not_read_for_one_without_a_key(server):
    with connected(server[1], "POST /v1/judge", "Content-Length: 100") as peer:
        assert b" 401 " in peer.recv(4096)
    assert server[0].queue.taken == 0


@pytest.mark.parametrize(
    "host, own",
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("127.9.9.9", True)]
    + [("0.0.0.0", False), ("::", False), ("192.168.1.2", False), ("judge.example", False), ("", False)],
)
def test_own_addresses_are_known(host, own):
    assert is_loopback(host) == own


def command(capsys, judge, *words) -> str:
    """The one line of a `serve` that must refuse."""
    assert main(["serve", "--model", str(judge), *map(str, words)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("sft-judge: ") and said.err.count("\n") == 1 and "serving" not in said.out
    return said.err


def test_a_public_address_without_keys_is_refused(judge, capsys):
    assert "--api-key-file" in command(capsys, judge, "--host", "0.0.0.0")


@pytest.mark.parametrize(
    "text, reason",
    [("", "no key"), ("# only words\n\n", "no key"), (f"{KEY}\nshort\n", "key 2"), ("ключ" * 5, "key 1")],
)
def test_a_file_without_good_keys_is_refused(judge, capsys, tmp_path, text, reason):
    (tmp_path / "keys").write_text(text)
    said = command(capsys, judge, "--api-key-file", tmp_path / "keys")
    assert reason in said and "openssl rand" in said and "short" not in said.replace("shorter", "")


def test_other_settings_that_cannot_be_are_refused(judge, capsys, tmp_path, bases):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}: Address already in use" in command(capsys, judge, "--port", port)
    assert "--port" in command(capsys, judge, "--port", "70000")
    assert "--max-queue 10" in command(capsys, judge, "--max-queue", "10")
    assert "keys" in command(capsys, judge, "--api-key-file", tmp_path / "keys")
    assert "judge.json" in command(capsys, bases["qwen2"])
    assert "another-host" in command(capsys, judge, "--host", "another-host.invalid", "--insecure")
