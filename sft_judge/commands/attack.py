"""
Copy battles and add a prompt injection to one response of each.

Predict the copy like any battles; then `evaluate --attacked PROBS` measures how much a response gains by its attack.
Attacks are orders to the judge, made-up verdicts and ratings, control tokens, and closed tags. The attacking response
and the kind of attack depend only on the battle's id.
"""

from sft_judge.commands.arguments import add_limit
from sft_judge.core.files import InputPath, OutputPath

EXAMPLE = "sft-judge attack test.parquet --output attacked.parquet"


def add_arguments(parser):
    parser.add_argument("battles", type=InputPath, metavar="BATTLES", help="battles file to copy")
    parser.add_argument("--output", type=OutputPath, required=True, metavar="F", help="battles file to write")
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
