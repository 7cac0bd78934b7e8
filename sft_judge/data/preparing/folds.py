"""
Folds for cross-validation: no prompt or near-duplicate of a prompt is in two folds.

Groups of prompts (prompt_groups.py) are assigned as a whole; verdicts and sources are spread evenly. A row's fold
depends on the set of rows and the seed, not on the order of the rows.
"""

import numpy as np
import pyarrow as pa

from sft_judge.core.errors import InputError
from sft_judge.data.battles import set_column
from sft_judge.data.preparing.prompt_groups import index_prompts, text_hash


def assign_folds(table: pa.Table, num_folds: int, seed: int) -> np.ndarray:
    """
    Assign a fold 0 .. num_folds-1 to each battle `[N]`, labelled or not.

    Args:
        table: the battles.
        num_folds: number of folds.
        seed: seed of the assignment.

    Raises:
        InputError: there are fewer prompt groups than folds.
    """
    index = index_prompts(table)
    groups, hashes = index.groups()
    names = ["verdict", *({"source"} & set(table.column_names))]
    strata = zip(*(table[name].to_pylist() for name in names), strict=True)
    return deal_folds(groups[index.rows], hashes, np.array([str(stratum) for stratum in strata]), num_folds, seed)


def deal_folds(groups: np.ndarray, hashes: np.ndarray, strata: np.ndarray, num_folds: int, seed: int) -> np.ndarray:
    """
    Assign a fold to each row `[N]`, keeping groups together and spreading strata evenly.

    Groups are assigned by falling size, and groups of one size in the order of a seeded hash. Each group goes to the
    fold with the fewest rows of the group's strata, then to the fold with the fewest rows. If all groups have the same
    size, folds differ by at most one group.

    Args:
        groups: group of each row `[N]`, as any codes.
        hashes: a hash of each group `[G]`, independent of the order of the rows.
        strata: stratum of each row `[N]`, as any codes.
        num_folds: number of folds.
        seed: seed of the assignment.

    Raises:
        InputError: there are fewer groups than folds.
    """
    there, groups = np.unique(groups, return_inverse=True)
    if len(there) < num_folds:
        raise InputError(f"{len(there)} different prompts are too few for {num_folds} folds; use fewer --folds.")
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
    for group in order.tolist():  # plain lists, because indexing arrays element by element is slow
        own = range(starts[group], starts[group + 1])
        fold = min(range(num_folds), key=lambda f: (sum(held[f][columns[c]] * counts[c] for c in own), totals[f]))
        for cell in own:
            held[fold][columns[cell]] += counts[cell]
            totals[fold] += counts[cell]
        folds[group] = fold
    return folds[groups]


def settle_ties(table: pa.Table, ties: str) -> pa.Table:
    """
    Apply a rule to tied battles.

    Args:
        table: the battles.
        ties: `keep` them, `drop` them, or `split` them: soft labels of one half each and no verdict. With `split`, a
            judge with two verdicts can learn from ties.
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
