"""
Judge one battle and print the probabilities.

Prints what people are expected to prefer, over both orders of the responses, calibrated where the judge is.
"""

from sft_judge.commands.arguments import FROM_HUB, judge_path
from sft_judge.core.choices import ENGINES

EXAMPLE = "sft-judge judge --model runs/demo/judge --prompt 'Name a prime.' --response-a '7' --response-b 'Nine'"


def add_arguments(parser):
    parser.add_argument("--model", required=True, type=judge_path, metavar="DIR", help=FROM_HUB)
    parser.add_argument("--prompt", required=True, metavar="P")
    parser.add_argument("--response-a", required=True, metavar="A")
    parser.add_argument("--response-b", required=True, metavar="B")
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of words")


def run(args):
    import json
    from dataclasses import asdict

    from sft_judge.inference.judge import Judge

    with Judge.load(str(args.model), args.engine) as judge:
        judgement = judge.judge(args.prompt, args.response_a, args.response_b)
    if args.json:
        print(json.dumps(asdict(judgement)))
        return None
    for name in ("a", "b", "tie")[: judge.spec.num_verdicts]:
        value = getattr(judgement, name)
        print(f"{name:<4} {value:6.1%}  {'█' * round(40 * value)}")
    agree = {True: "both orders agree", False: "the two orders disagree", None: "one order shown"}
    calibrated = "calibrated" if judge.spec.calibration else "not calibrated"
    print(f"verdict: {judgement.verdict} ({agree[judgement.swap_agreement]}; {calibrated})")
