"""
The parity gate: engines and forms of one judge give the same numbers, or the worst battle is named (exit status 3).

With one MODEL its engines are compared; with two, the second is held to the first on labelled battles (and to itself
on its engines, where two are named): it is refused where its log loss has certainly risen, the paired 95 % interval
lying above 0, by more than --tolerance.
"""

from sft_judge.commands.arguments import FROM_HUB, add_tolerance, judge_path, positive
from sft_judge.core.choices import DTYPES, ENGINES
from sft_judge.core.errors import InputError, nearest
from sft_judge.core.files import InputPath
from sft_judge.core.model_files import name_of

EXAMPLE = "sft-judge verify runs/judge runs/judge-w4a16 --battles battles.parquet --engines transformers,vllm"


def add_arguments(parser):
    parser.add_argument("model", type=judge_path, metavar="MODEL", help=FROM_HUB)
    parser.add_argument("model_b", nargs="?", type=judge_path, metavar="MODEL_B", help="another form of the judge")
    parser.add_argument("--battles", required=True, type=InputPath, metavar="F")
    parser.add_argument(
        "--engines",
        default=",".join(ENGINES),
        help="comma-separated, the first is the reference; auto: those that can run MODEL_B here",
    )
    parser.add_argument("--dtype", default="auto", choices=DTYPES)
    add_tolerance(parser)
    parser.add_argument("--limit", type=positive, metavar="N", default=200, help="battles to compare on (200)")


def outputs(args):
    """Nothing but the manifest, beside the model verified."""
    from pathlib import Path

    checked = args.model_b or args.model
    # the hub's cache is not written to
    return [Path(checked) / "verify"] if Path(checked).is_dir() and name_of(checked) == str(checked) else []


def run(args):
    from sft_judge.data.battles import read_battles
    from sft_judge.inference.engines import usable_engines
    from sft_judge.inference.verify import verify_engines, verify_forms

    checked = str(args.model_b or args.model)
    engines = usable_engines(checked) if args.engines == "auto" else args.engines.split(",")
    for name in engines:
        if name not in ENGINES:
            raise InputError(f"--engines names {name!r}; known are {', '.join(ENGINES)}.{nearest(name, ENGINES)}")
    rows = read_battles(args.battles, args.limit).to_pylist()
    if args.model_b:
        return verify_forms(str(args.model), str(args.model_b), rows, engines, args.dtype, args.tolerance)
    if len(engines) < 2:
        raise InputError("One model on one engine leaves nothing to compare; name two engines, or a second model.")
    return verify_engines(str(args.model), rows, engines, args.dtype)[1]
