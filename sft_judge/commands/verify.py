"""
Run the parity gate: check that engines and forms of one judge give the same probabilities.

If they do not, the battle with the largest difference is named and the exit status is 3. With one MODEL, its engines
are compared. With MODEL_B, that form is compared with MODEL on labelled battles, and refused if its log loss is higher
by more than --tolerance and the paired 95 % interval of the rise is above 0. If --engines names two, the engines of
MODEL_B are compared as well.
"""

from sft_judge.commands.arguments import FROM_HUB, add_tolerance, judge_path, positive
from sft_judge.core.choices import DTYPES, ENGINES
from sft_judge.core.errors import InputError, nearest
from sft_judge.core.files import InputPath
from sft_judge.core.model_files import name_of

EXAMPLE = "sft-judge verify runs/judge runs/judge-w4a16 --battles battles.parquet --engines transformers,vllm"


def add_arguments(parser):
    parser.add_argument("model", type=judge_path, metavar="MODEL", help=FROM_HUB)
    parser.add_argument(
        "model_b",
        nargs="?",
        type=judge_path,
        metavar="MODEL_B",
        help="another form of the judge, such as a quantised one",
    )
    parser.add_argument("--battles", required=True, type=InputPath, metavar="F", help="battles file")
    parser.add_argument(
        "--engines",
        default=",".join(ENGINES),
        help="engines, separated by commas, the reference first; auto: those that can run MODEL_B on this machine",
    )
    parser.add_argument("--dtype", default="auto", choices=DTYPES, help="of the weights; auto: that of the checkpoint")
    add_tolerance(parser)
    parser.add_argument(
        "--limit", type=positive, metavar="N", default=200, help="number of battles to compare on (200)"
    )


def outputs(args):
    """Return the path of the manifest, in the folder of the model that is checked; nothing for the Hub's cache."""
    from pathlib import Path

    checked = args.model_b or args.model
    # the Hub's cache is not written to
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
        raise InputError("One model on one engine leaves nothing to compare; give two engines or a second model.")
    return verify_engines(str(args.model), rows, engines, args.dtype)[1]
