"""Judges by their ids on a fake hub: every stage takes them, at a revision, from the cache, or says why not."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.candidates import ANSWERS, written
from helpers.hub import FakeHub, Repo, use_hub
from helpers.judges import predict
from helpers.training_runs import refuses
from sft_judge import Judge
from sft_judge.cli import main
from sft_judge.commands.arguments import judge_path
from sft_judge.core import registry
from sft_judge.core.errors import InputError
from sft_judge.core.model_files import name_of
from sft_judge.data.probs import read_probs
from sft_judge.inference.calibrated import find_judge
from sft_judge.modeling.hub import judge_folder, push_folder
from sft_judge.modeling.judge_spec import read_spec, write_spec
from sft_judge.pipelines.pipeline import Step, up_to_date

pytestmark = pytest.mark.unit  # random judges: nothing is trained
ASKED = "Name a prime.", "Seven.", "Nine."
SOFT = {"temperature": 3.0, "tie_temperature": 1.0, "tie_offset": -4.0}  # hardly a tie
ROOT = Path(__file__).parents[2]


@pytest.fixture
def hub(judge, tmp_path, monkeypatch):
    """A hub with `me/judge`, whose branch `soft` is the same judge with a temperature."""
    soft = shutil.copytree(judge, tmp_path / "soft")
    spec = read_spec(soft)
    spec.calibration = SOFT
    write_spec(soft, spec)
    with FakeHub() as hub:
        use_hub(hub, tmp_path / "pushing", monkeypatch)
        push_folder(judge, "me/judge")
        push_folder(soft, "me/judge", revision="soft")
        use_hub(hub, tmp_path / "cache", monkeypatch, token=None)
        shutil.rmtree(soft)
        hub.requests.clear()
        yield hub


STAGES = {
    "predict": "predict --model {id} --battles {b} --output {o}/p.parquet --limit 3",
    "prompt show": "prompt show --model {id}",
    "prompt check": "prompt check --model {id} --battles {b} --limit 3",
    "audit": "audit {b} --model {id} --output {o}/audit",
    "merge": "merge {id} {id} --output {o}/mean",
    "export": "export --model {id} --output {o}/x --limit 2",
    "judge": "judge --model {id} --prompt P --response-a A --response-b B",
    "best-of-n": "best-of-n {c} --model {id} --output {o}/best.jsonl",
    "preference-pairs": "preference-pairs {c} --model {id} --output {o}/p.jsonl --min-margin 0 --keep-disagreements",
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_takes_a_judge_by_its_id_and_revision(stage, hub, synthetic_file, tmp_path, monkeypatch):
    candidates = written(tmp_path / "c.jsonl", [{"prompt": f"why {n}", "candidates": ANSWERS} for n in range(3)])
    names = {"b": synthetic_file, "o": tmp_path, "c": candidates, "id": "me/judge@soft"}
    assert main(STAGES[stage].format(**names).split()) == 0
    commit = hub.repos["me/judge"].refs["soft"]
    assert any("soft" in path or commit in path for _, path in hub.requests)
    made = list(tmp_path.rglob("*manifest.json"))
    assert all(commit in path.read_text() for path in made)
    assert not [path for path in made if "cache" in path.parts] and bool(made) == ("{o}" in STAGES[stage])


def test_no_stage_takes_a_judge_by_its_folder_alone():
    """But those that write to the folder, and those of plain models, whose ids are kept; `serve` resolves its own."""
    others = {
        stage
        for stage in registry.STAGES
        if stage != "train"
        for action in judges_of(stage)
        if action.type is not judge_path
    }
    assert others == {"calibrate", "push", "untrained", "serve"}


def judges_of(stage) -> list:
    """The arguments of a stage that name a judge."""
    return [
        action for action in registry.stage_parser(stage)._actions if action.dest in ("model", "models", "model_b")
    ]


def test_serving_takes_an_id_and_is_called_by_it(hub, monkeypatch):
    seen = []
    server = pytest.importorskip("sft_judge.inference.serving.server")
    monkeypatch.setattr(server, "serve", lambda settings: seen.append(settings) or True)
    assert main(["serve", "--model", "me/judge@soft"]) == 0
    assert seen[0].name == "me/judge" and read_spec(seen[0].model).calibration == SOFT


def test_a_revision_is_named_in_either_way_and_is_the_judge_that_is_read(hub, judge):
    plain, soft = Judge.load(judge).judge(*ASKED), Judge.load("me/judge", revision="soft").judge(*ASKED)
    assert plain == Judge.load("me/judge").judge(*ASKED) != soft
    commit = hub.repos["me/judge"].refs["soft"]
    assert soft == Judge.load("me/judge@soft").judge(*ASKED) == Judge.load(f"me/judge@{commit}").judge(*ASKED)
    assert name_of(judge_folder("me/judge@soft")) == f"me/judge@{commit}"
    for wrong, revision in ((str(judge), "soft"), ("me/judge@soft", "main")):
        with pytest.raises(InputError, match="revision"):
            Judge.load(wrong, revision=revision)


def test_what_is_in_the_cache_is_read_without_a_network(hub, tmp_path):
    root, code = str(ROOT), f"from sft_judge import Judge; print(Judge.load('me/judge').judge(*{ASKED}))"
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": root, **hub.environment(tmp_path / "fresh", token=None)}
    for more in ({}, {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}):
        run = [sys.executable, "-c", code]
        done = subprocess.run(run, capture_output=True, text=True, env={**env, **more}, cwd=tmp_path)
        assert done.stdout == f"{Judge.load('me/judge').judge(*ASKED)}\n", done.stderr


def test_a_local_judge_in_python_says_nothing_on_standard_error(judge, tmp_path):
    code = f"from sft_judge import Judge; print(Judge.load({str(judge)!r}).judge(*{ASKED}))"
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.stdout.startswith("Judgement(a=") and done.stderr == ""


def test_probs_of_a_hub_judge_find_it_in_the_cache_wherever_they_are(hub, synthetic_file, tmp_path):
    assert predict("me/judge@soft", synthetic_file, tmp_path / "p.parquet", "--limit", "3") == 0
    (tmp_path / "far" / "away").mkdir(parents=True)
    moved = shutil.move(tmp_path / "p.parquet", tmp_path / "far" / "away" / "p.parquet")
    folder = find_judge(read_probs(moved).metadata, moved)
    assert read_spec(folder).calibration == SOFT
    shutil.rmtree(tmp_path / "cache")
    hub.requests.clear()
    assert find_judge(read_probs(moved).metadata, moved) is None and hub.requests == []


def test_a_plain_models_weights_stay_on_the_hub_where_its_prompt_is_looked_at(hub, judge, tmp_path, capsys):
    plain = {file.name: file.read_bytes() for file in judge.iterdir() if file.name != "judge.json"}
    hub.repos["me/plain"] = Repo()
    hub.repos["me/plain"].add("main", plain)
    assert main(["prompt", "show", "--model", "me/plain", "--template", "compact"]) == 0
    refuses(
        ["judge", "--model", "me/plain", *"--prompt P --response-a A --response-b B".split()],
        2,
        "no judge.json",
        tmp_path,
        capsys,
    )
    assert not [path for _, path in hub.requests if path.endswith(".safetensors")]


def test_a_hub_judge_is_not_written_to(hub, synthetic_file, tmp_path, capsys):
    assert predict("me/judge", synthetic_file, tmp_path / "p.parquet", "--limit", "3") == 0
    for model in ("me/judge", judge_folder("me/judge")):
        words = ["calibrate", "--probs", tmp_path / "p.parquet", "--battles", synthetic_file, "--model", model]
        refuses([str(word) for word in words], 2, "which `calibrate` does not change", tmp_path, capsys)
    words = ["verify", "me/judge", "me/judge@soft", "--battles", synthetic_file, "--engines", "transformers"]
    assert main([str(word) for word in [*words, "--limit", "8"]]) == 0
    assert not list((tmp_path / "cache").rglob("*manifest.json"))


def test_a_pipeline_looks_at_the_cache_alone_to_tell_whether_a_step_is_done(hub, synthetic_file, tmp_path):
    words = f"--model me/judge --battles {synthetic_file} --output {tmp_path}/p.parquet --limit 3"
    step = Step("predict", "predict", words.split())
    assert not up_to_date(step) and hub.requests == []
    assert main(["predict", *step.argv]) == 0
    hub.requests.clear()
    assert up_to_date(step) and hub.requests == []
    shutil.rmtree(tmp_path / "cache")
    assert not up_to_date(step) and hub.requests == []


UNHAD = {
    "a name that nobody has": ("me/nobody", "no repository of this name is accessible to you"),
    "a misspelt folder": ("runs/nobody", "not a local folder"),
    "a revision that is not there": ("me/judge@v9", "it has no revision 'v9'"),
    "a licence to accept": ("me/gated", "it is gated. Accept its licence at https://huggingface.co/me/gated"),
    "no id": ("me/ju dge", "Repo id must use alphanumeric"),
    "a folder that is not there": ("./nobody", "no judge.json"),
}


@pytest.mark.parametrize("case", UNHAD)
def test_a_judge_that_cannot_be_had_is_one_line(case, hub, synthetic_file, tmp_path, capsys):
    hub.put("me/gated", judge__json="{}")
    hub.repos["me/gated"].gated = True
    model, why = UNHAD[case]
    words = ["predict", "--model", model, "--battles", str(synthetic_file), "--output", str(tmp_path / "p.parquet")]
    refuses(words, 2, why, tmp_path, capsys)
    with pytest.raises(ValueError, match=re.escape(why)):
        Judge.load(model)


def test_a_gated_model_whose_config_is_read_is_one_line_with_what_to_do(hub, tmp_path, capsys):
    hub.put("me/gated", config__json="{}")
    hub.repos["me/gated"].gated = True
    words = ["base", "--like", "me/gated", "--output", str(tmp_path / "base")]
    refuses(words, 2, "Accept its licence at https://huggingface.co/me/gated, then log in", tmp_path, capsys)


def test_without_a_network_and_a_cache_it_is_one_line(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    words = ["judge", "--model", "me/other", *"--prompt P --response-a A --response-b B".split()]
    refuses(words, 2, "not available from the Hub", tmp_path, capsys)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refuses(words, 2, "not available from the Hub", tmp_path, capsys)
