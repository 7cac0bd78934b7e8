"""Battles to be scored are read in batches, and are the same battles."""

from functools import partialmethod

import numpy as np
import pyarrow as pa
import pytest

from sft_judge.core.errors import InputError
from sft_judge.data.battles import BattleFile, read_battles, write_battles
from sft_judge.inference.jobs import open_jobs


@pytest.fixture(params=["parquet", "jsonl"])
def file(request, synthetic_table, tmp_path):
    """Sixty battles, read seven at a time."""
    path = tmp_path / f"battles.{request.param}"
    write_battles(path, synthetic_table.slice(0, 60))
    return path


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(BattleFile, "batches", partialmethod(BattleFile.batches, size=7))


@pytest.mark.parametrize(
    "calls",
    [
        [range(60)],
        [range(10), range(10, 31), range(31, 60)],
        [[3], [3, 59], [0, 6, 7, 13, 14], [5]],
        [range(0, 60, 2), range(1, 60, 2)],
    ],
)
def test_rows_that_are_read_in_batches_are_the_files_rows(file, tmp_path, calls):
    (job,) = open_jobs([file], [tmp_path / "probs.parquet"], None, None)
    whole = read_battles(file)
    for indices in calls:
        assert job.read(np.array(indices)).to_pylist() == whole.take(list(indices)).to_pylist()


def test_a_fold_and_a_limit_keep_the_same_rows_as_of_the_whole_table(file, tmp_path):
    (job,) = open_jobs([file], [tmp_path / "probs.parquet"], 1, 9)
    rows = read_battles(file)
    expected = rows.filter(pa.compute.equal(rows["fold"], 1)).slice(0, 9)
    assert expected.num_rows > 5
    assert job.read(np.arange(expected.num_rows)).to_pylist() == expected.to_pylist()
    assert job.battles["id"].to_pylist() == expected["id"].to_pylist()


def test_texts_are_not_held(file, tmp_path):
    (job,) = open_jobs([file], [tmp_path / "probs.parquet"], None, None)
    assert not {"prompt", "response_a", "response_b"} & set(job.battles.column_names)
    held = sum(
        buffer.size
        for column in job.battles.columns
        for chunk in column.chunks
        for buffer in chunk.buffers()
        if buffer
    )
    assert held < 2 * job.battles.nbytes + 4096  # nor by a slice of a batch
    assert job.read(np.array([30])).num_rows == 1 and job._batch.num_rows == 7


def test_a_bad_last_row_is_found_before_anything_is_scored(synthetic_table, tmp_path):
    path = tmp_path / "battles.parquet"
    ids = [*synthetic_table["id"].to_pylist()[:-1], synthetic_table["id"][0].as_py()]
    write_battles(path, synthetic_table.set_column(0, "id", pa.array(ids)))
    with pytest.raises(InputError, match="is in more than one row"):
        open_jobs([path], [tmp_path / "probs.parquet"], None, None)
