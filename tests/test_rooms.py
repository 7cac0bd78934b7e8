"""The package is built of rooms: which of them a room may import, and that none imports in a circle."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit
PACKAGE = Path(__file__).parents[1] / "sft_judge"
MODELS = {"core", "data", "modeling"}
JUDGES = {*MODELS, "prompts", "inference"}
MAY_IMPORT = {
    "core": set(),
    "data": {"core"},
    "modeling": {"core"},
    "prompts": MODELS,
    "inference": {*MODELS, "prompts"},
    "evaluation": JUDGES,
    "training": {*JUDGES, "evaluation"},
    "conversion": {*JUDGES, "evaluation", "training"},
    "ranking": {*MODELS, "inference", "evaluation"},
    "pipelines": {*JUDGES, "evaluation", "training", "conversion", "cli"},  # the cli's main starts a step
}
MAY_IMPORT["commands"] = set(MAY_IMPORT)
TOP = {"__init__", "__main__", "cli", "client", "rewards"}


def module_of(file: Path) -> str:
    parts = ("sft_judge", *file.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def imports_of(module: str) -> dict[str, int]:
    """The package's modules that a module imports, at its top and within functions, each with a line."""
    found = {}
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{FILES[module]}:{node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            while name.startswith("sft_judge") and name not in FILES:
                name = name.rpartition(".")[0]
            if name in FILES and name != module:
                found.setdefault(name, node.lineno)
    return found


def room_of(module: str) -> str:
    """The room of a module, or its own name where it stands at the top."""
    return (module.split(".") + ["__init__"])[1]


IMPORTS = {module: imports_of(module) for module in FILES}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_the_rooms_it_may(room):
    assert not [
        f"{FILES[module]}:{line} imports {other}"
        for module in FILES
        if room_of(module) == room
        for other, line in IMPORTS[module].items()
        if room_of(other) not in {room, *MAY_IMPORT[room]}
    ]


def test_no_modules_import_one_another_in_a_circle():
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_every_module_stands_in_a_room_or_is_one_of_the_five_at_the_top():
    assert {room_of(module) for module in FILES} == {*MAY_IMPORT, *TOP}


def test_every_room_says_in_a_docstring_what_it_is_for():
    rooms = [folder for folder in PACKAGE.rglob("*") if any(folder.glob("*.py"))]
    assert len(rooms) > len(MAY_IMPORT)
    assert not [room for room in rooms if not ast.get_docstring(ast.parse((room / "__init__.py").read_text()))]
