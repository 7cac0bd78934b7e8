"""
Folds for cross-validation: the same prompt never stands in two of them.

Rows whose first turn is the same are one group, dealt as a whole: a follow-up is asked of the same answers (MT-Bench
has every question both with and without its second turn). Verdicts are spread evenly. A row's fold depends on the set
of rows and the seed, not on the order of the rows.
"""

import hashlib

import numpy as np
import pyarrow as pa

from sft_judge.battles.schema import set_column
from sft_judge.errors import InputError
from sft_judge.verdicts import VERDICTS

BATCH = 10_000


def normal_prompt(turns: list[str]) -> str:
    """All turns of a prompt without regard to case and white space; turns stay apart."""
    return "\x1e".join(" ".join(turn.casefold().split()) for turn in turns)


def prompt_groups(table: pa.Table) -> tuple[list[str], np.ndarray]:
    """The distinct normal first turns of battles [N], and each row's place among them [N]."""
    places: dict[str, int] = {}
    groups = []
    for batch in table.select(["prompt"]).to_batches(BATCH):
        for turns in batch["prompt"].to_pylist():
            groups.append(places.setdefault(normal_prompt(turns[:1]), len(places)))
    return list(places), np.array(groups, dtype=int)


def assign_folds(table: pa.Table, num_folds: int, seed: int) -> np.ndarray:
    """
    A fold 0 .. num_folds-1 for each battle [N], labelled or not.

    Groups go, largest first and those of one size in the order of a hash, to the fold that has the fewest rows of
    the group's verdicts, then the fewest rows: folds differ by at most a group where groups are of one size.
    Raises `InputError` where there are fewer prompts than folds.
    """
    prompts, groups = prompt_groups(table)
    if len(prompts) < num_folds:
        raise InputError(f"{len(prompts)} different prompts cannot make {num_folds} folds; use fewer --folds.")
    verdicts = np.array([len(VERDICTS) if v is None else VERDICTS.index(v) for v in table["verdict"].to_pylist()])
    counts = np.zeros((len(prompts), len(VERDICTS) + 1), dtype=int)
    np.add.at(counts, (groups, verdicts), 1)
    hashes = [hashlib.blake2b(f"{seed}\0{prompt}".encode(), digest_size=8).digest() for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda group: (-counts[group].sum(), hashes[group]))
    return _deal(counts[order].tolist(), num_folds)[np.argsort(order)][groups]


def _deal(counts: list[list[int]], num_folds: int) -> np.ndarray:
    """The fold of each group [G], dealt in the order given. Plain lists: a million groups take seconds."""
    held = [[0] * len(counts[0]) for _ in range(num_folds)]
    totals = [0] * num_folds
    folds = []
    for group in counts:
        own = [(column, count) for column, count in enumerate(group) if count]
        fold = min(range(num_folds), key=lambda f: (sum(held[f][c] * n for c, n in own), totals[f]))
        for column, count in own:
            held[fold][column] += count
            totals[fold] += count
        folds.append(fold)
    return np.array(folds)


def settle_ties(table: pa.Table, ties: str) -> pa.Table:
    """
    `keep` ties, `drop` their rows, or `split` them: soft labels of one half each and no verdict.

    `split` is how a judge of two verdicts can learn from ties.
    """
    assert ties in ("keep", "drop", "split"), ties
    is_tie = np.array([verdict == "tie" for verdict in table["verdict"].to_pylist()], dtype=bool)
    if ties == "drop":
        return table.filter(pa.array(~is_tie))
    if ties == "split" and is_tie.any():
        verdicts = [None if tie else v for tie, v in zip(is_tie, table["verdict"].to_pylist(), strict=True)]
        table = set_column(table, "verdict", pa.array(verdicts, pa.string()))
        for name, value in (("soft_a", 0.5), ("soft_b", 0.5), ("soft_tie", 0.0)):
            old = table[name].to_pylist() if name in table.column_names else [None] * len(is_tie)
            values = [value if tie else o for tie, o in zip(is_tie, old, strict=True)]
            table = set_column(table, name, pa.array(values, pa.float64()))
    return table
