"""
Add what training needs to a row: its fold, its language, and what to do about ties.

Folds are grouped by the prompt's first turn (case and white space aside), so that no judge is asked a question it was
trained on, and stratified by verdict. They depend on the rows and the seed, not on the order of the rows. Rows
without labels get a fold too.
"""

import argparse

from sft_judge.files import InputPath, OutputPath
from sft_judge.stages import add_limit

EXAMPLE = "sft-judge prepare battles.parquet --output prepared.parquet --folds 5 --seed 0"


def folds(text: str) -> int:
    """argparse type: an integer of at least two, or 0 for no folds."""
    if int(text) < 2 and int(text) != 0:
        raise argparse.ArgumentTypeError(f"{text} folds; expected 2 or more, or 0 for none")
    return int(text)


def add_arguments(parser):
    parser.add_argument("battles", type=InputPath, nargs="+", metavar="BATTLES", help="one file or several, joined")
    parser.add_argument("--output", type=OutputPath, required=True, metavar="F", help="battles, .parquet or .jsonl")
    parser.add_argument(
        "--folds", type=folds, default=5, metavar="N", help="number of folds (5); 0 for none, as test rows want"
    )
    parser.add_argument("--seed", type=int, default=0, help="which way the folds are dealt (0)")
    parser.add_argument(
        "--ties",
        choices=("keep", "drop", "split"),
        default="keep",
        help="split: soft labels of 0.5 for a and b (keep)",
    )
    parser.add_argument("--language", action="store_true", help="detect the prompt's language where none is stated")
    add_limit(parser)


def run(args) -> dict:
    import numpy as np
    import pyarrow as pa

    from sft_judge.battles.folds import assign_folds, settle_ties
    from sft_judge.battles.language import fill_languages
    from sft_judge.battles.schema import set_column, write_battles

    table, detected = read_joined(args.battles, args.limit), 0
    if args.language:
        table, detected = fill_languages(table)
    ties = table["verdict"].to_pylist().count("tie")
    settled = settle_ties(table, args.ties)
    assigned = assign_folds(settled, args.folds, args.seed) if args.folds else np.array([], dtype=int)
    folded = set_column(settled, "fold", pa.array(assigned, pa.int64())) if args.folds else settled
    write_battles(args.output, folded)
    facts = {
        "rows_in": table.num_rows,
        "rows_out": settled.num_rows,
        "rows_dropped": table.num_rows - settled.num_rows,
        "ties": {args.ties: ties},
        "languages_detected": detected,
        "rows_by_fold": np.bincount(assigned, minlength=args.folds).tolist(),
    }
    print(f"{facts['rows_in']} rows in = {facts['rows_out']} out + {facts['rows_dropped']} dropped (ties)")
    print(f"{ties} ties: {args.ties}; rows by fold: {', '.join(map(str, facts['rows_by_fold']))}")
    if args.language:
        print(f"{detected} languages detected, {facts['rows_in'] - detected} stated")
    return facts


def read_joined(paths: list, limit: int | None):
    """The battles of all files as one table. Raises `InputError` where an id stands in two of them."""
    import pyarrow as pa

    from sft_judge.battles.schema import read_battles
    from sft_judge.errors import InputError

    tables, seen = [], {}
    for path in paths:
        tables.append(read_battles(path))
        for name in tables[-1]["id"].to_pylist() if len(paths) > 1 else ():
            if name in seen:
                raise InputError(f"{path}: id {name!r} stands in {seen[name]} too; ids join the stages.")
            seen[name] = path
    return pa.concat_tables(tables, promote_options="default").slice(0, limit).combine_chunks()
