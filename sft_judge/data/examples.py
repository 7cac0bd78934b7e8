"""Choose battles to show to a person: the longest, some with text like control tokens, some at random."""

import numpy as np
import pyarrow as pa

from sft_judge.data.battles import BattleFile


def choose_examples(lengths: np.ndarray, injected: np.ndarray, num: int, seed: int) -> dict[int, str]:
    """`{row: why}` of at most `num` rows of those with these `lengths` [N], rows counted from 0, in their order."""
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
    """The battles in these rows of a file, counted from 0 and in their order."""
    parts, start = [], 0
    for battles in file.batches() if rows else ():
        here = [row - start for row in rows if 0 <= row - start < battles.num_rows]
        parts += battles.take(pa.array(here, pa.int64())).to_pylist()
        start += battles.num_rows
    return parts
