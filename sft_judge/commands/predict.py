"""
Verdict probabilities for battles, in both orders unless told otherwise.

Writes raw, un-swapped log-probabilities; evaluate, submit and serve apply the judge's calibration. Several battles
files are scored by one start of the engine. With --out-of-fold, DIR holds fold-*/ and each row is scored by the judge
that did not see its fold (rows without a label: by all of them, averaged). A killed run goes on where it stopped.

With --time-budget a whole file is there from the first seconds on, and with --sample and --submission a submission:
class frequencies, then a judgement of one battle after another, the shortest first, then the other order for those
that one order leaves most unsure (or, with --length-rule, where it gained most per token). It ends in time, and the
same command goes on with what is left. What was not judged is said in the file, by evaluate and by submit.
"""

import argparse
import sys

from sft_judge.commands.arguments import FROM_HUB, TimeBudget, add_engine, add_limit, judge_path, positive
from sft_judge.core.choices import SWAPS
from sft_judge.core.errors import InputError
from sft_judge.core.files import InputPath, OutputPath
from sft_judge.core.manifest import fingerprint

EXAMPLE = (
    "sft-judge predict --model runs/judge --battles test.parquet --output probs.parquet --engine vllm --check 100"
)


def add_arguments(parser):
    parser.add_argument(
        "--model", required=True, type=judge_path, metavar="DIR", help=f"{FROM_HUB}; or a folder of folds"
    )
    parser.add_argument("--battles", required=True, nargs="+", type=InputPath, metavar="F")
    parser.add_argument("--output", required=True, nargs="+", type=OutputPath, metavar="F", help="one for each file")
    add_engine(parser)
    parser.add_argument(
        "--swap",
        choices=(*SWAPS, "budget"),
        help="orders to show, by default the judge's own policy; budget, with --time-budget: the second one where it "
        "helps most",
    )
    parser.add_argument("--out-of-fold", action="store_true", help="score each row by the judge that did not see it")
    parser.add_argument("--fold", type=int, metavar="N", help="only rows of this fold, in files that carry folds")
    parser.add_argument(
        "--tensor-parallel", type=positive, default=1, metavar="N", help="GPUs that vLLM spreads one model over (1)"
    )
    parser.add_argument("--check", type=positive, metavar="N", help="hold N battles to transformers' probabilities")
    parser.add_argument(
        "--shard",
        type=shard,
        default=(0, 1),
        metavar="I/N",
        help="the I-th of N such commands, from 0, on one disk; the last to finish writes the output",
    )
    parser.add_argument("--ray", metavar="auto|ADDRESS", help="score on a Ray cluster, an engine a GPU (extra `ray`)")
    timed = parser.add_argument_group("against a deadline")
    timed.add_argument("--time-budget", type=TimeBudget, metavar="T", help="such as 9h, 90s or 1h30m, start included")
    timed.add_argument("--sample", type=InputPath, metavar="CSV", help="the competition's sample_submission.csv")
    timed.add_argument("--submission", type=OutputPath, metavar="CSV", help="kept beside the output, in its format")
    timed.add_argument(
        "--uncertain-in", type=InputPath, metavar="F", help="begin with the battles that these probs are least sure of"
    )
    timed.add_argument(
        "--length-rule",
        type=InputPath,
        nargs=2,
        metavar=("PROBS", "BATTLES"),
        help="out-of-fold probs in both orders, and verdicts: where the other order gains most",
    )
    add_limit(parser)


def shard(text: str) -> tuple[int, int]:
    """argparse type: `0/4` to (0, 4)."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"{text} is no shard; expected I/N with I from 0 to N - 1, such as 0/4")
    return int(index), int(count)


def run(args):
    from sft_judge.inference.engines import usable_engines
    from sft_judge.inference.jobs import open_jobs
    from sft_judge.inference.out_of_fold import find_judges
    from sft_judge.inference.predict import PredictSettings, predict

    if args.time_budget:
        return _run_in_time(args)
    jobs = open_jobs(args.battles, args.output, args.fold, args.limit)
    engine = args.engine
    if engine == "auto":
        engine = usable_engines(next(iter(find_judges(str(args.model)))))[-1]
    names = ("swap", "out_of_fold", "dtype", "check", "shard", "ray", "tensor_parallel")
    settings = PredictSettings(engine, **{name: getattr(args, name) for name in names})
    result = predict(str(args.model), jobs, settings, _stamp(args))
    if result is None:
        print("this shard is done; the last one to finish writes the output")
        return None
    for job in jobs:
        print(f"{job.battles.num_rows} battles -> {job.output}")
    return result


def before(args) -> None:
    """Check what a deadline needs, and write class frequencies where there is no output yet."""
    alone = ("sample", "submission", "uncertain_in", "length_rule")
    if args.ray and args.check:
        raise InputError(
            "--check compares with an engine in this process; leave out --ray, or run `sft-judge verify`."
        )
    given = [name for name in alone if getattr(args, name)] + ["swap budget"] * (args.swap == "budget")
    if not args.time_budget:
        if given:
            raise InputError(f"--{given[0].replace('_', '-')} goes with --time-budget, such as --time-budget 9h.")
        return
    for name in ("out_of_fold", "check", "ray"):
        if getattr(args, name):
            raise InputError(f"--{name.replace('_', '-')} does not go with --time-budget; leave one of them out.")
    if len(args.battles) > 1:
        raise InputError("--time-budget takes one battles file: it could not say which of them comes first.")
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
    # what is known of a battle does not depend on these
    free = ("time_budget", "sample", "submission", "uncertain_in", "length_rule")
    stamp = _stamp(args, **dict.fromkeys(free))
    result = predict_in_time(_output(args), deadline, settings, stamp)
    print(
        f"{result['judged']} of {result['battles']} battles judged, {result['judged_in_both_orders']} in both orders, "
        "in "
        f"{result['seconds']:.0f} of {float(args.time_budget):.0f} s -> {args.output[0]}"
        + ("" if result["complete"] else "; the same command goes on")
    )
    return result if args.shard[0] == 0 else None  # one manifest


def _stamp(args, **changes) -> str:
    """What scores depend on: not on who computes them, nor on `changes`."""
    changes |= {"shard": (0, 1), "ray": None, "tensor_parallel": 1}
    changed = argparse.Namespace(**{**vars(args), **changes})
    return fingerprint(sys.modules[__name__], changed, args.provenance["inputs"])
