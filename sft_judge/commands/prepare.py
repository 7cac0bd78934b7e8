"""
Add what training needs to a row: its fold and its language; leave out duplicates; say what becomes of ties.

Folds are grouped, so that the same prompt, or nearly the same, never stands in two of them, and stratified by verdict
and source. They depend on the rows and the seed, not on the order of the rows. Rows without labels get a fold too.
Duplicates: `exact` are battles of the same texts, `near` those whose prompt and each response are nearly the same as a
kept battle's, straight or exchanged; a labelled one stays. What goes, and why, is in the rejects file. Filters are off
unless asked for; each is counted.
"""

import argparse

from sft_judge.commands.arguments import add_limit, positive
from sft_judge.core.choices import LANGUAGE_RULES
from sft_judge.core.errors import InputError
from sft_judge.core.files import InputPath, OutputPath
from sft_judge.core.progress import Progress

EXAMPLE = "sft-judge prepare battles.parquet --output prepared.parquet --folds 5 --seed 0"


def folds(text: str) -> int:
    """argparse type: an integer of at least two, or 0 for no folds."""
    if int(text) < 2 and int(text) != 0:
        raise argparse.ArgumentTypeError(f"{text} folds; expected 2 or more, or 0 for none")
    return int(text)


def names(text: str) -> list[str]:
    """argparse type: names with commas between them."""
    return [name.strip() for name in text.split(",") if name.strip()]


def add_arguments(parser):
    parser.add_argument("battles", type=InputPath, nargs="+", metavar="BATTLES", help="one file or several, joined")
    parser.add_argument("--output", type=OutputPath, required=True, metavar="F", help="battles, .parquet or .jsonl")
    parser.add_argument(
        "--folds", type=folds, default=5, metavar="N", help="number of folds (5); 0 for none, as test rows want"
    )
    parser.add_argument("--seed", type=int, default=0, help="which way folds are dealt and rows are ordered (0)")
    parser.add_argument(
        "--ties",
        choices=("keep", "drop", "split"),
        default="keep",
        help="split: soft labels of 0.5 for a and b (keep)",
    )
    parser.add_argument(
        "--language",
        nargs="?",
        const=LANGUAGE_RULES[0],
        choices=LANGUAGE_RULES,
        help="fill: detect the prompt's language where none is stated (the bare option); detect: of every prompt, so "
        "that train and test files have one rule; stated: by the names that are stated, and no others",
    )
    parser.add_argument(
        "--language-model", type=InputPath, metavar="F", help="another fastText model of languages than lid.176.ftz"
    )
    parser.add_argument("--dedup", choices=("off", "exact", "near"), default="off", help="leave out duplicates (off)")
    parser.add_argument(
        "--against", type=InputPath, metavar="TEST", help="battles whose prompts should not stand here: told, not cut"
    )
    parser.add_argument(
        "--order",
        choices=("file", "balanced"),
        default="file",
        help="balanced: every stretch has the verdicts and sources of the whole (file)",
    )
    rules = parser.add_argument_group("filters, all off unless given")
    rules.add_argument("--drop-empty", action="store_true", help="battles with a blank prompt or response")
    rules.add_argument("--drop-boilerplate", action="store_true", help="'As an AI language model' in a response")
    rules.add_argument("--least-characters", type=positive, metavar="N", help="of all texts of a battle")
    rules.add_argument("--most-characters", type=positive, metavar="N", help="of all texts of a battle")
    rules.add_argument("--languages", type=names, metavar="A,B", help="keep these alone, e.g. English,German")
    parser.add_argument("--rejects", type=OutputPath, metavar="F", help="what went (OUTPUT's stem.rejects.jsonl)")
    add_limit(parser)


def outputs(args) -> list:
    """The rejects file is there only when rows went, so it is not counted on."""
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
    """Raise `InputError` where languages are to be chosen from and no file states any."""
    if args.languages and not args.language:
        for file in files:
            if "language" not in file.columns:
                raise InputError(f"{file.path}: no languages in it to choose from. Add --language.")


def open_files(paths: list, limit: int | None) -> list:
    """The files, of which `limit` counts the first rows of all together."""
    from sft_judge.data.battles import open_battles

    files = []
    for path in paths:
        if limit == 0:
            break
        files.append(open_battles(path, limit))
        limit = None if limit is None else limit - files[-1].num_rows
    return files


def print_counts(counts: dict, rejects) -> None:
    """What became of the rows, in a few lines."""
    print("{rows_in} rows in = {rows_out} out + {rows_rejected} rejected + {rows_merged} merged".format(**counts))
    for reason, count in counts["rejected_by"].items():
        print(f"  {count} left out: {reason}")
    if counts["disagreeing"]:
        print(f"  {counts['disagreeing']} of the duplicates had another verdict than the one that stayed")
    if counts["rejected_by"]:
        print(f"  they are in {rejects}")
    ties, shown = counts["ties"], ", ".join(map(str, counts["rows_by_fold"])) or "no folds"
    print(f"{sum(ties.values())} ties: {next(iter(ties))}; rows by fold: {shown}")
    if counts["languages_detected"] is not None:
        by_language = ", ".join(f"{name} {count}" for name, count in list(counts["languages"].items())[:8])
        print(f"{counts['languages_detected']} languages detected, {counts['languages_stated']} stated: {by_language}")
    if "against" in counts:
        against = counts["against"]
        print(
            f"of {against['rows']} test rows {against['same_prompt']} have a prompt that stands in training, "
            f"{against['near_prompt']} nearly so"
        )
