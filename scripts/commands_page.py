"""
Write docs/reference/commands.md, every command with its arguments, from the argument parsers.

    python scripts/commands_page.py

The settings of `train` are on a page of their own: see settings_page.py.
"""

import argparse
from pathlib import Path

from sft_judge.core.registry import GROUPS, stage_module, stage_parser

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "commands.md"
TITLE = """# Commands

`sft-judge COMMAND --help` prints the same. Most commands take `--limit N` for a quick try. Each leaves a
[manifest](files.md#manifests) beside its output, and ends with an [exit status](files.md#exit-status) that says what
happened.

Made by `python scripts/commands_page.py`.
"""
OWN_PAGE = {"train": "The settings, each `--key value`, are under [Settings of a training](settings.md)."}


def page() -> str:
    """Return the page's text: an overview by group, then a section for each command."""
    parts = [TITLE]
    for group, stages in GROUPS.items():
        rows = [f"| [`{stage}`](#{stage}) | {_cell(help_)} |" for stage, (_, help_) in stages.items()]
        parts.append("\n".join([f"**{group}**\n", "| command | does |", "| --- | --- |", *rows, ""]))
    parts += [section(stage) for stages in GROUPS.values() for stage in stages]
    return "\n".join(parts)


def section(stage: str) -> str:
    """Return the section of one command: what it does, an example, and a table of its arguments."""
    module, parser = stage_module(stage), stage_parser(stage)
    lines = [f"## {stage}", "", "```text", parser.description, "```", "", "```text", module.EXAMPLE, "```", ""]
    rows = [f"| {_name(action)} | {_cell(_help(action))} |" for action in _arguments(parser)]
    lines += ["| argument | meaning |", "| --- | --- |", *rows, ""] if rows else []
    return "\n".join(lines + ([OWN_PAGE[stage], ""] if stage in OWN_PAGE else []))


def _arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return the parser's arguments, those of subcommands included, without --help and hidden ones."""
    found = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                found += [argparse.Action([], name, help=f"**`{parser.prog.split()[-1]} {name}`**"), *_arguments(sub)]
        elif not isinstance(action, argparse._HelpAction) and action.help != argparse.SUPPRESS:
            found.append(action)
    return found


def _name(action: argparse.Action) -> str:
    """Return an argument as it is written, with its value or the values to choose from."""
    value = action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else None)
    value = " ".join(value) if isinstance(value, tuple) else value
    if not action.option_strings:
        return f"`{value or action.dest}`"
    takes = "" if action.nargs == 0 else f" {value or action.dest.upper()}"
    several = " ..." if action.nargs in ("+", "*") else ""
    return f"`{', '.join(action.option_strings)}{takes}{several}`".replace("|", "\\|")


def _help(action: argparse.Action) -> str:
    required = "required" if action.required and action.option_strings else ""
    return "; ".join(filter(None, ((action.help or "").replace("%%", "%"), required)))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
