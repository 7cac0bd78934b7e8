"""Messages of the package as a command shows them: plain lines, warnings on standard error."""

import logging

import pytest

from sft_judge.core.logs import show_messages

pytestmark = pytest.mark.unit


def test_messages_go_to_standard_output_and_warnings_to_standard_error_once(capsys):
    show_messages()
    show_messages()
    logger = logging.getLogger("sft_judge.somewhere.deep")
    logger.info("as said")
    logger.warning("of note")
    logger.debug("too much")
    assert capsys.readouterr() == ("as said\n", "warning: of note\n")


def test_the_library_prints_nothing_itself():
    """Commands print, and the front door; the rest logs."""
    import ast
    from pathlib import Path

    package = Path(__file__).parents[2] / "sft_judge"
    printing = set()
    for file in package.rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(file.read_bytes())) if isinstance(node, ast.Call)]
        if any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls):
            printing.add(file.relative_to(package).parts[0])
    assert printing <= {"commands", "cli.py", "core"}
