"""
Look at what a judge sees.

`show` prints the exact text of one battle with its fields, control tokens, the answer slot and the verdicts' ids;
`check` says whether the verdict words are single tokens in this place and how many battles the budget cuts.
"""

from sft_judge.files import InputPath
from sft_judge.stages import add_limit, model_path

EXAMPLE = "sft-judge prompt show --model runs/demo/judge --battles test.parquet --id 42"


def add_arguments(parser):
    parser.add_argument("action", choices=("show", "check"))
    parser.add_argument(
        "--model", required=True, type=model_path, metavar="DIR", help="a judge, or a model and --template"
    )
    parser.add_argument(
        "--template", metavar="NAME", help="a name in prompts/ or a file, for a model without judge.json"
    )
    parser.add_argument("--battles", type=InputPath, metavar="F", help="without it, a made-up battle")
    parser.add_argument("--id", help="the battle to show; the first by default")
    parser.add_argument("--order", choices=("ab", "ba"), default="ab")
    add_limit(parser)


def run(args):
    from sft_judge.prompt_view import check_battles, made_up_battle, open_prompt, show_battle

    prompt = open_prompt(str(args.model), args.template)
    if args.battles:
        from sft_judge.battles.schema import read_battles

        rows = read_battles(args.battles, args.limit).to_pylist()
    else:
        rows = [made_up_battle()]
    if args.action == "show":
        show_battle(prompt, rows, args.id, args.order)
    else:
        check_battles(prompt, rows)
