"""Drawn recipes end in a judge or in one line that is said before the model is loaded: never in a traceback."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "fuzz_recipes.py"


@pytest.fixture
def script(monkeypatch):
    for name, value in (("HF_HUB_OFFLINE", "1"), ("WANDB_MODE", "disabled")):
        monkeypatch.setenv(name, value)
    spec = importlib.util.spec_from_file_location("fuzz_recipes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.engine
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [30, pytest.param(100, marks=pytest.mark.full)])
def test_drawn_recipes_are_used_or_refused_in_one_line(number, script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    script.make_inputs(Path("."))
    finds = []

    def report(recipe, outcome, text):
        if outcome not in (script.USED, script.REFUSED, script.STOPPED):
            finds.append((outcome, recipe, text))

    outcomes = script.fuzz(number, None, Path("."), report)
    assert not finds
    assert outcomes[script.USED] > number / 10 and outcomes[script.REFUSED] > number / 10


@pytest.mark.unit
def test_the_fuzz_sees_a_traceback_and_a_late_refusal(script, tmp_path, monkeypatch):
    """Its own check: without one that finds nothing proves nothing."""
    from sft_judge.core.errors import InputError

    def late(*_):
        raise InputError("late")

    def broken(*_):
        raise TypeError("broken")

    monkeypatch.chdir(tmp_path)
    script.make_inputs(Path("."))
    for failing, outcome in ((broken, "traceback"), (late, "refused after the model was loaded or a file written")):
        monkeypatch.setattr(script.training, "load_base", failing)
        assert script.try_recipe(script.BASE, Path("."))[0] == outcome
