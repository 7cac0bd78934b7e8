"""
Write docs/settings.md: what becomes of each key of a recipe, from training/settings_table.py and config.py.

    python scripts/settings_page.py
"""

from dataclasses import fields
from pathlib import Path

from sft_judge.training.config import JudgeConfig, JudgeModelConfig
from sft_judge.training.settings_table import MODEL, REFUSED, TRAINING, USED, Setting

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
TITLE = """# Settings of a training

Every key of a recipe, each also `--key value` on the command line. *Used*: by sft_judge itself. *Passed on*: to TRL,
transformers or PEFT, whose documentation says what it does. *Refused*: in one line, before anything is loaded, where
it is set to anything but its default. A key that does nothing for want of another one is named when a run starts.

Made by `python scripts/settings_page.py` from `sft_judge/training/settings_table.py`.
"""


def page() -> str:
    """The page's text: the judge's own keys, then TRL's."""
    own = [item for kind in (JudgeConfig, JudgeModelConfig) for item in fields(kind) if item.name in _own(kind)]
    lines = [_line(item.name, Setting(USED, item.metadata["help"])) for item in own]
    parts = [TITLE, "## The judge's own\n", _table(lines)]
    for title, table, kind in (("SFTConfig", TRAINING, JudgeConfig), ("ModelConfig", MODEL, JudgeModelConfig)):
        helps = {item.name: item.metadata["help"] for item in fields(kind) if item.name in kind.__annotations__}
        lines = [_line(name, setting, helps.get(name, "")) for name, setting in table.items()]
        parts += [f"## TRL's {title}\n", _table(lines)]
    return "\n".join(parts)


def _own(kind: type) -> set[str]:
    return {*kind.__annotations__} - {*TRAINING, *MODEL}


def _table(lines: list[str]) -> str:
    return "\n".join(["| key | becomes | remark |", "| --- | --- | --- |", *lines, ""])


def _line(name: str, setting: Setting, description: str = "") -> str:
    remark = setting.remark or description
    if setting.needs:
        remark = "; ".join(filter(None, (remark, f"with {setting.needs}")))
    if setting.handling == REFUSED and setting.allowed:
        remark += f" ({', '.join(repr(value) for value in setting.allowed)} may stand)"
    return f"| `{name}` | {setting.handling} | {remark.replace('|', ' or ')} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
