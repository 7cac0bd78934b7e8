"""
Prompts and recipes by name or by path.

A path that exists wins; then the folders `prompts/` and `recipes/` of the checkout; then the copies inside the wheel.
"""

from pathlib import Path

from sft_judge.core.errors import InputError, nearest

_PACKAGE = Path(__file__).parent.parent
SUFFIXES = {"prompts": ".jinja", "recipes": ".yaml"}


def find_resource(kind: str, name: str) -> Path:
    """The file of a prompt template ("pair") or a recipe ("demo/teacher", "recipes/demo/teacher.yaml")."""
    suffix = SUFFIXES[kind]
    if Path(name).is_file():
        return Path(name)
    files = {}
    for folder in (_PACKAGE.parent / kind, _PACKAGE / "resources" / kind):
        for file in sorted(folder.rglob(f"*{suffix}")):
            files.setdefault(file.relative_to(folder).with_suffix("").as_posix(), file)
    short = name.removeprefix(f"{kind}/").removesuffix(suffix)
    if short not in files:
        raise InputError(f"{name}: no such file, and none of {kind} has that name.{nearest(short, files)}")
    return files[short]
