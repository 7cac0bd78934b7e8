"""
Unfinished predictions on disk, as blocks of rows that any number of processes work on.

A killed run leaves only complete blocks, and the same command resumes from them without repeating or losing any.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from sft_judge.core.errors import InputError
from sft_judge.core.files import whole_file
from sft_judge.core.manifest import versions
from sft_judge.core.swap_orders import ORDERS

logger = logging.getLogger(__name__)

ROWS_A_BLOCK = 1024  # rows per block


def add_runtime(fingerprint: str, engine: str) -> str:
    """
    Extend a command's fingerprint to that of its unfinished work.

    Args:
        fingerprint: hash of the command's inputs, settings and source.
        engine: the engine; `auto` must be resolved, because another machine may choose another engine.

    Returns:
        A hash of both, the kind of device and the library versions. Models of CPUs and GPUs are not included, because
        machines that share the work may differ in them; `--check` compares the engines within a tolerance.
    """
    parts = [fingerprint, engine, "cuda" if torch.cuda.is_available() else "cpu", versions()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def blocks(num_rows: int, shard: tuple[int, int] = (0, 1)) -> list[slice]:
    """
    Return the rows of each block.

    Args:
        num_rows: number of rows.
        shard: (i, n) for every n-th block from the i-th on.
    """
    starts = range(0, num_rows, ROWS_A_BLOCK)[shard[0] :: shard[1]]
    return [slice(start, min(start + ROWS_A_BLOCK, num_rows)) for start in starts]


class Work:
    """
    Store the finished blocks of one job together with their fingerprint. Nothing is on disk before the first block.

    Args:
        folder: the folder of the blocks. Blocks with another fingerprint are deleted.
        fingerprint: hash of everything that the scores depend on.
    """

    def __init__(self, folder: Path, fingerprint: str):
        self.folder, self.fingerprint = folder, fingerprint
        stamp = folder / "fingerprint"
        if not (stamp.is_file() and stamp.read_text() == fingerprint):
            if stamp.is_file():
                logger.warning(f"{folder} has other settings, inputs or versions: its unfinished work is deleted")
            self.clear()

    def block(self, judge: int, rows: slice) -> Path:
        """
        Return the file of a judge's block.

        Args:
            judge: index of the judge.
            rows: rows of the block.
        """
        return self.folder / f"judge-{judge}" / f"{rows.start:09d}.npy"

    def finished(self, judge: int, num_rows: int, shard: tuple[int, int] = (0, 1)) -> bool:
        """
        Return True if all of the shard's blocks are on disk.

        Args:
            judge: index of the judge.
            num_rows: number of rows that the judge scores.
            shard: see `blocks`.
        """
        return all(self.block(judge, rows).is_file() for rows in blocks(num_rows, shard))

    def save(self, judge: int, rows: slice, logp: np.ndarray) -> None:
        """
        Write a block atomically.

        Args:
            judge: index of the judge.
            rows: rows of the block.
            logp: log-probabilities [rows, orders, K], un-swapped (a is the battle's own response_a in every order).
        """
        self.stamp()
        _save(self.block(judge, rows), logp)

    def stamp(self) -> None:
        """
        Write the fingerprint atomically if there is none, because another process may read it at the same time.

        Raises:
            InputError: a command with another fingerprint has taken over the folder.
        """
        stamp = self.folder / "fingerprint"
        if stamp.is_file() and stamp.read_text() != self.fingerprint:
            raise InputError(
                f"{self.folder}: a command with other settings, inputs or versions has taken over this folder. Run "
                "this command again after the other one has ended, or give it another --output."
            )
        if not stamp.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            aside = stamp.with_name(f".fingerprint.{os.getpid()}.partial")
            aside.write_text(self.fingerprint)
            os.replace(aside, stamp)

    def clear(self) -> None:
        """Delete all blocks."""
        shutil.rmtree(self.folder, ignore_errors=True)


class RowWork(Work):
    """
    Store scores of single rows and orders in files of any size, written by several processes until a deadline.

    Args:
        folder: the folder of the files.
        fingerprint: hash of everything that the scores depend on.
        scores: scores that are already known [N, 2, K], NaN where unknown.
    """

    def __init__(self, folder: Path, fingerprint: str, scores: np.ndarray):
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = folder.with_suffix(".lock.partial")
        self._read: set[Path] = set()
        self._scores = scores
        with self.locked():
            super().__init__(folder, fingerprint)
            self.stamp()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock out other processes, so that one process at a time writes an output from the work of all."""
        with open(self._lock, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def add(self, rows: np.ndarray, orders: tuple[str, ...], logp: np.ndarray) -> None:
        """
        Write the scores of a block to one file atomically.

        Args:
            rows: row numbers [R].
            orders: the orders shown.
            logp: log-probabilities [R, orders, K], un-swapped (a is the battle's own response_a in every order).
        """
        self.stamp()
        name = f"{'-'.join(orders)}-{rows[0]:09d}.npy"  # unique: no other process scores this row in this order
        places = np.repeat([ORDERS.index(order) for order in orders], len(rows))
        table = np.column_stack([np.tile(rows, len(orders)), places, np.concatenate(logp.swapaxes(0, 1))])
        _save(self.folder / "rows" / name, table)

    def scores(self) -> np.ndarray:
        """Return all scores known so far [N, 2, K], NaN where unknown; always the same array, updated."""
        for file in sorted(set((self.folder / "rows").glob("[!.]*.npy")) - self._read):
            table = np.load(file)
            self._scores[table[:, 0].astype(int), table[:, 1].astype(int)] = table[:, 2:]
            self._read.add(file)
        return self._scores

    def lengths(self, measure) -> np.ndarray:
        """Return the result of `measure()`, read from disk if it was computed before."""
        file = self.folder / "lengths.npy"
        with self.locked():
            if not file.is_file():
                _save(file, measure())
        return np.load(file)

    def forget(self) -> None:
        """Delete everything, including the lock. Only for a single process."""
        self.clear()
        self._lock.unlink(missing_ok=True)


def _save(path: Path, values: np.ndarray) -> None:
    with whole_file(path) as aside, open(aside, "wb") as file:
        np.save(file, values)
