"""What stands before the routes: hosts, encodings, methods, sizes in progress, a proxy's path, HTTPS, the port."""

import gzip
import json
import shutil
import subprocess
import time

import pytest

from helpers.serving import BATTLE, JSON, LINES, connected, eventually, refused, served
from sft_judge.core.errors import InputError
from sft_judge.inference.serving.auth import check_certificate
from sft_judge.inference.serving.limits import Limits
from sft_judge.inference.serving.server import Settings, allowed_hosts, bound
from sft_judge.inference.serving.service import _lines_of

pytestmark = pytest.mark.unit


def settings(**changes) -> Settings:
    known = dict(model="m", name=None, host="127.0.0.1", port=0, keys=[], dtype="auto")
    return Settings(**known | dict(with_openai=False, log_requests=False, limits=Limits(), vllm=[]) | changes)


# Hosts


def test_a_server_without_keys_answers_only_to_its_own_names(narrow):
    hosts = allowed_hosts(settings(allowed_hosts=["Judge.Example"]))
    with narrow(app_options={"hosts": hosts}) as (_, client):
        for name in ("localhost", "127.0.0.1:8000", "[::1]:80", "LOCALHOST", "judge.example:8000"):
            assert client.get("/health", headers={"Host": name}).status_code == 200, name
            assert client.post("/v1/judge", json=BATTLE, headers={"Host": name}).status_code == 200, name
        for name in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""):
            for path in ("/", "/health", "/metrics"):
                refused(client.get(path, headers={"Host": name}), 400)
            assert "evil" in refused(client.post("/v1/judge", json=BATTLE, headers={"Host": name or "evil"}), 400)


@pytest.mark.parametrize(
    "changes, known",
    [
        ({}, {"localhost", "127.0.0.1", "::1"}),
        ({"host": "::1"}, {"localhost", "127.0.0.1", "::1"}),
        ({"allowed_hosts": ["a"]}, {"localhost", "127.0.0.1", "::1", "a"}),
        ({"keys": ["k" * 16]}, None),
        ({"host": "0.0.0.0"}, None),
        ({"host": "0.0.0.0", "allowed_hosts": ["a"]}, {"localhost", "127.0.0.1", "::1", "0.0.0.0", "a"}),
    ],
)
def test_any_host_is_known_where_keys_or_a_public_address_are_meant(changes, known):
    found = allowed_hosts(settings(**changes))
    assert found == (None if known is None else frozenset(known))


# Bodies and methods


def test_a_compressed_body_is_415_and_a_byte_order_mark_is_none_of_the_json(server):
    body = json.dumps(BATTLE).encode()
    headers = {**JSON, "Content-Encoding": "gzip"}
    assert "gzip" in refused(server[1].post("/v1/judge", content=gzip.compress(body), headers=headers), 415)
    for headers in (JSON, {**JSON, "Content-Encoding": "identity"}):
        assert server[1].post("/v1/judge", content=b"\xef\xbb\xbf" + body, headers=headers).status_code == 200
    answer = server[1].post("/v1/judge/batch", content=b"\xef\xbb\xbf" + body + b"\n" + body, headers=LINES)
    assert ["error" in json.loads(line) for line in answer.text.splitlines()] == [False, False]


def test_responses_of_other_lengths_than_the_prompt_are_refused_as_in_files(server):
    wrong = {"prompt": ["p", "q"], "response_a": ["a", "b"], "response_b": "one"}
    assert "[2, 2, 1] turns" in refused(server[1].post("/v1/judge", json=wrong), 400)
    many = {"battles": [BATTLE, wrong]}
    assert "[2, 2, 1] turns" in refused(server[1].post("/v1/judge", json=many), 400, "battles.1")


def test_head_is_answered_as_get_without_a_body(server):
    for path in ("/health", "/", "/metrics", "/openapi.json"):
        answer = server[1].head(path)
        assert (answer.status_code, answer.content) == (200, b""), path
    assert server[1].head("/nothing").status_code == 404


def test_a_request_for_a_websocket_is_answered_as_any_other(server, caplog):
    handshake = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: eA==")
    with connected(server[1], "GET /ws", *handshake) as peer:
        assert b" 404 " in peer.recv(4096)[:20]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_paths_of_another_app_are_passed_on_and_ours_keep_their_405_and_404(narrow):
    async def other(scope, receive, send):
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    with narrow(app_options={"others": (("/v1/models",), other)}) as (_, client):
        assert client.get("/v1/models").status_code == 299
        refused(client.get("/v1/judge"), 405)
        refused(client.delete("/health"), 405)
        refused(client.get("/v1/load_lora_adapter"), 404)


