"""
Look at what a judge sees.

`show` prints the exact text of one battle: its fields, cuts, control tokens, the answer slot, the verdicts' ids.
`check` says in words what is wrong between a model, its prompt and the battles; exit status 2 where it would break a
run.
"""

import argparse

from sft_judge.commands.arguments import add_limit, judge_path
from sft_judge.commands.console import print_prompt
from sft_judge.core.errors import InputError
from sft_judge.core.files import InputPath

EXAMPLE = "sft-judge prompt show --model runs/demo/judge --battles test.parquet --id 42 --budget 512"


def add_arguments(parser):
    parser.add_argument("action", choices=("show", "check"))
    parser.add_argument(
        "--model", required=True, type=judge_path, metavar="DIR", help="a judge, or a model and --template"
    )
    parser.add_argument("--template", metavar="NAME", help="a name in prompts/ or a file, if there is no judge.json")
    parser.add_argument("--battles", type=InputPath, metavar="F", help="without it, a made-up battle")
    parser.add_argument("--id", help="the battle to show; the first by default")
    parser.add_argument("--order", choices=("ab", "ba"), default="ab")
    parser.add_argument(
        "--budget",
        type=budget,
        metavar="TOTAL|PROMPT,RESPONSE,TOTAL",
        help="tokens to show or to serve with, in the place of judge.json's",
    )
    add_limit(parser)


def budget(text: str) -> tuple[int, int, int]:
    """`512` or `2048,2048,3072`: tokens for the prompt, for each response and in all."""
    numbers = [int(word) if word.strip().isdecimal() else 0 for word in text.split(",")]
    if len(numbers) not in (1, 3) or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a budget, expected 3072 or 2048,2048,3072")
    return tuple(numbers * 3 if len(numbers) == 1 else numbers)


def run(args):
    from sft_judge.prompts.check import check_model
    from sft_judge.prompts.show import example_battle, open_prompt, pick_row

    rows = [example_battle()]
    if args.battles:
        from sft_judge.data.battles import read_battles

        rows = read_battles(args.battles, args.limit).to_pylist()
    if args.action == "show":
        return print_prompt(
            open_prompt(str(args.model), args.template, args.budget), pick_row(rows, args.id), args.order
        )
    findings = check_model(str(args.model), args.template, args.budget, rows)
    for finding in findings:
        print(f"{finding.level}: {finding.text}")
    wrong = sum(finding.level == "wrong" for finding in findings)
    if wrong:
        raise InputError(f"{args.model}: {wrong} of {len(findings)} checks found what would break a run, see above.")
