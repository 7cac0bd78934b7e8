"""
Judge battles on the terminal or from a pipe; the model is loaded once.

--prompt, --response-a and --response-b give one battle. --battles or standard input gives JSON lines, one battle each,
and each is answered with one line of JSON, in order. Without either, on a terminal, the command asks for battles until
Ctrl-D. Probabilities say which answer people prefer. They are averaged over both orders of the responses, and
calibrated if the judge has a calibration. A line that is not a battle is answered with an error, and the exit status
is then 2.
"""

import sys

from sft_judge.commands.arguments import FROM_HUB, exists, judge_path
from sft_judge.core.choices import ENGINES
from sft_judge.core.errors import InputError
from sft_judge.core.files import InputPath

EXAMPLE = """sft-judge judge --model runs/demo/judge --prompt 'Name a prime.' --response-a '7' --response-b 'Nine'
  sft-judge judge --model runs/demo/judge < battles.jsonl > judgements.jsonl"""
STANDARD_INPUT = "-"
TEXTS = ("prompt", "response_a", "response_b")


def add_arguments(parser):
    parser.add_argument("--model", required=True, type=judge_path, metavar="DIR", help=FROM_HUB)
    parser.add_argument("--prompt", metavar="P", help="prompt of one battle")
    parser.add_argument("--response-a", metavar="A", help="first response")
    parser.add_argument("--response-b", metavar="B", help="second response")
    parser.add_argument("--battles", type=_lines_path, metavar="F", help="JSON lines; - is standard input")
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0], help=f"inference engine ({ENGINES[0]})")
    parser.add_argument("--json", action="store_true", help="print one battle's result as JSON")


def _lines_path(text: str):
    return text if text == STANDARD_INPUT else InputPath(text)


def run(args):
    from contextlib import redirect_stdout

    from sft_judge.inference.judge import Judge

    texts = [text for text in (args.prompt, args.response_a, args.response_b) if text is not None]
    if texts and (len(texts) < len(TEXTS) or args.battles):
        raise InputError("One battle needs --prompt, --response-a and --response-b, all three; several are --battles.")
    asks = not texts and args.battles is None and sys.stdin.isatty()
    source = None if args.battles in (None, STANDARD_INPUT) else _lines_file(args.battles)
    with redirect_stdout(sys.stderr):  # messages of the engine
        judge = Judge.load(str(args.model), args.engine)
    with judge:
        if texts:
            show(judge, texts, args.json)
        elif asks:
            ask(judge, args.json)
        else:
            answer_lines(judge, source)


def _lines_file(path: InputPath) -> InputPath:
    if path.suffix == ".parquet":
        raise InputError(f"{path} is Parquet, expected lines of JSON; `sft-judge predict` judges a file of battles.")
    return exists(path, "lines of JSON, one battle each")


def answer_lines(judge, source: InputPath | None) -> None:
    """
    Answer each line of a file or of standard input with a line of JSON.

    Args:
        judge: a loaded `Judge`.
        source: file of JSON lines, or None for standard input.

    Raises:
        InputError: after all lines are answered, if there were none or some are not battles.
    """
    import json
    from contextlib import nullcontext, redirect_stdout

    from sft_judge.inference.judge_lines import arriving_lines, judge_lines

    name, out = source or "standard input", sys.stdout
    num_lines = num_wrong = 0
    with open(source, "rb") if source else nullcontext(sys.stdin) as file, redirect_stdout(sys.stderr):
        for answers in judge_lines(judge, arriving_lines(file.fileno())):
            print(*(json.dumps(answer) + "\n" for answer in answers), sep="", end="", file=out, flush=True)
            num_lines += len(answers)
            num_wrong += sum("error" in answer for answer in answers)
    if not num_lines:
        raise InputError(f"{name} has no battle, expected one JSON object per line with {', '.join(TEXTS)}.")
    if num_wrong:
        raise InputError(f"{num_wrong} of {num_lines} lines of {name} are not battles; their answers are errors.")


def ask(judge, as_json: bool) -> None:
    """Ask for battles on the terminal until Ctrl-D; `as_json` prints results as JSON."""
    import readline  # noqa: F401 - enables line editing in `input`

    print("Enter a prompt and two responses, each on one line. Ctrl-D ends.")
    try:
        while True:
            texts = [input(f"{name.replace('_', ' ')}: ") for name in TEXTS]
            try:
                show(judge, texts, as_json)
            except InputError as error:
                print(f"sft-judge: {error}")
    except EOFError:
        print()


def show(judge, texts: list[str], as_json: bool) -> None:
    """
    Judge one battle and print its probabilities.

    Args:
        judge: a loaded `Judge`.
        texts: prompt, response a and response b.
        as_json: print JSON instead of a chart.
    """
    import json
    from dataclasses import asdict

    judgement = judge.judge(*texts)
    if as_json:
        print(json.dumps(asdict(judgement)))
        return
    for name in ("a", "b", "tie")[: judge.spec.num_verdicts]:
        value = getattr(judgement, name)
        print(f"{name:<4} {value:6.1%}  {'█' * round(40 * value)}")
    agree = {True: "both orders agree", False: "the two orders disagree", None: "one order shown"}
    calibrated = "calibrated" if judge.spec.calibration else "not calibrated"
    print(f"verdict: {judgement.verdict} ({agree[judgement.swap_agreement]}; {calibrated})")
