"""
The commands of README.md and of the documentation, word for word, from an empty folder.

Blocks marked `bash` are run, and so is the README's Python. Models and data sets of the hub are tiny ones of the same
names on a hub of this machine. Training and tuning are cut short, nothing else.
"""

import json
import re
import shlex
from pathlib import Path

import pytest

from helpers.hub import FakeHub, Repo, use_hub
from sft_judge.cli import main

pytestmark = pytest.mark.engine
ROOT = Path(__file__).parents[2]
SHORT = {"train": ["--max_steps", "2"], "quantize": ["--nsamples", "8", "--iters", "2", "--tolerance", "1"]}
MODELS = ("Qwen/Qwen2.5-0.5B-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct")
WITH_MODELS_OF_THEIR_OWN = ("--plan", "--shrink")  # nothing to cut short, or done by the option itself


def commands(page: Path) -> list[list[str]]:
    """The command lines of a page's `bash` blocks, continuation lines joined."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


OFTEN = ("README", "laptop", "competition", "predict")  # pages that `make test` runs
PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if commands(page)]


@pytest.fixture(scope="module")
def hub(synthetic_rows, tmp_path_factory):
    """The hub of the documentation: two models, a data set of preferences and one of votes."""
    from sft_judge.modeling.tiny_models import make_base

    texts = [turn for row in synthetic_rows for name in ("prompt", "response_a", "response_b") for turn in row[name]]
    frame = (ROOT / "prompts/pair.jinja").read_text(encoding="utf-8")
    folder = tmp_path_factory.mktemp("hub") / "model"
    make_base(folder, "qwen2", [*texts, *[frame] * 100], vocab=1200, positions=8192)
    with FakeHub() as hub:
        for name in MODELS:
            hub.repos[name] = Repo()
            hub.repos[name].add("main", {file.name: file.read_bytes() for file in folder.iterdir()})
        hub.put("trl-lib/ultrafeedback_binarized", train__jsonl=lines(map(preference, synthetic_rows)))
        votes, files = lines(map(vote, synthetic_rows)), ("human", "gpt4_pair")
        splits = "".join(f"  - split: {name}\n    path: {name}.jsonl\n" for name in files)
        card = f"---\nconfigs:\n- config_name: default\n  data_files:\n{splits}---\n"
        hub.put("lmsys/mt_bench_human_judgments", README__md=card, human__jsonl=votes, gpt4_pair__jsonl=votes)
        yield hub


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def preference(row: dict) -> dict:
    """A row as trl-lib/ultrafeedback_binarized has them: two chats."""
    asked = {"role": "user", "content": row["prompt"][0]}
    answers = [{"role": "assistant", "content": row[name][0] or "-"} for name in ("response_a", "response_b")]
    return {"chosen": [asked, answers[0]], "rejected": [asked, answers[1]], "score_chosen": 8.0, "score_rejected": 2.0}


def vote(row: dict) -> dict:
    """A row as lmsys/mt_bench_human_judgments has them."""
    chats = {
        f"conversation_{side}": [
            {"role": role, "content": turn}
            for turns in zip(row["prompt"], row[f"response_{side}"], strict=True)
            for role, turn in zip(("user", "assistant"), turns, strict=True)
        ]
        for side in ("a", "b")
    }
    winner = {"a": "model_a", "b": "model_b"}.get(row["verdict"], "tie")
    names = {"question_id": int(re.sub(r"\D", "", row["id"]) or 0), "model_a": "x", "model_b": "y"}
    return {**names, "winner": winner, "judge": "expert_0", **chats, "turn": len(row["prompt"])}


def test_there_are_pages_with_commands():
    names = {page.relative_to(ROOT).as_posix() for page in PAGES}
    assert {"README.md", "docs/tutorials/laptop.md", "docs/tutorials/gpu.md", "docs/guides/distil.md"} <= names


@pytest.mark.parametrize(
    "page",
    [page if page.stem in OFTEN else pytest.param(page, marks=pytest.mark.full) for page in PAGES],
    ids=lambda page: page.stem,
)
def test_the_commands_of_a_page_run_from_an_empty_folder(page, hub, tmp_path, monkeypatch):
    use_hub(hub, tmp_path.parent / f"{page.stem}-cache", monkeypatch)
    monkeypatch.chdir(tmp_path)
    for program, stage, *words in commands(page):
        assert program == "sft-judge"
        short = [] if set(words) & set(WITH_MODELS_OF_THEIR_OWN) else SHORT.get(stage, [])
        assert main([stage, *words, *(short if not set(short) & set(words) else [])]) == 0, (stage, words)


def test_the_readmes_python_trains_a_judge_and_asks_it(hub, tmp_path, monkeypatch, capsys):
    use_hub(hub, tmp_path.parent / "python-cache", monkeypatch)
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    assert "Judgement(a=0." in capsys.readouterr().out
