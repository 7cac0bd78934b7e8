"""The documents point at what is there, show commands that are taken, and become a site."""

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from sft_judge.core.registry import parse
from sft_judge.modeling.judge_spec import Budget
from sft_judge.modeling.loading import load_tokenizer
from sft_judge.pipelines.pipeline import read_pipeline, steps_of
from sft_judge.prompts.prompt import JudgePrompt
from sft_judge.prompts.verdict_tokens import choose_verdict_words

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES, *sorted(ROOT.glob("scripts/**/*.md"))]
by_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())


def anchors(text: str) -> set[str]:
    """The anchors that a page's headings have on GitHub and on the site."""
    return {re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-") for line in text.splitlines()}


@by_document
def test_a_link_leads_to_a_file_or_a_heading(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        place, _, anchor = target.partition("#")
        page = document.parent / place if place else document
        assert page.exists(), target
        assert not anchor or anchor in anchors(page.read_text(encoding="utf-8")), target


@by_document
def test_a_command_that_is_shown_is_one_that_its_stage_takes(document, monkeypatch):
    monkeypatch.chdir(ROOT)  # recipes are named from there
    blocks = re.findall(r"^```(?:bash|text)?\n(.*?)^```", document.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    for line in lines:
        if line.startswith("sft-judge ") and "$" not in line:
            _, stage, *words = shlex.split(line, comments=True)
            assert parse(stage, words)


def blocks_of(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_template_of_the_page_on_prompts_renders(bases):
    (template,) = blocks_of("explanation/prompt.md", "jinja")
    tokenizer = load_tokenizer(str(bases["gemma2"]))
    prompt = JudgePrompt(tokenizer, template, choose_verdict_words(tokenizer, template, 3), Budget())
    battle = {"prompt": ["one?", "two?"], "response_a": ["1", "2"], "response_b": ["3", "4"], "language": None}
    ((ids,),) = prompt.encode([battle], ("ab",))
    assert all(part in tokenizer.decode(ids) for part in ("<Question>", "two?", "<Answer_B>"))


def test_the_pipeline_of_its_guide_is_read_and_its_steps_are_commands(tmp_path):
    (text,) = blocks_of("guides/pipelines.md", "yaml")
    (tmp_path / "mine.yaml").write_text(text)
    file = tmp_path / "mine.yaml"
    steps = steps_of(read_pipeline(file), file)
    assert [step.stage for step in steps] == ["import", "prepare", *["train"] * 5, "predict"]
    for step in steps:
        assert parse(step.stage, step.argv)


def test_every_page_is_in_the_menu_of_the_site():
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page.name for page in PAGES if f": {page.relative_to(ROOT / 'docs').as_posix()}\n" not in menu] == []


def test_the_reference_of_commands_is_that_of_the_parsers(monkeypatch):
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import commands_page
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    assert commands_page.PAGE.read_text(encoding="utf-8") == commands_page.page(), "python scripts/commands_page.py"


@pytest.mark.skipif(find_spec("mkdocs") is None, reason="mkdocs is not installed")
def test_the_site_is_built_without_a_network_and_asks_for_nothing_outside(tmp_path):
    """Strict: a link or an anchor that leads nowhere is an error."""
    nowhere = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **nowhere}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len(PAGES)
    for page in pages:
        loaded = re.findall(r'<(?:script|img|link)[^>]*(?:src|href)="(https?://[^"]+)"', page.read_text("utf-8"))
        assert loaded == [], page.name
