"""
Show the text and tokens that a judge reads, or check them.

`show` prints the exact text of one battle: its fields, cuts, control tokens, the position of the answer and the token
ids of the verdicts. `check` reports problems of a model with its prompt template and battles; the exit status is 2 if
a problem would break a run.
"""

import argparse

from sft_judge.commands.arguments import add_limit, judge_path
from sft_judge.commands.console import print_prompt
from sft_judge.core.errors import InputError
from sft_judge.core.files import InputPath

EXAMPLE = "sft-judge prompt show --model runs/demo/judge --battles runs/demo/test.parquet --id 2000000000 --budget 512"


def add_arguments(parser):
    parser.add_argument("action", choices=("show", "check"), help="print one battle, or report problems")
    parser.add_argument(
        "--model", required=True, type=judge_path, metavar="DIR", help="judge, or plain model with --template"
    )
    parser.add_argument(
        "--template", metavar="NAME", help="prompt template of a plain model: a file, or a name in prompts/"
    )
    parser.add_argument("--battles", type=InputPath, metavar="F", help="battles file (a made-up battle)")
    parser.add_argument("--id", help="id of the battle to show (the first)")
    parser.add_argument("--order", choices=("ab", "ba"), default="ab", help="order of the responses (ab)")
    parser.add_argument(
        "--budget",
        type=budget,
        metavar="TOTAL|PROMPT,RESPONSE,TOTAL",
        help="token budget, in place of that in judge.json",
    )
    add_limit(parser)


def budget(text: str) -> tuple[int, int, int]:
    """Parse a budget such as `512` or `2048,2048,3072`: tokens of the prompt, of each response and in total."""
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
        raise InputError(
            f"{args.model}: {wrong} of {len(findings)} checks found a problem that would break a run, see above."
        )
