"""
Make battles from competition files, preference sets and votes.

A SOURCE is a file, a folder, a quoted pattern or the id of a data set on the Hub. Its columns tell the format:
  lmsys        JSON lists of turns, one-hot winners        wsdm      plain strings, winner model_a or model_b
  preference   prompt, chosen, rejected, as TRL has them   rated     two responses, score_a and score_b
  rewardbench  the same with a subset                      arena     conversation_a, conversation_b, winner
  battles      our own Parquet or JSONL, verdict or winner
  judgebench   question, response_A, response_B, label
Rows without labels get a null verdict. The seed decides whether a chosen response becomes a or b; each happens equally
often. A row that cannot be a battle is written to the rejects file with the reason, and rows in = out + rejected +
merged. A null turn becomes an empty string, and an unpaired surrogate U+FFFD. A source, category, language or model
name that is not text is dropped. All such changes are counted.
"""

import argparse
import math
from collections import Counter
from pathlib import Path

from sft_judge.commands.arguments import positive, seed
from sft_judge.core.choices import IMPORT_FORMATS
from sft_judge.core.errors import InputError
from sft_judge.core.files import OutputPath, partial_path
from sft_judge.core.progress import Progress

EXAMPLE = "sft-judge import train.csv --output battles.parquet"


def not_negative(text: str) -> float:
    """Parse a finite number of zero or more, as an argparse type."""
    if not 0 <= float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text}, expected 0 or more")
    return float(text)


def add_arguments(parser):
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="file, folder, quoted pattern or Hub id")
    parser.add_argument(
        "--output", type=OutputPath, required=True, metavar="F", help="battles to write, .parquet or .jsonl"
    )
    parser.add_argument(
        "--map",
        metavar="FIELD=COLUMN,...",
        help="columns of other formats: FIELD=COLUMN pairs, a .yaml file, or pandalm, autoj or llmbar",
    )
    parser.add_argument("--format", choices=IMPORT_FORMATS, help="format, if the columns do not tell it")
    parser.add_argument(
        "--votes",
        choices=("rows", "soft"),
        default="rows",
        help="several votes on a pair: one row for each vote, or one row with their shares as soft labels (rows)",
    )
    parser.add_argument(
        "--tie-margin",
        type=not_negative,
        default=0.0,
        metavar="X",
        help="scores that differ by at most this are a tie (0)",
    )
    parser.add_argument(
        "--prefix-ids", action="store_true", help="put the file's name before each id, if ids of several files clash"
    )
    parser.add_argument("--seed", type=seed, default=0, help="seed for the side of the chosen response (0)")
    parser.add_argument("--split", help="split of a data set, several joined by + (train, or the only one)")
    parser.add_argument("--config", metavar="NAME", help="configuration of a data set whose card has several")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a data set on the Hub (main)")
    parser.add_argument(
        "--streaming", action="store_true", help="read a data set on the Hub row by row, without downloading it first"
    )
    parser.add_argument(
        "--rejects", type=OutputPath, metavar="F", help="file for rejected rows (OUTPUT's stem.rejects.jsonl)"
    )
    parser.add_argument("--strict", action="store_true", help="stop with an error at the first bad row")
    parser.add_argument(
        "--limit", type=positive, metavar="N", help="read only the first N rows of each file or data set"
    )


def parse_args(parser, argv):
    """Parse the arguments; replace patterns with the files they match, so that the manifest has these."""
    from sft_judge.data.importing.sources import named_sources

    args = parser.parse_args(argv)
    args.sources = named_sources(args.sources)
    return args


def outputs(args) -> list:
    """Return the battles file; the rejects file is written only if rows were rejected."""
    return [args.output]


def run(args) -> dict:
    from sft_judge.data.importing.column_map import read_map
    from sft_judge.data.importing.importer import import_sources
    from sft_judge.data.importing.labels import Reading, Sides

    if args.map and args.format:
        raise InputError(
            f"--format {args.format} has no effect with --map, which names the columns. Remove one of them."
        )
    alone = "revision" if args.revision else "streaming" if args.streaming else None
    if alone and all(isinstance(source, Path) for source in args.sources):
        raise InputError(f"--{alone} is for a data set on the Hub, but all sources are local files. Remove it.")
    rejects = args.rejects or args.output.with_name(args.output.stem + ".rejects.jsonl")
    columns = read_map(args.map) if args.map else None
    reading = Reading(Sides(args.seed), args.tie_margin, columns, args.prefix_ids)
    options = {name: getattr(args, name) for name in ("split", "config", "revision", "streaming", "strict", "limit")}
    options["format_name"] = args.format
    # votes are merged from a file of their own, as a pair's votes may stand anywhere
    first = args.output if args.votes == "rows" else partial_path(args.output).with_suffix(".votes.partial")
    try:
        with Progress("import") as progress:
            result = import_sources(args.sources, first, rejects, reading, progress=progress.add, **options)
        rows_out = result.rows_out if first == args.output else merge(first, args.output)
    finally:
        if first != args.output:
            first.unlink(missing_ok=True)
    counts = {
        "rows_in": result.rows_in,
        "rows_out": rows_out,
        "rows_rejected": result.rejected,
        "rows_merged": result.rows_out - rows_out,
        "rejected_by": dict(result.reasons.most_common()),
        "mended": {what: count for what, count in Counter(result.mended).items() if count},
        "formats": result.formats,
    }
    print_counts(counts, result.first_reject, rejects)
    return counts


def merge(votes, output) -> int:
    """
    Merge a file of votes into a file of pairs.

    Args:
        votes: battles file with one row for each vote.
        output: battles file to write, with one row for each pair.

    Returns:
        Number of rows written.
    """
    from sft_judge.data.battles import BattleWriter, open_battles
    from sft_judge.data.importing.votes import merge_votes

    with BattleWriter(output) as writer:
        merge_votes(open_battles(votes), writer.write)
    return writer.num_rows


def print_counts(counts: dict, first: dict | None, rejects) -> None:
    """Print the number of rows by outcome, the format of each file, and the reasons and place of rejected rows."""
    print("{rows_in} rows in = {rows_out} out + {rows_rejected} rejected + {rows_merged} merged".format(**counts))
    print("  read as " + ", ".join(f"{name} ({count})" for name, count in Counter(counts["formats"].values()).items()))
    for what, count in counts["mended"].items():
        print(f"  {count} {what}")
    if first:
        for reason, count in list(counts["rejected_by"].items())[:8]:
            print(f"  {count} rejected, {reason}")
        print(f"  rejected rows: {rejects}; the first is row {first['row']}, {first['field']}: {first['reason']}")
