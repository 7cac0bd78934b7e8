"""
Unfinished predictions on disk: blocks of rows, each there or not, done by any number of processes.

A kill leaves whole blocks, and the same command goes on from them; it loses none and does none twice.
"""

import os
import shutil
from pathlib import Path

import numpy as np

from sft_judge.files import whole_file

ROWS_A_BLOCK = 1024


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
            self.clear()

    def block(self, judge: int, rows: slice) -> Path:
        """The file of a judge's block."""
        return self.folder / f"judge-{judge}" / f"{rows.start:09d}.npy"

    def finished(self, judge: int, num_rows: int, shard: tuple[int, int] = (0, 1)) -> bool:
        """Whether all of the shard's blocks of so many rows are there."""
        return all(self.block(judge, rows).is_file() for rows in blocks(num_rows, shard))

    def save(self, judge: int, rows: slice, logp: np.ndarray) -> None:
        """Write a block, whole or not at all."""
        stamp = self.folder / "fingerprint"
        if not stamp.is_file():  # renamed into place: another process may look for it
            self.folder.mkdir(parents=True, exist_ok=True)
            aside = stamp.with_name(f".fingerprint.{os.getpid()}.partial")
            aside.write_text(self.fingerprint)
            os.replace(aside, stamp)
        with whole_file(self.block(judge, rows)) as aside, open(aside, "wb") as file:
            np.save(file, logp)

    def clear(self) -> None:
        """Forget all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)
