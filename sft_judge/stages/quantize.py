"""
Quantise a judge with auto-round, calibrated on its own prompts and verdicts.

Give training battles: those of the folds kept from training (--holdout-fold) are never used. W4A16 runs in vLLM on a
GPU and a CPU; W8A16 on a GPU. The copy has no calibration: run `calibrate` on it anew.
"""

from sft_judge.files import InputPath, OutputPath
from sft_judge.stages import add_limit, model_path, positive

EXAMPLE = "sft-judge quantize --model runs/judge --battles battles.parquet --output runs/judge-w4a16"


def add_arguments(parser):
    parser.add_argument("--model", required=True, type=model_path, metavar="DIR", help="a judge with whole weights")
    parser.add_argument("--battles", required=True, type=InputPath, metavar="F")
    parser.add_argument("--output", required=True, type=OutputPath, metavar="DIR")
    parser.add_argument("--scheme", default="W4A16", choices=("W4A16", "W8A16"))
    parser.add_argument("--holdout-fold", type=int, metavar="N", help="a fold that must not be used")
    parser.add_argument("--seqlen", type=positive, default=2048, help="tokens a calibration row")
    parser.add_argument("--nsamples", type=positive, default=512, help="calibration rows at most")
    parser.add_argument("--iters", type=positive, default=1000, help="rounds of tuning a block")
    parser.add_argument("--seed", type=int, default=42, help="of the calibration rows and of auto-round (42)")
    add_limit(parser)


def run(args):
    from sft_judge.battles.schema import read_battles
    from sft_judge.errors import InputError
    from sft_judge.files import whole_folder
    from sft_judge.models import is_adapter
    from sft_judge.quantize import quantize_judge
    from sft_judge.training_data import split_folds

    model = str(args.model)
    if is_adapter(model):
        raise InputError(f"{model} is an adapter; merge it first: sft-judge merge {model} --output DIR.")
    battles, _ = split_folds(read_battles(args.battles), None, args.holdout_fold)
    with whole_folder(args.output) as folder:
        facts = quantize_judge(
            *(model, battles.slice(0, args.limit), folder),
            scheme=args.scheme,
            seqlen=args.seqlen,
            nsamples=args.nsamples,
            iters=args.iters,
            seed=args.seed,
        )
    print(f"{model} -> {args.output} ({args.scheme})")
    return facts
