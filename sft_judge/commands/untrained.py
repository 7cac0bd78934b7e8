"""
A plain model as a judge, without training: zero-shot, or few-shot with solved battles before each question.

The folder is a judge like any other, so `predict` and `evaluate` say what training has to beat. Its weights are links
to the model's own files where the disk and their rights allow. Solved battles are short ones of --battles, drawn by
the seed, their verdicts in turns; give training battles, not those that are evaluated.
"""

from sft_judge.commands.arguments import model_path, natural, positive
from sft_judge.core.errors import InputError
from sft_judge.core.files import InputPath, OutputPath, whole_folder

EXAMPLE = "sft-judge untrained MODEL --shots 5 --battles train.parquet --output runs/five-shot"


def add_arguments(parser):
    parser.add_argument("model", type=model_path, help="a folder or hub id of an instruction-tuned model")
    parser.add_argument("--output", type=OutputPath, required=True, metavar="DIR")
    parser.add_argument("--shots", type=natural, default=0, metavar="N", help="solved battles to show (default: 0)")
    parser.add_argument("--battles", type=InputPath, metavar="F", help="what they are taken of")
    parser.add_argument("--verdicts", type=int, choices=(2, 3), default=3, help="with or without ties (default: 3)")
    parser.add_argument("--prompt-template", default="pair", help="a name in prompts/ or a file (default: pair)")
    parser.add_argument("--total-budget", type=positive, help="tokens of a whole prompt (default: 6160)")
    parser.add_argument("--seed", type=int, default=0)


def run(args) -> dict:
    from sft_judge.conversion.zero_shot import choose_shots, make_untrained
    from sft_judge.data.battles import read_battles
    from sft_judge.modeling.judge_spec import Budget
    from sft_judge.prompts.templates import read_template

    if bool(args.shots) != bool(args.battles):
        raise InputError("--shots N and --battles F go together: solved battles are taken of F.")
    shots = choose_shots(read_battles(args.battles), args.shots, args.verdicts, args.seed) if args.shots else []
    total = args.total_budget or Budget().total
    budget = Budget(min(total, Budget().prompt), min(total, Budget().response), total)
    with whole_folder(args.output) as folder:
        template = read_template(args.prompt_template)
        spec = make_untrained(str(args.model), folder, template, args.verdicts, budget, shots)
    words = ", ".join(spec.verdict_words)
    print(f"{args.output}: {args.model} as it comes, {len(shots)} solved battles, verdicts {words}")
    return {"shots": [shot["id"] for shot in shots], "verdict_words": spec.verdict_words}
