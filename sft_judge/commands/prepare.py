"""
Prepare battles for training: assign folds and languages, drop duplicates, handle ties.

Folds are grouped and stratified: a prompt and its near-duplicates are in one fold, and each fold has its share of
verdicts and sources. Folds depend on the rows and the seed, not on the order of the rows. Rows without labels get a
fold too. Duplicates: `exact` are battles with the same texts; `near` are battles whose prompt and responses are
near-duplicates of a kept battle's, in the same or in exchanged order. Labelled battles are kept before others. Dropped
rows and the reasons are in the rejects file. Filters are off by default; the rows that each drops are counted.
"""

import argparse

from sft_judge.commands.arguments import add_limit, positive, seed
from sft_judge.core.choices import LANGUAGE_RULES
from sft_judge.core.errors import InputError
from sft_judge.core.files import InputPath, OutputPath
from sft_judge.core.progress import Progress

EXAMPLE = "sft-judge prepare battles.parquet --output prepared.parquet --folds 5 --seed 0"


def folds(text: str) -> int:
    """Parse a number of folds, as an argparse type: at least two, or 0 for no folds."""
    if int(text) < 2 and int(text) != 0:
        raise argparse.ArgumentTypeError(f"{text} folds; expected 2 or more, or 0 for none")
    return int(text)


def names(text: str) -> list[str]:
    """Parse names that are separated by commas, as an argparse type."""
    return [name.strip() for name in text.split(",") if name.strip()]


def add_arguments(parser):
    parser.add_argument(
        "battles", type=InputPath, nargs="+", metavar="BATTLES", help="one or several battles files, which are joined"
    )
    parser.add_argument(
        "--output", type=OutputPath, required=True, metavar="F", help="battles to write, .parquet or .jsonl"
    )
    parser.add_argument(
        "--folds", type=folds, default=5, metavar="N", help="number of folds; 0 for no folds, for test rows (5)"
    )
    parser.add_argument("--seed", type=seed, default=0, help="seed for folds and the order of rows (0)")
    parser.add_argument(
        "--ties",
        choices=("keep", "drop", "split"),
        default="keep",
        help="keep or drop ties, or split them into soft labels of 0.5 for a and b (keep)",
    )
    parser.add_argument(
        "--language",
        nargs="?",
        const=LANGUAGE_RULES[0],
        choices=LANGUAGE_RULES,
        help="fill: detect the prompt's language if none is stated (the bare option); detect: detect every prompt's, "
        "so that train and test files follow one rule; stated: use only stated languages",
    )
    parser.add_argument(
        "--language-model", type=InputPath, metavar="F", help="fastText model for languages (lid.176.ftz)"
    )
    parser.add_argument("--dedup", choices=("off", "exact", "near"), default="off", help="drop duplicates (off)")
    parser.add_argument(
        "--against",
        type=InputPath,
        metavar="TEST",
        help="test battles; report how many have the same or a similar prompt as a training row; no row is dropped",
    )
    parser.add_argument(
        "--order",
        choices=("file", "balanced"),
        default="file",
        help="balanced: spread verdicts and sources evenly over the file (file)",
    )
    rules = parser.add_argument_group("filters, all off unless given")
    rules.add_argument("--drop-empty", action="store_true", help="drop battles with a blank prompt or response")
    rules.add_argument(
        "--drop-boilerplate", action="store_true", help="drop battles with 'As an AI language model' in a response"
    )
    rules.add_argument(
        "--least-characters", type=positive, metavar="N", help="drop shorter battles, all texts together"
    )
    rules.add_argument("--most-characters", type=positive, metavar="N", help="drop longer battles, all texts together")
    rules.add_argument("--languages", type=names, metavar="A,B", help="keep only these languages, e.g. English,German")
    parser.add_argument(
        "--rejects", type=OutputPath, metavar="F", help="file for dropped rows (OUTPUT's stem.rejects.jsonl)"
    )
    add_limit(parser)


