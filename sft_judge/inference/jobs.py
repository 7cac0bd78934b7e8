"""Battles files to score. Labels and folds stay in memory; texts are read in batches when they are needed."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from sft_judge.core.errors import InputError
from sft_judge.data.battles import BATTLES_PER_BATCH, FIELDS, BattleFile, open_battles, rows_of_fold, set_column
from sft_judge.data.preparing.language import language_detector, stated_language

PLACE = "place in the file"


@dataclass(eq=False)
class Job:
    """
    Hold one battles file that is scored into one probs file.

    Attributes:
        file: the battles file, already checked.
        output: the probs file.
        battles: all columns except the texts, of the rows to score [N].
        places: positions of these rows in the file [N], ascending.
    """

    file: BattleFile
    output: Path
    battles: pa.Table
    places: np.ndarray
    _batches: Iterator[pa.Table] | None = field(default=None, init=False)
    _batch: pa.Table | None = field(default=None, init=False)
    _start: int = field(default=0, init=False)  # row of the file at which _batch starts

    @property
    def languages(self) -> np.ndarray | None:
        """Return the languages of the prompts [N], or None if the battles have no such column."""
        if "language" not in self.battles.column_names:
            return None
        return np.array(self.battles["language"].to_pylist(), dtype=object)

    def fill_languages(self) -> None:
        """Detect the languages that the battles do not state, for a judge that shows them."""
        column = self.battles["language"] if "language" in self.battles.column_names else None
        if column is not None and all(stated_language({"language": name}) for name in column.to_pylist()):
            return
        detector, found = language_detector(), []
        for start in range(0, len(self.places), BATTLES_PER_BATCH):
            rows = self.read(np.arange(start, min(start + BATTLES_PER_BATCH, len(self.places))))
            found += [detector.fill(row) for row in rows.to_pylist()]
        self.battles = set_column(self.battles, "language", pa.array(found, pa.string()))

    def read(self, indices: np.ndarray) -> pa.Table:
        """
        Read battles with their texts.

        The file is read forward, and restarted only for rows before those of the last call. Calls should therefore be
        in ascending order.

        Args:
            indices: positions [R] among the rows to score, ascending.
        """
        left, parts = self.places[indices], []
        if self._batch is None or (len(left) and left[0] < self._start):
            self._batches, self._start = self.file.batches(), 0
            self._batch = next(self._batches)
        while True:
            here = left[left < self._start + self._batch.num_rows]
            parts.append(self._batch.take(here - self._start))
            left = left[len(here) :]
            if not len(left):
                return self._with_own_language(pa.concat_tables(parts), indices)
            self._start += self._batch.num_rows
            self._batch = next(self._batches)

    def _with_own_language(self, rows: pa.Table, indices: np.ndarray) -> pa.Table:
        if "language" not in self.battles.column_names:
            return rows
        return set_column(rows, "language", self.battles["language"].take(indices))


def open_jobs(battles: list[Path], outputs: list[Path], fold: int | None, limit: int | None) -> list[Job]:
    """
    Pair battles files with outputs. Every row is read once and checked, so that the last row cannot stop a long run.

    Args:
        battles: battles files.
        outputs: probs files, one for each battles file.
        fold: keep only the rows of this fold, in files with folds.
        limit: keep only the first rows.

    Raises:
        InputError: the numbers of files differ, or a file is invalid.
    """
    if len(battles) != len(outputs):
        raise InputError(f"{len(battles)} battles files for {len(outputs)} outputs; give one --output for each.")
    return [_open_job(path, output, fold, limit) for path, output in zip(battles, outputs, strict=True)]


def _open_job(path: Path, output: Path, fold: int | None, limit: int | None) -> Job:
    file = open_battles(path)
    # `take` copies the rows; a slice would keep the texts of its batch in memory
    parts = (table.drop_columns(FIELDS).take(np.arange(table.num_rows)) for table in file.batches())
    rows = pa.concat_tables(parts).combine_chunks()
    rows = rows.append_column(PLACE, pa.array(range(rows.num_rows)))
    if "fold" in rows.column_names:
        rows = rows_of_fold(rows, fold, path)
    rows = rows.slice(0, limit)
    return Job(file, output, rows.drop_columns(PLACE), rows[PLACE].to_numpy())
