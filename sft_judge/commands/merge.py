"""
Merge an adapter into its base model, or average judges with the same base (seeds, folds).

Weights are read and written one file at a time, so that memory for about one file is enough for any model. Then the
parity gate compares one adapter with its merged form, on synthetic battles or those of --battles: probabilities may
differ by at most 1e-4 in float32, and by 0.02 in half precision, where merged weights are rounded (0.1 on synthetic
battles, which show rounding more). The gate loads the whole model; without --battles it
is left out, with a warning, if memory is too small. Adapters are averaged as the weight updates that they add to the
base, not factor by factor. An adapter that changes one of two tied weights (head and embeddings) becomes a model with
both. A multimodal model (Gemma-3) becomes a model of its text-only class: a judge reads text, and engines require more
of a multimodal model.
"""

from sft_judge.commands.arguments import FROM_HUB, judge_path, natural
from sft_judge.core.errors import InputError
from sft_judge.core.files import InputPath, OutputPath, whole_folder

EXAMPLE = "sft-judge merge runs/student --output runs/judge --battles battles.parquet"


def add_arguments(parser):
    parser.add_argument("models", nargs="+", type=judge_path, metavar="MODEL", help=FROM_HUB)
    parser.add_argument("--output", required=True, type=OutputPath, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--weights", metavar="W1,W2", help="weights of the models in the average, which sum to 1 (equal)"
    )
    parser.add_argument(
        "--onto",
        choices=("trained", "plain"),
        default="trained",
        help="for a base in 4 bits in training: its weights as rounded in training, or as stored (trained)",
    )
    parser.add_argument(
        "--battles", type=InputPath, metavar="F", help="battles for the gate, for one adapter (synthetic)"
    )
    parser.add_argument(
        "--limit", type=natural, metavar="N", default=64, help="number of battles for the gate; 0: no gate (64)"
    )


def run(args):
    from sft_judge.conversion.merge import merge_judges
    from sft_judge.conversion.merge_gate import check_merged

    try:
        weights = [float(weight) for weight in args.weights.split(",")] if args.weights else None
    except ValueError as error:
        raise InputError(
            f"--weights {args.weights}: expected numbers separated by commas, such as 0.6,0.4."
        ) from error
    models = [str(model) for model in args.models]
    if args.battles and len(models) > 1:
        raise InputError(
            f"--battles compares one adapter with its merged form, but {len(models)} models are averaged. Remove "
            "--battles, and evaluate the average by itself."
        )
    with whole_folder(args.output) as folder:
        result = merge_judges(models, weights, folder, args.onto)
        if args.limit and len(models) == 1:
            result["parity"] = check_merged(models[0], folder, args.battles, args.limit, args.onto)
    print(f"{' + '.join(models)} -> {args.output}")
    return result
