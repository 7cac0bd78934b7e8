"""
Quantise a judge with auto-round on its own prompts and verdicts, and compare it with the original.

Give training battles. The gate uses battles that did not tune the quantised judge: those of --holdout-fold, else of
folds that the judge was not trained on, else those that tuning did not use; a message tells if there are none. The
quantised judge is refused (exit status 3) if its log loss is higher by more than --tolerance and the paired 95 %
interval of the rise is above 0. W4A16 runs in vLLM on a GPU and on a CPU with AVX-512, W8A16 and FP8_STATIC on a GPU.
NF4 and INT8 are formats of bitsandbytes, for comparison. The quantised judge has no calibration: run `calibrate` on
it.
"""

from sft_judge.commands.arguments import FROM_HUB, add_limit, add_tolerance, judge_path, natural, positive, seed
from sft_judge.core.choices import BITS_OF_SCHEME, QUANTIZED_FORMATS
from sft_judge.core.errors import InputError
from sft_judge.core.files import InputPath, OutputPath, whole_folder
from sft_judge.core.manifest import manifest_path
from sft_judge.core.resources import find_resource

EXAMPLE = "sft-judge quantize --model runs/judge --battles battles.parquet --output runs/judge-w4a16"


def add_arguments(parser):
    parser.add_argument("--model", required=True, type=judge_path, metavar="DIR", help=f"{FROM_HUB}; not an adapter")
    parser.add_argument("--battles", required=True, type=InputPath, metavar="F", help="training battles")
    parser.add_argument("--output", required=True, type=OutputPath, metavar="DIR", help="folder to write")
    parser.add_argument("--scheme", default="W4A16", choices=tuple(BITS_OF_SCHEME), help="number formats (W4A16)")
    parser.add_argument(
        "--format", default="auto_round", choices=QUANTIZED_FORMATS, help="format of the files (auto_round)"
    )
    parser.add_argument("--holdout-fold", type=natural, metavar="N", help="fold that is held out from tuning")
    parser.add_argument("--seqlen", type=positive, default=2048, help="tokens per calibration row (2048)")
    parser.add_argument("--nsamples", type=positive, default=512, help="at most this many calibration rows (512)")
    parser.add_argument("--iters", type=natural, default=1000, help="tuning steps per block; 0: plain rounding (1000)")
    parser.add_argument("--seed", type=seed, default=42, help="seed of the calibration rows and of auto-round (42)")
    parser.add_argument(
        "--gate",
        type=natural,
        default=2000,
        metavar="N",
        help="at most this many gate battles, fewer if they can detect a rise of --tolerance; 0: no gate (2000)",
    )
    add_tolerance(parser)
    parser.add_argument(
        "--ladder",
        metavar="FILE",
        help="sweep over settings, such as sweeps/quantization; --output is the cheapest judge that is not worse",
    )
    parser.add_argument(
        "--margin", type=float, default=0.01, help="non-inferiority margin of --ladder, in the sweep's measure (0.01)"
    )
    add_limit(parser)


def run(args):
    from sft_judge.conversion.gate_rows import draw_gate_rows, labelled_pool, split_for_gate
    from sft_judge.conversion.quantize import Tuning, quantize_judge
    from sft_judge.core.model_files import is_adapter
    from sft_judge.data.battles import read_battles
    from sft_judge.inference.verify import verify_copy
    from sft_judge.modeling.judge_spec import read_spec

    model = str(args.model)
    if is_adapter(model):
        raise InputError(f"{model} is an adapter; merge it first: sft-judge merge {model} --output DIR.")
    if args.ladder:
        return run_ladder(args, model)
    battles = read_battles(args.battles)
    spec = read_spec(model)
    folds_seen, num_verdicts = spec.training.get("folds_seen") or [], len(spec.verdict_words)
    used, pool = split_for_gate(battles, args.holdout_fold, folds_seen, num_verdicts)
    if args.gate:
        pool = labelled_pool(pool, num_verdicts)
    tuning = Tuning(args.scheme, args.format, args.seqlen, args.nsamples, args.iters, args.seed)
    with whole_folder(args.output) as folder:
        result, tuned_ids = quantize_judge(model, used.slice(0, args.limit), folder, tuning)
        if args.gate:
            rows = draw_gate_rows(pool, args.gate, tuned_ids, folds_seen, args.seed)
            result |= verify_copy(model, str(folder), rows, args.tolerance)
    print(f"{model} -> {args.output} ({args.scheme})")
    return result


def run_ladder(args, model: str) -> dict:
    """
    Run the ladder in a folder beside the output, and copy the chosen judge to the output.

    Args:
        args: arguments of the command.
        model: folder of the judge to quantise.
    """
    import shutil

    from sft_judge.commands.sweep import print_results
    from sft_judge.pipelines.parallel import default_num_jobs
    from sft_judge.pipelines.quantization_search import find_cheapest
    from sft_judge.pipelines.sweep import read_sweep
    from sft_judge.pipelines.sweep_runner import run_sweep

    folder = f"{args.output}.ladder"
    given = [f"judge={model}", f"battles={args.battles}", f"run={folder}"]
    sweep = read_sweep(find_resource("recipes", args.ladder), given)
    scores, result, status = run_sweep(sweep, default_num_jobs())
    print_results(sweep, result)
    if status:
        raise SystemExit(status)
    chosen = find_cheapest(sweep, scores, args.margin)
    made = scores.models[chosen, sweep.seeds[0]]
    with whole_folder(args.output) as output:
        shutil.copytree(made, output, dirs_exist_ok=True, ignore=shutil.ignore_patterns(manifest_path(made).name))
    print(f"{chosen}: the cheapest that is no worse by {args.margin} -> {args.output}; all of them: {folder}")
    return {"ladder": args.ladder, "chosen": chosen, "margin": args.margin}
