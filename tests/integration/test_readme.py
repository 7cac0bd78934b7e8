"""The README's commands, word for word, on a few synthetic battles and a tiny base; only the training is cut short."""

import re
import shlex
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sft_judge.cli import main
from sft_judge.pipelines.pipeline import Step, run_steps

pytestmark = pytest.mark.engine
ROOT = Path(__file__).parents[2]


def commands() -> list[list[str]]:
    """The command lines under "One command each", continuation lines joined."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## One command each")[1]
    block = re.search(r"```\n(.*?)```", section, re.DOTALL)[1].replace("\\\n", " ")
    return [shlex.split(line) for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the README takes as given: a competition's files, held-out battles with verdicts, a base model."""
    folder = tmp_path_factory.mktemp("readme")
    assert (
        main(["plant", "--output", str(folder / "planted"), *"--rows 60 --test-rows 40 --shifted-rows 10".split()])
        == 0
    )
    for name in ("train.csv", "test.csv", "sample_submission.csv"):
        shutil.copy(folder / "planted" / name, folder / name)
    assert main(["import", str(folder / "test.csv"), "--output", str(folder / "test.parquet")]) == 0
    held_out = str(folder / "heldout.parquet")
    assert main(["plant", "--output", str(folder / "more"), *"--rows 50 --test-rows 1 --seed 9".split()]) == 0
    assert main(["import", str(folder / "more/train.csv"), "--output", held_out]) == 0
    base = ["base", "--family", "qwen2", "--battles", held_out, "--output", str(folder / "BASE"), "--vocab", "1200"]
    assert main([*base, "--prompt-template", "compact"]) == 0
    return folder


def test_the_commands_of_the_readme_run_one_after_another(folder, monkeypatch):
    monkeypatch.chdir(folder)
    lines = commands()
    assert len(lines) >= 12
    steps = []
    for words in lines:
        assert words[0] == "sft-judge"
        short = {"train": ["--max_steps", "2"], "quantize": ["--nsamples", "8", "--iters", "2"]}.get(words[1], [])
        words = [str(ROOT / word) if word.startswith("recipes/") else word for word in words[1:]]
        steps.append(Step(" ".join(words), words[0], [*words[1:], *short]))
    assert run_steps(steps, set(), folder / "lock") == 0
    assert len((folder / "submission.csv").read_text().splitlines()) == 41
    assert pq.read_table(folder / "heldout-probs.parquet").num_rows == 100
    assert (folder / "report/report.html").stat().st_size > 10_000
