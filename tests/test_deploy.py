"""The Dockerfile and the systemd unit say what the project's commands take, and the guide's `curl` is answered."""

import configparser
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from helpers.serving import served
from sft_judge.core.registry import parse
from sft_judge.inference.serving.auth import check_exposure
from sft_judge.inference.serving.limits import Limits

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[1]


def takes(words: list[str]):
    """The settings of a command line that must be one of `serve`'s; a public address has its keys."""
    program, stage, *rest = words
    assert Path(program).name == "sft-judge" and stage == "serve"
    args = parse(stage, rest)
    check_exposure(args.host, [args.api_key_file] if args.api_key_file else [], args.insecure)
    return args


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


def test_the_unit_serves_with_keys_and_waits_for_what_is_in_work():
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str
    unit.read(ROOT / "deploy/sft-judge.service")
    service = unit["Service"]
    args = takes(shlex.split(service["ExecStart"]))
    assert str(args.api_key_file) == "${CREDENTIALS_DIRECTORY}/" + service["LoadCredential"].split(":")[0]
    assert args.model.startswith(f"/var/lib/{service['StateDirectory']}/")
    assert int(service["TimeoutStopSec"]) > args.max_seconds == Limits.seconds


def test_systemd_finds_no_fault_with_the_unit(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on this machine")
    text = (ROOT / "deploy/sft-judge.service").read_text()
    (tmp_path / "sft-judge.service").write_text(text.replace("/opt/sft-judge/bin/sft-judge", shutil.which("true")))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "sft-judge.service")], capture_output=True, text=True
    )
    assert done.returncode == 0 and not [line for line in done.stderr.splitlines() if "sft-judge" in line], done.stderr


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
