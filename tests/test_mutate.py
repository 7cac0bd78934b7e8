"""scripts/mutate.py: each of its changes fits the code as it is, and names tests that are there."""

import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "scripts"))


def test_every_mutation_changes_one_place_and_names_tests_that_exist():
    import mutate

    every = mutate.mutations()
    assert len(every) >= 52
    for one in every:
        text = (mutate.PACKAGE / one.file).read_text(encoding="utf-8")
        assert text.count(one.old) == 1, (one.file, one.old)
        assert one.new != one.old and all((ROOT / test).exists() for test in one.tests.split())
