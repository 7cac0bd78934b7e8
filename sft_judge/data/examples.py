"""Choice of battles to show to a person: the longest, some with injected text, some at random."""

import numpy as np
import pyarrow as pa

from sft_judge.data.battles import BattleFile


def choose_examples(lengths: np.ndarray, injected: np.ndarray, num: int, seed: int) -> dict[int, str]:
    """
    Choose battles to show.

    Args:
        lengths: length of each battle `[N]`.
        injected: row numbers of battles with injected text.
        num: maximum number of battles.
        seed: seed of the choice.

    Returns:
        `{row: reason}`, rows counted from 0 and sorted.
    """
    rng = np.random.default_rng(seed)
    wishes = {
        "one of the longest": np.argsort(-lengths, kind="stable"),
        "text like control tokens": rng.permutation(injected),
        "random": rng.permutation(len(lengths)),
    }
    chosen: dict[int, str] = {}
    for place, (why, rows) in enumerate(wishes.items(), 1):
        for row in rows.tolist():
            if len(chosen) >= -(-num * place // len(wishes)):
                break
            chosen.setdefault(row, why)
    return dict(sorted(chosen.items()))


def read_rows(file: BattleFile, rows: list[int]) -> list[dict]:
    """
    Read the battles in these rows of a file.

    Args:
        file: the battles.
        rows: sorted row numbers, counted from 0.
    """
    parts, start = [], 0
    for battles in file.batches() if rows else ():
        here = [row - start for row in rows if 0 <= row - start < battles.num_rows]
        parts += battles.take(pa.array(here, pa.int64())).to_pylist()
        start += battles.num_rows
    return parts
