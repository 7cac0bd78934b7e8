"""
Prompt templates and recipes by name or by path.

An existing path takes precedence, then the folders `prompts/` and `recipes/` of the checkout, then the copies inside
the wheel.
"""

from pathlib import Path

from sft_judge.core.errors import InputError, nearest

_PACKAGE = Path(__file__).parent.parent
SUFFIXES = {"prompts": ".jinja", "recipes": ".yaml"}


def find_resource(kind: str, name: str) -> Path:
    """
    Return the file of a prompt template or a recipe.

    Args:
        kind: "prompts" or "recipes".
        name: a path, or a name such as "pair", "demo/teacher" or "recipes/demo/teacher.yaml".

    Raises:
        InputError: there is no such file; the message suggests the nearest name.
    """
    suffix = SUFFIXES[kind]
    if Path(name).is_file():
        return Path(name)
    files = {}
    for folder in (_PACKAGE.parent / kind, _PACKAGE / "resources" / kind):
        for file in sorted(folder.rglob(f"*{suffix}")):
            files.setdefault(file.relative_to(folder).with_suffix("").as_posix(), file)
    short = name.removeprefix(f"{kind}/").removesuffix(suffix)
    if short not in files:
        raise InputError(f"{name}: no such file, and no file of {kind} has this name.{nearest(short, files)}")
    return files[short]
