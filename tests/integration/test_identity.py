"""A judge's numbers through the command line: the same from any folder on any day, or one line that says why."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from helpers.training_runs import RECIPE, refuses
from sft_judge.cli import main
from sft_judge.data.probs import read_probs
from sft_judge.modeling.judge_spec import read_spec

DATED = "{{ strftime_now('%Y-%m-%d %H:%M:%S.%f') }}\n"


@pytest.fixture(scope="module")
def tree(bases, synthetic_file, tmp_path_factory):
    """A tree with a base under a name of one slash, battles and a recipe, as a user would have them."""
    folder = tmp_path_factory.mktemp("tree")
    shutil.copytree(bases["qwen2"], folder / "models" / "qwen")
    shutil.copy(synthetic_file, folder / "battles.parquet")
    (folder / "recipe.yaml").write_text(RECIPE.replace("max_steps: 6", "max_steps: 2"))
    return folder


def train(tree, output, *more):
    words = ["--config", "recipe.yaml", "--model_name_or_path", "models/qwen", "--battles", "battles.parquet"]
    return main(["train", *words, "--output_dir", output, *more])


def make_base(tree, output):
    return main(["base", "--family", "qwen2", "--battles", str(tree / "battles.parquet"), "--output", str(output)])


def predict(model, output):
    return main(["predict", "--model", str(model), "--battles", "battles.parquet", "--output", str(output)])


@pytest.fixture(scope="module")
def judge(tree):
    """An adapter trained from within the tree, by relative paths, on a chat template that prints the time."""
    template = (tree / "models" / "qwen" / "chat_template.jinja").read_text()
    (tree / "dated.jinja").write_text(DATED + template)
    here = os.getcwd()
    os.chdir(tree)
    try:
        assert train(tree, "judge", "--chat_template_path", "dated.jinja") == 0
        assert predict("judge", "probs.parquet") == 0
    finally:
        os.chdir(here)
    return tree / "judge"


def test_a_judge_gives_equal_bits_from_another_folder_copy_user_and_day(judge, tree, tmp_path, monkeypatch):
    expected = read_probs(tree / "probs.parquet").logp
    monkeypatch.chdir(tmp_path)
    shutil.copy(tree / "battles.parquet", tmp_path)
    assert predict(judge, "from-outside.parquet") == 0
    shutil.copytree(tree, tmp_path / "copy")
    moved = tmp_path / "moved"
    tree.rename(moved)  # nothing of the first place is left
    try:
        assert predict(tmp_path / "copy" / "judge", "of-copy.parquet") == 0
    finally:
        moved.rename(tree)
    script = "import datetime, sys\nimport transformers.utils.chat_template_utils as c\n"
    script += "class D(datetime.datetime):\n    now = classmethod(lambda s, tz=None: s(2031, 2, 3))\nc.datetime = D\n"
    script += "from sft_judge.cli import main\nsys.exit(main(sys.argv[1:]))"
    words = ["predict", "--model", str(judge), "--battles", "battles.parquet", "--output", "later.parquet"]
    subprocess.run([sys.executable, "-c", script, *words], check=True)
    for name in ("from-outside", "of-copy", "later"):
        np.testing.assert_array_equal(read_probs(tmp_path / f"{name}.parquet").logp, expected)
    assert "2024-07-26" in read_spec(judge).frame["text"]
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in judge.iterdir())  # for another user


def test_a_judge_trained_on_another_template_reads_it_too(judge, tree):
    assert (judge / "chat_template.jinja").read_text() == (tree / "dated.jinja").read_text()
    assert read_spec(judge).frame["text"].startswith("2024-07-26 00:00:00")


def test_another_base_in_the_same_place_is_refused_and_begun_work_is_not_gone_on_with(judge, tree, tmp_path, capsys):
    shutil.copytree(tree, tmp_path / "copy")
    copy = tmp_path / "copy"
    assert make_base(tree, copy / "b") == 0
    shutil.rmtree(copy / "models" / "qwen")
    (copy / "b").rename(copy / "models" / "qwen")
    settings = json.loads((copy / "judge" / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(copy / "models" / "qwen")
    (copy / "judge" / "adapter_config.json").write_text(json.dumps(settings))
    for words in (
        ["predict", "--battles", str(tree / "battles.parquet"), "--output", str(tmp_path / "p.parquet"), "--model"],
        ["verify", "--battles", str(tree / "battles.parquet")],
        ["merge", "--output", str(tmp_path / "merged")],
        ["judge", "--prompt", "p", "--response-a", "a", "--response-b", "b", "--model"],
    ):
        refuses([*words, str(copy / "judge")], 2, "trained on another base than", tmp_path, capsys)


def test_a_revision_of_a_folder_is_refused(tree, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tree)
    before = set(os.listdir(tree))
    capsys.readouterr()
    assert train(tree, "no", "--model_revision", "no-such-tag") == 2
    assert "a folder, which has no revisions" in capsys.readouterr().err
    assert set(os.listdir(tree)) == before


def test_a_base_from_the_hub_is_bound_to_its_commit(tree, tmp_path, monkeypatch, capsys):
    """A cache of the hub's own layout with two commits; offline, as nothing may be asked for."""
    cache, commit = tmp_path / "hub" / "models--some--model", "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(tree / "models" / "qwen", cache / "snapshots" / commit)
    other = "f" * 40
    assert make_base(tree, cache / "snapshots" / other) == 0
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(other)
    (cache / "refs" / "v1").write_text(commit)
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}[name])
    monkeypatch.chdir(tree)
    script = "import sys\nfrom sft_judge.cli import main\nsys.exit(main(sys.argv[1:]))"

    def run(*words):  # in a process of its own: huggingface_hub reads the environment once
        return subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)

    given = ["--config", "recipe.yaml", "--battles", "battles.parquet", "--model_name_or_path", "some/model"]
    done = run("train", *given, "--output_dir", str(tmp_path / "j"), "--model_revision", "v1")
    assert done.returncode == 0, done.stderr
    settings = json.loads((tmp_path / "j" / "adapter_config.json").read_text())
    assert (settings["base_model_name_or_path"], settings["revision"]) == ("some/model", commit)
    words = ["--battles", "battles.parquet", "--output", str(tmp_path / "j.parquet")]
    assert run("predict", "--model", str(tmp_path / "j"), *words).returncode == 0
    assert train(tree, str(tmp_path / "k")) == predict(tmp_path / "k", tmp_path / "k.parquet") == 0
    logp = [read_probs(tmp_path / f"{name}.parquet").logp for name in ("j", "k")]
    np.testing.assert_array_equal(*logp)  # the commit of v1, though the main branch is another by now
    missing = run("train", *given, "--output_dir", str(tmp_path / "no"), "--model_revision", "no-such-tag")
    assert missing.returncode == 2 and "some/model at revision no-such-tag" in missing.stderr
    assert missing.stderr.count("\n") == 1
