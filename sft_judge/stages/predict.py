"""
Verdict probabilities for battles, in both orders unless told otherwise.

Writes raw, un-swapped log-probabilities; evaluate, submit and serve apply the judge's calibration. Several battles
files are scored by one start of the engine. With --out-of-fold, DIR holds fold-*/ and each row is scored by the judge
that did not see its fold (rows without a label: by all of them, averaged). A killed run goes on where it stopped.
"""

import argparse
import sys

from sft_judge.errors import InputError
from sft_judge.files import InputPath, OutputPath
from sft_judge.stages import add_limit, model_path, positive

EXAMPLE = (
    "sft-judge predict --model runs/judge --battles test.parquet --output probs.parquet --engine vllm --check 100"
)


def add_arguments(parser):
    parser.add_argument("--model", required=True, type=model_path, metavar="DIR", help="a judge, or a folder of folds")
    parser.add_argument("--battles", required=True, nargs="+", type=InputPath, metavar="F")
    parser.add_argument(
        "--output", required=True, nargs="+", type=OutputPath, metavar="F", help="one for each battles"
    )
    parser.add_argument(
        "--engine",
        choices=("transformers", "vllm", "auto"),
        default="transformers",
        help="auto: vLLM where it can run this judge here (transformers)",
    )
    parser.add_argument("--swap", choices=("both", "none"), help="orders to show; by default the judge's own policy")
    parser.add_argument("--out-of-fold", action="store_true", help="score each row by the judge that did not see it")
    parser.add_argument("--fold", type=int, metavar="N", help="only rows of this fold, in files that carry folds")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"))
    parser.add_argument("--check", type=positive, metavar="N", help="hold N battles to transformers' probabilities")
    parser.add_argument(
        "--shard",
        type=shard,
        default=(0, 1),
        metavar="I/N",
        help="the I-th of N such commands, from 0, on one disk; the last to finish writes the output",
    )
    parser.add_argument("--ray", metavar="auto|ADDRESS", help="score on a Ray cluster, an engine a GPU (extra `ray`)")
    add_limit(parser)


def shard(text: str) -> tuple[int, int]:
    """argparse type: `0/4` to (0, 4)."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"{text} is no shard; expected I/N with I from 0 to N - 1, such as 0/4")
    return int(index), int(count)


def run(args):
    from sft_judge.engines import usable_engines
    from sft_judge.manifest import provenance
    from sft_judge.predict import find_judges, open_jobs, predict

    if args.ray and args.check:
        raise InputError(
            "--check compares with an engine in this process; leave out --ray, or use `sft-judge verify`."
        )
    jobs = open_jobs(args.battles, args.output, args.fold, args.limit)
    names = ("swap", "out_of_fold", "dtype", "check", "shard", "ray")
    settings = {name: getattr(args, name) for name in names}
    whole = argparse.Namespace(**{**vars(args), "shard": (0, 1), "ray": None})  # shards work on one thing
    stamp = provenance(sys.modules[__name__], whole)["fingerprint"]
    engine = args.engine
    if engine == "auto":
        engine = usable_engines(next(iter(find_judges(str(args.model)))))[-1]
    facts = predict(str(args.model), jobs, engine, settings, stamp)
    if facts is None:
        print("this shard is done; the last one to finish writes the output")
        return None
    for job in jobs:
        print(f"{job.battles.num_rows} battles -> {job.output}")
    return facts
