"""The documents point at what is there."""

import re
import shlex
from pathlib import Path

import pytest

from sft_judge.core.registry import parse

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("scripts/**/*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_link_leads_to_a_file_or_a_heading(document):
    text = document.read_text(encoding="utf-8")
    headings = {re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-") for line in text.splitlines()}
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif "://" not in target:
            assert (document.parent / target.split("#")[0]).exists(), target


def test_the_guides_are_all_named_in_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in (ROOT / "docs").glob("*.md") if f"docs/{path.name}" not in text] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_command_that_is_shown_is_one_that_its_stage_takes(document, monkeypatch):
    monkeypatch.chdir(ROOT)  # recipes are named from there
    blocks = re.findall(r"^```\n(.*?)^```", document.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    for line in lines:
        if line.removeprefix(".venv/bin/").startswith("sft-judge "):
            _, stage, *words = shlex.split(line, comments=True)
            assert parse(stage, words)
