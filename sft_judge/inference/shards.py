"""
Unfinished predictions on disk: blocks of rows, each there or not, done by any number of processes.

A kill leaves whole blocks, and the same command goes on from them; it loses none and does none twice.
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

ROWS_A_BLOCK = 1024


def add_runtime(fingerprint: str, engine: str) -> str:
    """
    The fingerprint of a prediction's unfinished work.

    Args:
        fingerprint: of the command's inputs, settings and source.
        engine: what `auto` came to, as another machine's may be another.

    Returns:
        A hash of these, the kind of device and the versions of the libraries. Models of CPUs and GPUs are left out, as
        machines that share the work may differ in them; `--check` holds the engines to a tolerance.
    """
    parts = [fingerprint, engine, "cuda" if torch.cuda.is_available() else "cpu", versions()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def blocks(num_rows: int, shard: tuple[int, int] = (0, 1)) -> list[slice]:
    """The rows of each block; of shard (i, n), every n-th block from the i-th on."""
    starts = range(0, num_rows, ROWS_A_BLOCK)[shard[0] :: shard[1]]
    return [slice(start, min(start + ROWS_A_BLOCK, num_rows)) for start in starts]


class Work:
    """Finished blocks of one job, with the fingerprint they belong to; on disk from the first block on."""

    def __init__(self, folder: Path, fingerprint: str):
        self.folder, self.fingerprint = folder, fingerprint
        stamp = folder / "fingerprint"
        if not (stamp.is_file() and stamp.read_text() == fingerprint):
            if stamp.is_file():
                logger.warning(f"{folder} is of other settings, inputs or versions: its unfinished work starts anew")
            self.clear()

    def block(self, judge: int, rows: slice) -> Path:
        """The file of a judge's block."""
        return self.folder / f"judge-{judge}" / f"{rows.start:09d}.npy"

    def finished(self, judge: int, num_rows: int, shard: tuple[int, int] = (0, 1)) -> bool:
        """Whether all of the shard's blocks of so many rows are there."""
        return all(self.block(judge, rows).is_file() for rows in blocks(num_rows, shard))

    def save(self, judge: int, rows: slice, logp: np.ndarray) -> None:
        """Write a block, whole or not at all."""
        self.stamp()
        _save(self.block(judge, rows), logp)

    def stamp(self) -> None:
        """
        Write the fingerprint, renamed into place where there is none: another process may look for it.

        Raises `InputError` where another command has made the folder its own meanwhile.
        """
        stamp = self.folder / "fingerprint"
        if stamp.is_file() and stamp.read_text() != self.fingerprint:
            raise InputError(
                f"{self.folder}: a command with other settings, inputs or versions has begun anew there. Run this one "
                "again once that one has ended, or give it another --output."
            )
        if not stamp.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            aside = stamp.with_name(f".fingerprint.{os.getpid()}.partial")
            aside.write_text(self.fingerprint)
            os.replace(aside, stamp)

    def clear(self) -> None:
        """Forget all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)


class RowWork(Work):
    """Scores of single rows and orders in files of any size: what a deadline ends at any row, by several processes."""

    def __init__(self, folder: Path, fingerprint: str, scores: np.ndarray):
        """`scores`: scores [N, 2, K] from elsewhere, NaN where there are none."""
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = folder.with_suffix(".lock.partial")
        self._read: set[Path] = set()
        self._scores = scores
        with self.locked():
            super().__init__(folder, fingerprint)
            self.stamp()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the others off: one process at a time makes an output of what all have done."""
        with open(self._lock, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def add(self, rows: np.ndarray, orders: tuple[str, ...], logp: np.ndarray) -> None:
        """Keep log-probabilities [R, orders, K] of rows [R], in one file: all of a block or none of it."""
        self.stamp()
        name = f"{'-'.join(orders)}-{rows[0]:09d}.npy"  # nobody else does this row in this order
        places = np.repeat([ORDERS.index(order) for order in orders], len(rows))
        table = np.column_stack([np.tile(rows, len(orders)), places, np.concatenate(logp.swapaxes(0, 1))])
        _save(self.folder / "rows" / name, table)

    def scores(self) -> np.ndarray:
        """What is known so far of all rows [N, 2, K], NaN where nothing is; the same array at each call."""
        for file in sorted(set((self.folder / "rows").glob("[!.]*.npy")) - self._read):
            table = np.load(file)
            self._scores[table[:, 0].astype(int), table[:, 1].astype(int)] = table[:, 2:]
            self._read.add(file)
        return self._scores

    def lengths(self, measure) -> np.ndarray:
        """What `measure()` gives, taken from disk where it was measured before."""
        file = self.folder / "lengths.npy"
        with self.locked():
            if not file.is_file():
                _save(file, measure())
        return np.load(file)

    def forget(self) -> None:
        """Leave nothing on disk; for the only process there is."""
        self.clear()
        self._lock.unlink(missing_ok=True)


def _save(path: Path, values: np.ndarray) -> None:
    with whole_file(path) as aside, open(aside, "wb") as file:
        np.save(file, values)
