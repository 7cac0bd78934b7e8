"""
Folds for cross-validation: the same prompt, or nearly the same, never stands in two of them.

Groups of prompts (prompt_groups.py) are dealt as a whole; verdicts and sources are spread evenly. A row's fold depends
on the set of rows and the seed, not on the order of the rows.
"""

import numpy as np
import pyarrow as pa

from sft_judge.core.errors import InputError
from sft_judge.data.battles import set_column
from sft_judge.data.preparing.prompt_groups import index_prompts, text_hash


def assign_folds(table: pa.Table, num_folds: int, seed: int) -> np.ndarray:
    """A fold 0 .. num_folds-1 for each battle [N], labelled or not. Raises `InputError` as `deal_folds`."""
    index = index_prompts(table)
    groups, hashes = index.groups()
    names = ["verdict", *({"source"} & set(table.column_names))]
    strata = zip(*(table[name].to_pylist() for name in names), strict=True)
    return deal_folds(groups[index.rows], hashes, np.array([str(stratum) for stratum in strata]), num_folds, seed)


def deal_folds(groups: np.ndarray, hashes: np.ndarray, strata: np.ndarray, num_folds: int, seed: int) -> np.ndarray:
    """
    A fold for each row [N] of these groups [N] and strata [N], any codes; `hashes` [G] tells the groups apart.

    Groups go, largest first and those of one size in the order of a seeded hash, to the fold that has the fewest rows
    of the group's strata, then the fewest rows: folds differ by at most a group where groups are of one size. Raises
    `InputError` where there are fewer groups than folds.
    """
    there, groups = np.unique(groups, return_inverse=True)
    if len(there) < num_folds:
        raise InputError(f"{len(there)} different prompts cannot make {num_folds} folds; use fewer --folds.")
    names, codes = np.unique(strata, return_inverse=True)
    cells, counts = np.unique(groups * len(names) + codes, return_counts=True)
    starts = np.searchsorted(cells // len(names), np.arange(len(there) + 1))
    sizes = np.bincount(groups)
    keys = np.array([text_hash(f"{seed} {value}") for value in hashes[there].tolist()])
    order = np.lexsort((keys, -sizes))
    columns, counts = (cells % len(names)).tolist(), counts.tolist()
    held = [[0] * len(names) for _ in range(num_folds)]
    totals = [0] * num_folds
    folds = np.empty(len(there), dtype=np.int64)
    for group in order.tolist():  # plain lists: a million groups take seconds
        own = range(starts[group], starts[group + 1])
        fold = min(range(num_folds), key=lambda f: (sum(held[f][columns[c]] * counts[c] for c in own), totals[f]))
        for cell in own:
            held[fold][columns[cell]] += counts[cell]
            totals[fold] += counts[cell]
        folds[group] = fold
    return folds[groups]


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
