"""The card beside a judge, and the way to the hub (a fake one on this machine)."""

import json
import socket
from pathlib import Path

import pytest
import yaml

from helpers.hub import FakeHub, use_hub
from helpers.training_runs import losses
from sft_judge.cli import main
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
    (results,) = metadata["model-index"]
    assert results["name"] == "judge" and results["results"][0]["dataset"] == {"name": "fold 3", "type": "battles"}
    measured = {each["type"]: each["value"] for each in results["results"][0]["metrics"]}
    assert measured == {"log_loss": 0.98765, "accuracy": 0.5}
    assert "| log loss, nats | 0.9877 | [0.9000, 1.1000] |" in text and "| accuracy | 0.5000 |  |" in text
    assert "fold 3" in text and "| arena | 2 |" in text and "not proven out of fold" in text
    assert "labels of an external teacher" in text
    assert not any(mark in text for mark in ("<img", "**bold**", "\n# head"))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with FakeHub() as hub:
        use_hub(hub, tmp_path / "cache", monkeypatch)
        yield hub


@engine
def test_what_is_pushed_is_the_finished_judge_and_nothing_else(train, hub, tmp_path):
    folder = train(max_steps=2, push_to_hub="true", hub_model_id="me/mine", use_peft="false")
    made = {path.name: path.read_bytes() for path in folder.iterdir()}
    pushed = hub.files("me/mine")
    assert pushed.keys() - {".gitattributes", "manifest.json"} == made.keys() - {"manifest.json"}
    assert {"README.md", "judge.json", "model.safetensors"} <= pushed.keys()
    assert all(pushed[name] == made[name] for name in pushed.keys() & made.keys() - {"README.md", "manifest.json"})


@engine
def test_a_hub_out_of_reach_costs_no_training(train, monkeypatch, capsys):
    with socket.socket() as closed:  # bound, but nobody listens
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        folder = train(max_steps=2, push_to_hub="true", hub_model_id="me/mine", use_peft="false")
    assert (folder / "manifest.json").is_file()
    assert f"To try again: sft-judge push {folder} --repo me/mine" in capsys.readouterr().err


@unit
def test_a_push_of_an_adapter_that_nobody_could_use_is_refused_before_it_is_trained(command, capsys):
    assert main(command("judge", push_to_hub="true", hub_model_id="me/mine")) == 2
    assert "an adapter on" in capsys.readouterr().err


@engine
def test_the_manifest_holds_the_whole_configuration_and_the_card_what_was_measured(train, synthetic_file):
    folder = train(fold=1, eval_strategy="steps", eval_steps=6)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["config"]["learning_rate"] == 1e-3 and manifest["model_config"]["lora_r"] == 4
    assert {"commit", "versions", "peak_memory_mb", "train_seconds", "tokens_per_second", "inputs"} <= manifest.keys()
    _, text = card(folder)
    measured = read_spec(folder).training["eval"]
    assert f"| log loss, nats | {measured['eval_log_loss']:.4f} |" in text and len(losses(folder)) == 6
