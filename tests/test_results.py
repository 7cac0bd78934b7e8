"""`make results`: what of the README it makes again, and what it says of figures that moved."""

import importlib.util
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def results():
    spec = importlib.util.spec_from_file_location("results", ROOT / "scripts" / "results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_make_knows_results_and_a_page_has_a_place_for_each_source(results):
    assert "\nresults: setup" in (ROOT / "Makefile").read_text()
    for name in results.COMMANDS:
        text = results.PAGE.get(name, results.SYNTHETIC).read_text()
        new, old = results.replaced(text, name, "| x |\n")
        assert results.replaced(new, name, old) == (text, "| x |\n")


def test_a_figure_is_held_against_the_same_cell_of_before(results):
    columns = ["", "log loss", "accuracy"]
    old = [["moved", "0.90 [0.80, 1.00]", "50.0 % [40.0, 60.0]"], ["gone", "1.00 [0.90, 1.10]", "–"]]
    new = [["moved", "1.10 [1.00, 1.20]", "59.0 % [50.0, 69.0]"], ["fresh", "3.00 [2.90, 3.10]", "–"]]
    filled = [["moved", "–", "50.0 % [40.0, 60.0]"]]
    tables = ["\n".join(results.markdown(columns, rows)) for rows in (old, new, filled)]
    assert results.differing(*tables[:2]) == ["gone: gone", "moved: log loss 1.10 [1.00, 1.20], was 0.90 [0.80, 1.00]"]
    assert results.differing(tables[2], tables[0]) == []  # a new figure in a cell that was empty is none that moved
    assert results.differing("", tables[0]) == []
