"""
Predict verdict probabilities for battles, in both orders by default.

The output has raw log-probabilities, with a and b as in the battle in both orders; evaluate, submit and serve apply
the judge's calibration. Several battles files share one start of the engine. With --out-of-fold, DIR contains fold-*/
and each row is scored by the judge that was not trained on its fold (a row without a label: by the mean of all
judges). A killed run resumes where it stopped.

With --time-budget, the output is complete from the first seconds on, and so is the submission of --sample and
--submission. They start with class frequencies. Then battles are judged in one order, the shortest first, and then in
the other order, those that the first order is least sure of first (with --length-rule: those where the second order
gained most per token). The run ends in time; the same command resumes with what is left. The file marks the battles
that were not judged, and evaluate and submit report them.
"""

import argparse
import sys

from sft_judge.commands.arguments import FROM_HUB, TimeBudget, add_engine, add_limit, judge_path, natural, positive
from sft_judge.core.choices import SWAPS
from sft_judge.core.errors import InputError
from sft_judge.core.files import InputPath, OutputPath
from sft_judge.core.manifest import fingerprint

EXAMPLE = (
    "sft-judge predict --model runs/judge --battles test.parquet --output probs.parquet --engine vllm --check 100"
)


def add_arguments(parser):
    parser.add_argument(
        "--model",
        required=True,
        type=judge_path,
        metavar="DIR",
        help=f"{FROM_HUB}; with --out-of-fold the folder of fold-*/",
    )
    parser.add_argument("--battles", required=True, nargs="+", type=InputPath, metavar="F", help="battles files")
    parser.add_argument(
        "--output",
        required=True,
        nargs="+",
        type=OutputPath,
        metavar="F",
        help="probs files to write, one for each battles file",
    )
    add_engine(parser)
    parser.add_argument(
        "--swap",
        choices=(*SWAPS, "budget"),
        help="orders to judge (the judge's own); budget: the second one where it helps most, with --time-budget",
    )
    parser.add_argument(
        "--out-of-fold", action="store_true", help="score each row by the judge that was not trained on it"
    )
    parser.add_argument(
        "--fold", type=natural, metavar="N", help="score only the rows of this fold, in files with folds"
    )
    parser.add_argument(
        "--tensor-parallel", type=positive, default=1, metavar="N", help="GPUs for one model in vLLM (1)"
    )
    parser.add_argument(
        "--check", type=positive, metavar="N", help="compare N battles with transformers' probabilities"
    )
    parser.add_argument(
        "--shard",
        type=shard,
        default=(0, 1),
        metavar="I/N",
        help="part I of N, counted from 0; the commands share a disk, and the last to finish writes the output",
    )
    parser.add_argument(
        "--ray", metavar="auto|ADDRESS", help="score on a Ray cluster, with an engine for each GPU (extra `ray`)"
    )
    timed = parser.add_argument_group("against a deadline")
    timed.add_argument(
        "--time-budget", type=TimeBudget, metavar="T", help="time for the whole command, such as 9h, 90s or 1h30m"
    )
    timed.add_argument("--sample", type=InputPath, metavar="CSV", help="the competition's sample_submission.csv")
    timed.add_argument(
        "--submission",
        type=OutputPath,
        metavar="CSV",
        help="submission to write beside the output, in the format of --sample",
    )
    timed.add_argument(
        "--uncertain-in",
        type=InputPath,
        metavar="F",
        help="probs file of another judge; start with the battles that it is least sure of",
    )
    timed.add_argument(
        "--length-rule",
        type=InputPath,
        nargs=2,
        metavar=("PROBS", "BATTLES"),
        help="out-of-fold probs in both orders and their battles, to find where the second order gains most",
    )
    add_limit(parser)


