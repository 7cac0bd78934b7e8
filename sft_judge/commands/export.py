"""
Export a judge as a sequence-classification checkpoint, whose score layer has K rows of the judge's LM head.

The checkpoint loads in transformers' pipeline("text-classification"), in vLLM's classify and in similar servers. Its
labels refer to the order in which the responses are shown, and its probabilities are raw. The parity gate compares it
with the judge on --battles or on synthetic battles. Families that soft-cap their logits (Gemma-2) are refused.
"""

from sft_judge.commands.arguments import FROM_HUB, judge_path, positive
from sft_judge.core.files import InputPath, OutputPath, whole_folder

EXAMPLE = "sft-judge export --model runs/judge --output runs/judge-classifier --battles battles.parquet"


def add_arguments(parser):
    parser.add_argument("--model", required=True, type=judge_path, metavar="DIR", help=f"{FROM_HUB}; not an adapter")
    parser.add_argument("--output", required=True, type=OutputPath, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--battles", type=InputPath, metavar="F", help="battles for the parity gate (synthetic battles)"
    )
    parser.add_argument("--limit", type=positive, metavar="N", default=64, help="number of battles for the gate (64)")


def run(args):
    from sft_judge.conversion.export_classifier import export_judge
    from sft_judge.inference.verify import verify_exported

    with whole_folder(args.output) as folder:
        result = export_judge(str(args.model), folder)
        result["parity"] = verify_exported(str(args.model), folder, _gate_rows(args.battles, args.limit))
    print(f"{args.model} -> {args.output}: {result['architecture']}, labels {', '.join(result['labels'])}")
    return result


def _gate_rows(file, num_rows: int) -> list[dict]:
    from sft_judge.data.battles import read_battles
    from sft_judge.data.synthetic.generator import generate_split
    from sft_judge.data.synthetic.preference_model import preset_settings

    if file:
        return read_battles(file, num_rows).to_pylist()
    return generate_split(preset_settings("easy", rows=num_rows, test_rows=1, shifted_rows=1), "train").rows
