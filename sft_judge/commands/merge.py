"""
Merge adapters into their base, or average judges of one base (seeds, folds).

Weights are read and written one file at a time, so that a model of any size needs memory for about one. One adapter
is held to its merged form on --battles: the probabilities must be the same to 1e-4 in float32. Adapters are averaged
as the products that they add to their base, never as factors. A multimodal model (Gemma-3) becomes one of
its text's own class: a judge reads text, and engines ask such a model for more.
"""

from sft_judge.commands.arguments import FROM_HUB, judge_path, positive
from sft_judge.core.errors import InputError
from sft_judge.core.files import InputPath, OutputPath, whole_folder

EXAMPLE = "sft-judge merge runs/student --output runs/judge --battles battles.parquet"


def add_arguments(parser):
    parser.add_argument("models", nargs="+", type=judge_path, metavar="MODEL", help=FROM_HUB)
    parser.add_argument("--output", required=True, type=OutputPath, metavar="DIR")
    parser.add_argument("--weights", metavar="W1,W2", help="shares of the models, which sum to 1 (equal)")
    parser.add_argument(
        "--onto",
        choices=("trained", "plain"),
        default="trained",
        help="a base that was in 4 bits in training: its weights as they were then, or as they are stored (trained)",
    )
    parser.add_argument("--battles", type=InputPath, metavar="F", help="run the parity gate on these, for one adapter")
    parser.add_argument("--limit", type=positive, metavar="N", default=64, help="battles for the gate (64)")


def run(args):
    from sft_judge.conversion.merge import merge_judges
    from sft_judge.inference.verify import verify_merged

    try:
        weights = [float(weight) for weight in args.weights.split(",")] if args.weights else None
    except ValueError as error:
        raise InputError(f"--weights {args.weights}: expected numbers with commas, such as 0.6,0.4.") from error
    models = [str(model) for model in args.models]
    if args.battles and len(models) > 1:
        raise InputError(
            f"--battles holds one adapter to its merged form; the average of {len(models)} models has none to be held "
            "to. Leave it out, and evaluate the average by itself."
        )
    with whole_folder(args.output) as folder:
        result = merge_judges(models, weights, folder, args.onto)
        if args.battles:
            result["parity"] = verify_merged(models[0], folder, args.battles, args.limit, args.onto)
    print(f"{' + '.join(models)} -> {args.output}")
    return result
