"""`sft-judge push`, and judges loaded from a hub (a fake one on this machine) by their ids."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from helpers.hub import READER, FakeHub, Repo, use_hub
from helpers.judges import predict
from helpers.merging import add_adapter, judge_of, merge
from helpers.training_runs import refuses
from sft_judge import Judge
from sft_judge.cli import main
from sft_judge.core.model_files import BASE, REVISION, judge_hash
from sft_judge.data.probs import read_probs
from sft_judge.modeling.judge_spec import read_spec, write_spec
from sft_judge.modeling.loading import load_tokenizer

pytestmark = pytest.mark.unit  # random judges: nothing is trained


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with FakeHub() as hub:
        use_hub(hub, tmp_path / "cache", monkeypatch)
        yield hub


@pytest.fixture
def own(judge, tmp_path):
    """A copy of a judge that may be changed."""
    return shutil.copytree(judge, tmp_path / "own")


def push(folder, *options, repo="me/judge") -> int:
    return main(["push", str(folder), "--repo", repo, *options])


def probs_of(model, battles, output, *options) -> np.ndarray:
    assert predict(model, battles, output, *options) == 0
    return read_probs(output).logp


def adapter_on_hub(hub, base, judge, folder) -> Path:
    """An adapter judge whose base is on the hub, as training leaves it."""
    folder = judge_of(add_adapter(base, folder, 1), judge)
    files = {file.name: file.read_bytes() for file in base.iterdir()}
    commit = hub.repos.setdefault("me/base", Repo()).add("main", files)
    config = json.loads((folder / "adapter_config.json").read_text()) | {BASE: "me/base", REVISION: commit}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def calibrated(folder) -> Path:
    spec = read_spec(folder)
    spec.calibration = {"temperature": 1.7}
    write_spec(folder, spec, bind=True)
    return folder


@pytest.mark.parametrize("form", ["whole", "calibrated", "adapter", "merged", "exported"])
def test_a_pushed_judge_is_the_same_judge_to_the_bit(form, hub, own, sharded_base, synthetic_file, tmp_path):
    folder = own
    if form == "calibrated":
        calibrated(folder)
    elif form in ("adapter", "merged"):
        folder = adapter_on_hub(hub, sharded_base, own, tmp_path / "adapter")
    if form == "merged":
        assert merge(folder, output=tmp_path / "merged") == 0
        folder = tmp_path / "merged"
    elif form == "exported":
        assert main(["export", "--model", str(own), "--output", str(tmp_path / "x"), "--limit", "2"]) == 0
        folder = tmp_path / "x"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert push(folder) == 0
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    here = probs_of(folder, synthetic_file, tmp_path / "here.parquet", "--limit", "6")
    there = probs_of("me/judge", synthetic_file, tmp_path / "there.parquet", "--limit", "6")
    np.testing.assert_array_equal(here, there)
    asked = "Name a prime.", "Seven.", "Nine."
    assert Judge.load("me/judge").judge(*asked) == Judge.load(folder).judge(*asked)
    stated = read_probs(tmp_path / "there.parquet").metadata
    assert stated["model"] == f"me/judge@{hub.repos['me/judge'].refs['main']}"
    assert stated["judge"] == judge_hash(folder)


def test_the_cards_snippet_runs_as_it_is_in_a_clean_process(hub, own, tmp_path):
    assert push(own, "--revision", "v1") == 0
    card = hub.files("me/judge", "v1")["README.md"].decode()
    code = card.split("```python\n")[1].split("```")[0]
    assert 'Judge.load("me/judge", revision="v1")' in code
    root = str(Path(__file__).parents[2])
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": root, **hub.environment(tmp_path / "fresh", token=None)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("Judgement(a=")


def test_only_what_belongs_to_a_judge_travels_and_no_path_of_this_machine(hub, own, tmp_path):
    leftovers = (
        "training_args.bin",
        "checkpoint-3/model.safetensors",
        ".model.partial/x",
        "start/config.json",
        "o.pt",
    )
    leftovers += (".git/config", "runs/events.out.tfevents.1.thishost.2")
    for name in leftovers:
        (own / name).parent.mkdir(exist_ok=True)
        (own / name).write_text("x")
    (own / "LICENSE").write_text("mine")
    manifest = {
        "inputs": {f"{tmp_path}/one/b.parquet": "1f", f"{tmp_path}/two/b.parquet": "2f", "b.jsonl": "3f"},
        "settings": {"model": f"{tmp_path}/base", "note": f"made of {tmp_path}/x/y.csv, see https://a.example/b/c"},
        "seconds": 3.5,
    }
    (own / "manifest.json").write_text(json.dumps(manifest))
    report = tmp_path / "report"
    report.mkdir()
    (report / "metrics.json").write_text(json.dumps({"n": 4, "judges": {"j": {"model": f"{tmp_path}/own"}}}))
    (report / "report.html").write_text("<p>")
    assert push(own, "--report", str(report)) == 0
    pushed = hub.files("me/judge")
    assert not set(leftovers) & set(pushed) and pushed["LICENSE"] == b"mine"
    assert {"judge.json", "README.md", "report/metrics.json", "report/report.html"} <= set(pushed)
    assert json.loads(pushed["manifest.json"]) == {
        "inputs": {"b.parquet": "1f", "b.parquet (1)": "2f", "b.jsonl": "3f"},
        "settings": {"model": "base", "note": "made of y.csv, see https://a.example/b/c"},
        "seconds": 3.5,
    }
    assert not [name for name, data in pushed.items() if str(tmp_path.parent).encode() in data]


def test_another_form_of_a_judge_takes_the_place_of_the_one_before(hub, own, sharded_base, tmp_path):
    adapter = adapter_on_hub(hub, sharded_base, own, tmp_path / "adapter")
    assert push(adapter) == 0 and "adapter_config.json" in hub.files("me/judge")
    hub.put("me/judge", NOTES__txt="theirs")
    assert push(own) == 0
    asked = "Name a prime.", "Seven.", "Nine."
    assert Judge.load("me/judge").judge(*asked) == Judge.load(own).judge(*asked)
    assert "adapter_model.safetensors" not in hub.files("me/judge") and "NOTES.txt" in hub.files("me/judge")
    assert push(adapter) == 0
    assert "model.safetensors" not in hub.files("me/judge")


def test_edits_of_a_card_survive_or_are_refused_to_be_lost(hub, own, tmp_path, capsys):
    (own / "README.md").write_text("---\nlicense: mit\n---\n# mine\n\nMy own words.\n")
    assert push(own) == 0
    first = hub.files("me/judge")["README.md"].decode()
    assert "My own words." in first and push(own) == 0  # again, and nobody edited it
    edited = first.replace("My own words.", "Somebody's words.")
    hub.put("me/judge", README__md=edited)
    refuses(["push", str(own), "--repo", "me/judge"], 2, "was edited on the Hub since", tmp_path, capsys)
    assert hub.files("me/judge")["README.md"].decode() == edited
    (own / "README.md").write_text(edited.replace("\n", "\r\n"))  # pulled
    assert push(own) == 0 and b"Somebody's words." in hub.files("me/judge")["README.md"]
    hub.put("me/judge", README__md="all new")
    assert push(own, "--overwrite-card") == 0 and b"all new" not in hub.files("me/judge")["README.md"]


def test_a_generated_card_says_what_the_judge_is_and_its_tag_loads_it(hub, own, tmp_path, capsys):
    from transformers import pipeline

    spec = read_spec(own)
    figures = {"eval_log_loss": 1.01, "eval_log_loss_low": 0.9, "eval_log_loss_high": 1.1}
    spec.training = {"base": str(tmp_path / "elsewhere" / "base"), "rows": 9, "unlabelled": 0, "steps": 2}
    spec.training |= {"status": "finished", "eval": figures, "recipe": {"fold": 1, "data_license": "mit"}}
    write_spec(own, spec, bind=True)
    assert main(["export", "--model", str(own), "--output", str(tmp_path / "x"), "--limit", "2"]) == 0
    for folder, tag in ((own, "text-generation"), (tmp_path / "x", "text-classification")):
        assert push(folder, "--private", repo=f"me/{tag}") == 0
        assert f"judge.json names {tmp_path}/elsewhere/base and is uploaded unchanged" in capsys.readouterr().err
        card = hub.files(f"me/{tag}")["README.md"].decode()
        metadata = yaml.safe_load(card.split("---\n")[1])
        assert metadata["pipeline_tag"] == tag and metadata["license"] == "mit" and "base_model" not in metadata
        (result,) = metadata["model-index"][0]["results"]
        assert result["metrics"] == [{"type": "log_loss", "value": 1.01, "name": "log loss, nats"}]
        assert result["dataset"]["name"] == "fold 1" and "[0.9000, 1.1000]" in card and str(tmp_path) not in card
        pipeline(tag, model=str(folder), tokenizer=load_tokenizer(str(folder)))
    assert all(repo.private for repo in hub.repos.values())


REFUSED = {
    "no token": ("me/judge", None, "log in (`hf auth login`"),
    "no right to write": ("me/judge", READER, "your token has no permission"),
    "a space of others": ("you/judge", "hf_writer", "your token has no permission"),
    "a name that is taken": ("me/taken", "hf_writer", "is taken: it holds a model that is not a judge"),
    "no name": ("me/ju dge", "hf_writer", "was not pushed"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_push_that_cannot_be_is_one_line_and_nothing_is_uploaded(case, hub, own, tmp_path, monkeypatch, capsys):
    repo, token, why = REFUSED[case]
    hub.put("me/taken", model__safetensors="weights of others")
    use_hub(hub, tmp_path / "cache", monkeypatch, token)
    refuses(["push", str(own), "--repo", repo], 2, why, tmp_path, capsys)
    assert set(hub.repos) == {"me/taken"} and set(hub.files("me/taken")) == {"model.safetensors"}


def test_a_judge_that_is_to_be_private_is_not_put_where_all_can_see_it(hub, own, tmp_path, capsys):
    assert push(own) == 0
    before = hub.repos["me/judge"].refs.copy()
    refuses(["push", str(own), "--repo", "me/judge", "--private"], 2, "me/judge is public", tmp_path, capsys)
    assert hub.repos["me/judge"].refs == before
    hub.repos["me/judge"].private = True
    assert push(own, "--private") == 0 and push(own) == 0


def test_what_nobody_else_could_load_is_not_pushed(hub, own, sharded_base, judge, tmp_path, capsys):
    adapter = judge_of(add_adapter(sharded_base, tmp_path / "adapter", 1), judge)
    refuses(["push", str(adapter), "--repo", "me/judge"], 2, "sft-judge merge", tmp_path, capsys)
    (tmp_path / "plain").mkdir()
    refuses(["push", str(tmp_path / "plain"), "--repo", "me/judge"], 2, "no judge.json", tmp_path, capsys)
    (own / "model.safetensors").write_bytes(b"cut")
    refuses(["push", str(own), "--repo", "me/judge"], 2, "damaged or truncated", tmp_path, capsys)
    refuses(
        ["push", str(judge), "--repo", "me/judge", "--report", str(adapter)], 2, "neither metrics", tmp_path, capsys
    )
    assert hub.repos == {}
