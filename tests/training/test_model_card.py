"""The card beside a judge, and the way to the hub (a local stub of its API)."""

import base64
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from huggingface_hub import HfApi

from helpers.training_runs import losses
from sft_judge.modeling.judge_spec import Budget, JudgeSpec, read_spec
from sft_judge.training.config import JudgeConfig
from sft_judge.training.model_card import write_card

unit, engine = pytest.mark.unit, pytest.mark.engine


def card(folder: Path) -> tuple[dict, str]:
    _, metadata, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(metadata), text


@unit
def test_a_card_shows_figures_sources_and_licence_and_no_markup_of_a_files(tmp_path):
    figures = {"eval_log_loss": 0.98765, "eval_log_loss_low": 0.9, "eval_log_loss_high": 1.1, "eval_accuracy": 0.5}
    facts = {"base": "hub/base", "rows": 7, "unlabelled": 2, "steps": 3, "status": "finished", "eval": figures}
    spec = JudgeSpec(["A", "B", "tie"], [5, 6, 7], "", Budget(), training=facts)
    config = JudgeConfig(output_dir=str(tmp_path), data_license="cc-by-4.0", fold=3, labels="l", allow_in_sample=True)
    config.external_teacher = True
    write_card(tmp_path, "judge", spec, config, ["arena", "arena", "<img src=x> | **bold**\n# head"])
    metadata, text = card(tmp_path)
    assert metadata["license"] == "cc-by-4.0" and metadata["base_model"] == "hub/base"
    assert "| log loss, nats | 0.9877 | [0.9000, 1.1000] |" in text and "| accuracy | 0.5000 |  |" in text
    assert "fold 3" in text and "| arena | 2 |" in text and "not proven out of fold" in text
    assert "labels of an external teacher" in text
    assert not any(mark in text for mark in ("<img", "**bold**", "\n# head"))


class Hub(BaseHTTPRequestHandler):
    """What `upload_folder` asks of a hub: a repository, how to send each file, a commit."""

    files: dict[str, bytes] = {}

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/repos/create"):
            self.answer({"url": f"http://{self.headers['Host']}/me/mine", "name": "me/mine"})
        elif "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
            self.answer({"files": modes})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer(
                {
                    "success": True,
                    "commitOid": "0" * 40,
                    "commitUrl": f"http://{self.headers['Host']}/me/mine/commit/0",
                }
            )
        else:
            self.answer({})

    def do_GET(self):
        self.answer({"id": "me/mine", "siblings": [], "sha": "0" * 40, "name": "me"})

    def answer(self, body: dict):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *words):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("sft_judge.training.saving.HfApi", lambda token: HfApi(endpoint=endpoint, token="hf_none"))
    Hub.files.clear()
    yield Hub
    server.shutdown()


@engine
def test_what_is_pushed_is_the_finished_judge_and_nothing_else(train, hub, tmp_path):
    folder = train(max_steps=2, push_to_hub="true", hub_model_id="me/mine")
    pushed = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}
    assert hub.files == pushed
    assert {"README.md", "judge.json", "adapter_model.safetensors"} <= pushed.keys()


@engine
def test_a_hub_out_of_reach_costs_no_training(train, monkeypatch, capsys):
    with socket.socket() as closed:  # bound, but nobody listens
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setattr("sft_judge.training.saving.HfApi", lambda token: HfApi(endpoint=endpoint, token="hf_none"))
        folder = train(max_steps=2, push_to_hub="true", hub_model_id="me/mine")
    assert (folder / "manifest.json").is_file()
    assert f"Again: hf upload me/mine {folder}" in capsys.readouterr().err


@engine
def test_the_manifest_holds_the_whole_configuration_and_the_card_what_was_measured(train, synthetic_file):
    folder = train(fold=1, eval_strategy="steps", eval_steps=6)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["config"]["learning_rate"] == 1e-3 and manifest["model_config"]["lora_r"] == 4
    assert {"commit", "versions", "peak_memory_mb", "tokens_per_second", "inputs"} <= manifest.keys()
    _, text = card(folder)
    measured = read_spec(folder).training["eval"]
    assert f"| log loss, nats | {measured['eval_log_loss']:.4f} |" in text and len(losses(folder)) == 6
