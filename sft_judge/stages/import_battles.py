"""
Make battles from competition files and preference sets.

Reads LMSYS CSV (JSON turn lists, one-hot winners), WSDM Parquet or CSV (plain strings, winner model_a or model_b) and
our own Parquet or JSONL; which one is told from the columns. Rows without labels get a null verdict. A row that
cannot be a battle goes to the rejects file with its reason; rows in = rows out + rejected. A null turn is kept as
an empty string, an unpaired surrogate as U+FFFD; both are counted.
"""

import json

from sft_judge.files import InputPath, OutputPath, whole_file
from sft_judge.stages import positive

EXAMPLE = "sft-judge import train.csv --output battles.parquet"


def add_arguments(parser):
    parser.add_argument("sources", type=InputPath, nargs="+", metavar="SOURCE", help="files to read")
    parser.add_argument("--output", type=OutputPath, required=True, metavar="F", help="battles, .parquet or .jsonl")
    parser.add_argument("--format", choices=("lmsys", "wsdm", "battles"), help="where the columns do not tell")
    parser.add_argument("--rejects", type=OutputPath, metavar="F", help="rejected rows (OUTPUT's stem.rejects.jsonl)")
    parser.add_argument("--strict", action="store_true", help="the first bad row is an error")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N rows of each source")


def outputs(args) -> list:
    """The rejects file is there only when rows were rejected, so it is not counted on."""
    return [args.output]


def run(args) -> dict:
    from sft_judge.battles.readers import import_sources
    from sft_judge.battles.schema import write_battles

    result = import_sources(args.sources, args.format, args.strict, args.limit)
    rejects_path = args.rejects or args.output.with_name(args.output.stem + ".rejects.jsonl")
    write_battles(args.output, result.table)
    write_rejects(rejects_path, result.rejects)
    facts = {
        "rows_in": result.rows_in,
        "rows_out": result.table.num_rows,
        "rows_rejected": len(result.rejects),
        "mended": {what: count for what, count in result.mended.items() if count},
        "formats": result.formats,
    }
    print(f"{facts['rows_in']} rows in = {facts['rows_out']} out + {facts['rows_rejected']} rejected")
    for what, count in facts["mended"].items():
        print(f"  {count} {what}")
    if result.rejects:
        first = result.rejects[0]
        print(f"  rejected rows: {rejects_path}; the first is row {first['row']}, {first['field']}: {first['reason']}")
    return facts


def write_rejects(path, rejects: list[dict]) -> None:
    """One JSON object a row, escaped to ASCII so that whatever was read can be written; a stale file is removed."""
    if not rejects:
        path.unlink(missing_ok=True)
        return
    with whole_file(path) as aside, open(aside, "w", encoding="ascii") as file:
        for reject in rejects:
            file.write(json.dumps(reject, default=str) + "\n")
