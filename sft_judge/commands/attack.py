"""
A copy of battles in which one response of each tries to win by talking to the judge.

Predict them as any battles, and `evaluate --attacked PROBS` says how much a response gains by it: orders to the judge,
made-up verdicts and ratings, control tokens, closed tags. Which response tries, and how, is drawn from its id.
"""

from sft_judge.commands.arguments import add_limit
from sft_judge.core.files import InputPath, OutputPath

EXAMPLE = "sft-judge attack test.parquet --output attacked.parquet"


def add_arguments(parser):
    parser.add_argument("battles", type=InputPath, metavar="BATTLES")
    parser.add_argument("--output", type=OutputPath, required=True, metavar="F")
    add_limit(parser)


def run(args) -> dict:
    from collections import Counter

    from sft_judge.data.attacks import KINDS, add_attacks, assign_attacks
    from sft_judge.data.battles import read_battles, write_battles

    battles = read_battles(args.battles, args.limit)
    write_battles(args.output, add_attacks(battles))
    counts = Counter(KINDS[kind] for kind in assign_attacks(battles["id"].to_pylist())[1])
    print(f"{battles.num_rows} battles -> {args.output}: {', '.join(f'{n} {kind}' for kind, n in counts.items())}")
    return {"rows": battles.num_rows, "kinds": dict(counts)}