# Sizes in progress, and the end


def test_the_bodies_in_progress_are_counted_and_freed(narrow):
    with narrow(body_mb=1, batch_mb=1, queue_mb=2) as (service, client):
        large = b" " * (2**20 - 100)
        with connected(client, "POST /v1/judge", f"Content-Length: {2**20}") as one:
            one.sendall(large)
            with connected(client, "POST /v1/judge", f"Content-Length: {2**20}") as two:
                two.sendall(large)
                eventually(lambda: service.queue.bytes == 2 * len(large))
                answer = client.post("/v1/judge", json={**BATTLE, "prompt": "words " * 300})
                assert "the limit is 2 MiB" in refused(answer, 429) and "Retry-After" in answer.headers
        eventually(lambda: service.queue.bytes == 0)
        assert client.post("/v1/judge", json=BATTLE).status_code == 200


@pytest.mark.parametrize("limits", [{"queue_mb": 7}, {"queue_mb": 63, "body_mb": 1}])
def test_a_full_request_fits_into_the_queue(limits):
    with pytest.raises(InputError, match="--max-queue-mb"):
        Limits(**limits)


def test_lines_of_a_batch_are_split_one_by_one_and_as_bytes_split_does():
    for body in (b"", b"\n", b"a", b"a\n", b"a\n\nb", b"\n\na\r\nb\n"):
        assert [line for line in _lines_of(body) if line] == [line for line in body.split(b"\n") if line]


def test_a_stop_ends_an_unfinished_upload_at_once(judge, server):
    with served(judge, server[0].engine, seconds=60) as (service, client):
        peer = connected(client, "POST /v1/judge", "Content-Length: 1000")
        peer.sendall(b'{"prompt": ')
        eventually(lambda: service.queue.taken == 1)
        began = time.monotonic()
    assert time.monotonic() - began < 20, "not the 60 s of an upload"
    peer.close()


# The port, a proxy, HTTPS


def test_a_second_server_on_a_port_fails_before_an_engine_is_started():
    with bound("127.0.0.1", 0) as listener, pytest.raises(InputError, match="Address already in use.*another --host"):
        bound("127.0.0.1", listener.getsockname()[1])


def test_behind_a_proxy_that_strips_its_path_every_route_is_found_and_the_document_names_it(narrow):
    key = "a-key-of-sixteen-letters"
    with narrow(keys=[key], uvicorn_options={"root_path": "/judge"}) as (_, client):
        client.headers["Authorization"] = f"Bearer {key}"
        assert client.get("/health").status_code == 200
        assert client.post("/v1/judge", json=BATTLE).status_code == 200
        lines = json.dumps(BATTLE) + "\n"
        assert client.post("/v1/judge/batch", content=lines, headers=LINES).status_code == 200
        assert client.get("/openapi.json").json()["servers"] == [{"url": "/judge"}]
        client.headers.pop("Authorization")
        assert client.post("/v1/judge", json=BATTLE).status_code == 401
        assert client.get("/health").status_code == 200


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    if not shutil.which("openssl"):
        pytest.skip("no openssl to make a certificate with")
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    files = {"-keyout": folder / "key.pem", "-out": folder / "cert.pem"}
    more = [str(word) for pair in files.items() for word in pair]
    subprocess.run(["openssl", *words.split(), *more], check=True, capture_output=True)
    return folder


def test_https_is_served_with_a_certificate(narrow, certificate):
    options = {"ssl_certfile": str(certificate / "cert.pem"), "ssl_keyfile": str(certificate / "key.pem")}
    with narrow(uvicorn_options=options) as (_, client):
        assert client.base_url.scheme == "https" and client.post("/v1/judge", json=BATTLE).status_code == 200
        client.close()  # an open connection would be waited for


def test_files_that_are_no_certificate_and_key_are_refused_at_once(certificate, tmp_path):
    (tmp_path / "text").write_text("no certificate")
    cert, key = certificate / "cert.pem", certificate / "key.pem"
    check_certificate(cert, key)
    check_certificate(None, None)
    for files, said in [
        ((cert, None), "go together"),
        ((None, key), "go together"),
        ((tmp_path / "none", key), "no such file"),
        ((tmp_path / "text", key), "not a certificate"),
        ((cert, cert), "not a certificate"),
    ]:
        with pytest.raises(InputError, match=said):
            check_certificate(*files)