def outputs(args) -> list:
    """Return the battles file; the rejects file is written only if rows were dropped."""
    return [args.output]


def run(args) -> dict:
    from sft_judge.data.battles import BattleWriter, open_battles
    from sft_judge.data.importing.importer import RejectsWriter
    from sft_judge.data.preparing import prepare as preparing
    from sft_judge.data.preparing.filters import chosen_rules

    files = open_files(args.battles, args.limit)
    check_languages(args, files)
    empty, boilerplate = args.drop_empty, args.drop_boilerplate
    rules = chosen_rules(empty, boilerplate, args.least_characters, args.most_characters, args.languages)
    common = {
        name: getattr(args, name) for name in ("folds", "seed", "ties", "dedup", "language", "language_model", "order")
    }
    choices = preparing.PrepareSettings(**common, rules=rules)
    num_rows = sum(file.num_rows for file in files)
    with Progress("prepare", num_rows) as progress:
        survey = preparing.survey(files, choices, progress.add)
    dealt, places = preparing.folds_of(survey, choices), preparing.places_of(survey, choices)
    rejects_path = args.rejects or args.output.with_name(args.output.stem + ".rejects.jsonl")
    with BattleWriter(args.output) as writer, RejectsWriter(rejects_path) as rejects:
        tables = preparing.prepare_battles(files, survey, dealt, args.ties, rejects.write)
        for table in tables if places is None else preparing.reorder_battles(tables, places, args.output):
            writer.write(table)
    assert num_rows == writer.num_rows + rejects.num_rows
    counts = preparing.count_outcomes(survey, dealt, choices)
    if args.against:
        counts["against"] = preparing.measure_overlap(survey, open_battles(args.against))
    print_counts(counts, rejects_path)
    if args.language:
        counts["language_model"] = preparing.language_detector(args.language_model).describe()
    return counts


def check_languages(args, files: list) -> None:
    """Raise `InputError` if battles are to be filtered by language and a file has no languages."""
    if args.languages and not args.language:
        for file in files:
            if "language" not in file.columns:
                raise InputError(
                    f"{file.path}: has no column language to filter by. Add --language to detect languages."
                )


def open_files(paths: list, limit: int | None) -> list:
    """
    Open battles files.

    Args:
        paths: the files, in order.
        limit: number of rows of all files together, from the first on; None for all.
    """
    from sft_judge.data.battles import open_battles

    files = []
    for path in paths:
        if limit == 0:
            break
        files.append(open_battles(path, limit))
        limit = None if limit is None else limit - files[-1].num_rows
    return files


def print_counts(counts: dict, rejects) -> None:
    """Print the number of rows by outcome, ties, folds, languages and overlap with the test file."""
    print("{rows_in} rows in = {rows_out} out + {rows_rejected} rejected + {rows_merged} merged".format(**counts))
    for reason, count in counts["rejected_by"].items():
        print(f"  {count} dropped: {reason}")
    if counts["disagreeing"]:
        print(f"  {counts['disagreeing']} of the duplicates had another verdict than the battle that was kept")
    if counts["rejected_by"]:
        print(f"  they are in {rejects}")
    ties, shown = counts["ties"], ", ".join(map(str, counts["rows_by_fold"])) or "no folds"
    done = {"keep": "kept", "drop": "dropped", "split": "split"}[next(iter(ties))]
    print(f"{sum(ties.values())} ties {done}; rows by fold: {shown}")
    if counts["languages_detected"] is not None:
        by_language = ", ".join(f"{name} {count}" for name, count in list(counts["languages"].items())[:8])
        print(f"{counts['languages_detected']} languages detected, {counts['languages_stated']} stated: {by_language}")
    if "against" in counts:
        against = counts["against"]
        print(
            f"of {against['rows']} test rows {against['same_prompt']} have a prompt of the training rows, "
            f"{against['near_prompt']} a near-duplicate of one"
        )
