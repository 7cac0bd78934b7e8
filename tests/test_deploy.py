"""The Dockerfile and the systemd unit say what the project's commands take, and the guide's `curl` is answered."""

import configparser
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import httpx
import pytest

from helpers.serving import served
from sft_judge.core.registry import parse
from sft_judge.inference.serving.auth import check_exposure
from sft_judge.inference.serving.limits import Limits
from sft_judge.inference.serving.schema import EXAMPLE

ROOT = Path(__file__).parents[1]


def takes(words: list[str]):
    """The settings of a command line that must be one of `serve`'s; a public address has its keys."""
    program, stage, *rest = words
    assert Path(program).name == "sft-judge" and stage == "serve"
    args = parse(stage, rest)
    check_exposure(args.host, [args.api_key_file] if args.api_key_file else [], args.insecure)
    return args


@pytest.mark.unit
def test_the_dockerfile_runs_the_set_up_and_serves_with_keys(monkeypatch, capsys):
    text = (ROOT / "deploy/Dockerfile").read_text()
    entry, given = (
        json.loads(re.search(rf"^{name} (\[.*\])$", text, re.MULTILINE)[1]) for name in ("ENTRYPOINT", "CMD")
    )
    args = takes([*entry, *given])
    assert f"EXPOSE {args.port}\n" in text and args.host == "0.0.0.0"
    script, words = re.search(r"python3 /opt/src/(\S+) (.*?) &&", text).groups()
    spec = importlib.util.spec_from_file_location("setup", ROOT / script)
    setup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    asked = []
    monkeypatch.setattr(setup, "set_up", lambda *settings: asked.append(settings))
    for pins in ("cpu", "cuda"):
        monkeypatch.setattr("sys.argv", ["setup.py", *words.replace("${PINS}", pins).split()])
        assert setup.main() == 0
    assert [(str(venv), pins) for venv, pins, _ in asked] == [("/opt/sft-judge", "cpu"), ("/opt/sft-judge", "cuda")]
    assert entry[0] == "/opt/sft-judge/bin/sft-judge"


@pytest.mark.unit
def test_the_unit_serves_with_keys_and_waits_for_what_is_in_work():
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str
    unit.read(ROOT / "deploy/sft-judge.service")
    service = unit["Service"]
    args = takes(shlex.split(service["ExecStart"]))
    assert str(args.api_key_file) == "${CREDENTIALS_DIRECTORY}/" + service["LoadCredential"].split(":")[0]
    assert args.model.startswith(f"/var/lib/{service['StateDirectory']}/")
    assert int(service["TimeoutStopSec"]) > args.max_seconds == Limits.seconds


@pytest.mark.unit
def test_systemd_finds_no_fault_with_the_unit(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on this machine")
    text = (ROOT / "deploy/sft-judge.service").read_text()
    (tmp_path / "sft-judge.service").write_text(text.replace("/opt/sft-judge/bin/sft-judge", shutil.which("true")))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "sft-judge.service")], capture_output=True, text=True
    )
    assert done.returncode == 0 and not [line for line in done.stderr.splitlines() if "sft-judge" in line], done.stderr


@pytest.mark.unit
def test_the_commands_of_the_guide_to_serving_are_taken_and_its_curl_is_answered(judge, tmp_path):
    text = (ROOT / "docs/guides/serve.md").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = "".join(re.findall(r"```text\n(.*?)```", text, re.DOTALL)).splitlines()
    serving = [shlex.split(line) for line in lines if " serve " in line]
    (asked,) = [line for line in lines if line.startswith("curl ") and "/v1/judge " in line]
    assert len(serving) == 2 and all(takes(words).port == 8000 for words in serving)
    if shutil.which("curl") is None:
        pytest.skip("no curl on this machine")
    with served(judge) as (_, client):
        command = shlex.split(asked.replace("http://127.0.0.1:8000", str(client.base_url).rstrip("/")))
        done = subprocess.run([*command, "--silent"], capture_output=True, text=True, cwd=tmp_path)
    assert json.loads(done.stdout)["judgements"][0]["verdict"] in ("a", "b", "tie")


@pytest.mark.engine
@pytest.mark.full
@pytest.mark.timeout(900)
def test_the_dockerfiles_steps_in_a_clean_folder_serve_for_another_user(judge):
    """No builder is needed: the steps are run here, and the server as `nobody`, so that rights and paths are tried."""
    python = Path("/usr/bin/python3")
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can run a command as another user, with setpriv")
    version = subprocess.run(
        [python, "-c", "import sys, venv; print(sys.version_info >= (3, 11))"], capture_output=True
    )
    if version.stdout.strip() != b"True":
        pytest.skip(f"{python} is not Python 3.11 or newer with venv")
    text = (ROOT / "deploy/Dockerfile").read_text()
    entry, given = (
        json.loads(re.search(rf"^{name} (\[.*\])$", text, re.MULTILINE)[1]) for name in ("ENTRYPOINT", "CMD")
    )
    root = Path(tempfile.mkdtemp(prefix="image-"))
    try:
        root.chmod(0o755)
        (root / "opt/src").mkdir(parents=True)
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", root / "opt/src"], input=archive, check=True)
        script, words = re.search(r"RUN python3 /opt/src/(\S+) (.*?) &&", text).groups()
        words = words.replace("${PINS}", "cpu").replace("/opt/", f"{root}/opt/").split()
        clean = {name: os.environ[name] for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL") if name in os.environ}
        clean |= {"PATH": "/usr/bin:/bin", "HOME": str(root / "root")}
        done = subprocess.run([python, root / "opt/src" / script, *words], env=clean, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        shutil.copytree(judge, root / "judge")
        (root / "keys").write_text("a-key-of-sixteen-letters\n")
        for path in (root / "judge", *(root / "judge").rglob("*"), root / "keys"):
            path.chmod(0o755)
        (root / "tmp").mkdir(mode=0o777)
        (root / "tmp").chmod(0o777)
        command = [word.replace("/opt/", f"{root}/opt/") for word in entry]
        command += [f"{root}{word}" if word.startswith("/") else word for word in given]
        nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        as_nobody = {"PATH": "/usr/bin:/bin", "HOME": str(root / "tmp"), "TMPDIR": str(root / "tmp")}
        with subprocess.Popen(
            [*nobody, *command, "--port", "0"], cwd="/", env=as_nobody, stdout=subprocess.PIPE, text=True
        ) as server:
            try:
                line = next((line for line in server.stdout if line.startswith("serving at ")), "")
                port = int(line.strip().rpartition(":")[2])
                url, key = f"http://127.0.0.1:{port}", {"Authorization": "Bearer a-key-of-sixteen-letters"}
                answer = httpx.post(f"{url}/v1/judge", json=EXAMPLE, headers=key, timeout=60)
                assert answer.json()["judgements"][0]["verdict"] in ("a", "b", "tie")
                assert httpx.post(f"{url}/v1/judge", json=EXAMPLE).status_code == 401
            finally:
                server.terminate()
        assert server.returncode == 0
    finally:
        shutil.rmtree(root, ignore_errors=True)
