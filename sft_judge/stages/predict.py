"""
Verdict probabilities for battles, in both orders unless told otherwise.

Writes raw, un-swapped log-probabilities; evaluate, submit and serve apply the judge's calibration. Several battles
files are scored by one start of the engine. With --out-of-fold, DIR holds fold-*/ and each row is scored by the judge
that did not see its fold (rows without a fold: by all of them, averaged). A killed run goes on from its last shard.
"""

import sys

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
    add_limit(parser)


def run(args):
    from sft_judge.engines import usable_engines
    from sft_judge.manifest import provenance
    from sft_judge.predict import find_judges, open_jobs, predict

    jobs = open_jobs(args.battles, args.output, args.fold, args.limit)
    settings = {"swap": args.swap, "out_of_fold": args.out_of_fold, "dtype": args.dtype, "check": args.check}
    stamp = provenance(sys.modules[__name__], args)["fingerprint"]
    engine = args.engine
    if engine == "auto":
        engine = usable_engines(next(iter(find_judges(str(args.model)))))[-1]
    facts = predict(str(args.model), jobs, engine, settings, stamp)
    for job in jobs:
        print(f"{job.battles.num_rows} battles -> {job.output}")
    return facts