def shard(text: str) -> tuple[int, int]:
    """Parse a shard such as `0/4`, as an argparse type, to (0, 4)."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"{text} is not a shard; expected I/N with I from 0 to N - 1, such as 0/4")
    return int(index), int(count)


def run(args):
    from sft_judge.inference.engines import usable_engines
    from sft_judge.inference.jobs import open_jobs
    from sft_judge.inference.out_of_fold import find_judges
    from sft_judge.inference.predict import PredictSettings, predict

    if args.time_budget:
        return _run_in_time(args)
    jobs = open_jobs(args.battles, args.output, args.fold, args.limit)
    engine, judges = args.engine, find_judges(str(args.model))
    if engine == "auto":
        engine = usable_engines(next(iter(judges)))[-1]
    names = ("swap", "out_of_fold", "dtype", "check", "shard", "ray", "tensor_parallel")
    settings = PredictSettings(engine, **{name: getattr(args, name) for name in names})
    result = predict(str(args.model), jobs, settings, _stamp(args))
    if result is None:
        print("this shard is done; the last shard to finish writes the output")
        return None
    for job in jobs:
        print(f"{job.battles.num_rows} battles -> {job.output}")
    return result


def before(args) -> None:
    """Check the arguments of a deadline, and write class frequencies if there is no output yet."""
    alone = ("sample", "submission", "uncertain_in", "length_rule")
    if args.ray and args.check:
        raise InputError("--check compares with an engine in this process; remove --ray, or run `sft-judge verify`.")
    given = [name for name in alone if getattr(args, name)] + ["swap budget"] * (args.swap == "budget")
    if not args.time_budget:
        if given:
            raise InputError(f"--{given[0].replace('_', '-')} needs --time-budget, such as --time-budget 9h.")
        return
    for name in ("out_of_fold", "check", "ray"):
        if getattr(args, name):
            raise InputError(f"--{name.replace('_', '-')} cannot be combined with --time-budget; remove one of them.")
    if len(args.battles) > 1:
        raise InputError("--time-budget takes one battles file.")
    if bool(args.sample) != bool(args.submission):
        raise InputError("--sample and --submission go together.")
    _output(args).write_frequencies()


def _output(args):
    from sft_judge.inference.jobs import open_jobs
    from sft_judge.inference.submission import read_sample
    from sft_judge.inference.time_budget.output import TimedOutput

    (job,) = open_jobs(args.battles, args.output, args.fold, args.limit)
    sample = read_sample(args.sample) if args.sample else None
    return TimedOutput(str(args.model), job, args.swap, sample, args.submission)


def _run_in_time(args):
    from sft_judge.inference.engines import usable_engines
    from sft_judge.inference.time_budget.predict import TimedSettings, predict_in_time
    from sft_judge.inference.time_budget.scheduler import Deadline

    deadline = Deadline(args.time_budget, args.time_budget.started)
    names = ("dtype", "shard", "uncertain_in", "length_rule", "tensor_parallel")
    engine = usable_engines(str(args.model))[-1] if args.engine == "auto" else args.engine
    settings = TimedSettings(engine, **{name: getattr(args, name) for name in names})
    # finished judgements do not depend on these arguments
    free = ("time_budget", "sample", "submission", "uncertain_in", "length_rule")
    stamp = _stamp(args, **dict.fromkeys(free))
    result = predict_in_time(_output(args), deadline, settings, stamp)
    print(
        f"{result['judged']} of {result['battles']} battles judged, {result['judged_in_both_orders']} in both orders, "
        "in "
        f"{result['seconds']:.0f} of {float(args.time_budget):.0f} s -> {args.output[0]}"
        + ("" if result["complete"] else "; the same command resumes")
    )
    return result if args.shard[0] == 0 else None  # one manifest


def _stamp(args, **changes) -> str:
    """Return a fingerprint of what scores depend on: not of who computes them, nor of `changes`."""
    changes |= {"shard": (0, 1), "ray": None, "tensor_parallel": 1}
    changed = argparse.Namespace(**{**vars(args), **changes})
    return fingerprint(sys.modules[__name__], changed, args.provenance["inputs"])
