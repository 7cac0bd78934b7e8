"""Unfinished predictions: a folder is of one command at a time, however slow another one is."""

import numpy as np
import pytest

from sft_judge.core.errors import InputError
from sft_judge.inference.shards import RowWork, Work, add_runtime

pytestmark = pytest.mark.unit


def test_a_command_whose_folder_became_anothers_writes_no_more(tmp_path):
    slow = Work(tmp_path / "w", "old")
    slow.save(0, slice(0, 2), np.zeros((2, 1, 3)))
    Work(tmp_path / "w", "new").save(0, slice(2, 4), np.ones((2, 1, 3)))
    with pytest.raises(InputError, match="has taken over this folder"):
        slow.save(0, slice(4, 6), np.zeros((2, 1, 3)))
    assert [file.name for file in sorted((tmp_path / "w" / "judge-0").iterdir())] == ["000000002.npy"]


def test_the_same_holds_for_rows_against_a_deadline(tmp_path):
    slow = RowWork(tmp_path / "w", "old", np.full((4, 2, 3), np.nan))
    RowWork(tmp_path / "w", "new", np.full((4, 2, 3), np.nan))
    with pytest.raises(InputError, match="has taken over this folder"):
        slow.add(np.array([0]), ("ab",), np.zeros((1, 1, 3)))


def test_another_engine_or_library_is_another_run(monkeypatch):
    before = add_runtime("x", "transformers")
    assert before == add_runtime("x", "transformers") != add_runtime("x", "vllm")
    monkeypatch.setattr("sft_judge.inference.shards.versions", lambda: {"torch": "0"})
    assert before != add_runtime("x", "transformers")
