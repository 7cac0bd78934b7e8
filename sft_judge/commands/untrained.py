"""
Make a judge from a plain model without training: zero-shot, or few-shot with example battles before each battle.

The folder is a judge like any other, so `predict` and `evaluate` give the baseline of training. Its weights are hard
links to the model's files if the file system and permissions allow, else copies. Example battles are short battles of
--battles, drawn with the seed, with each verdict in turn; give training battles, not those of the evaluation.
"""

from sft_judge.commands.arguments import model_path, natural, positive, seed
from sft_judge.core.errors import InputError
from sft_judge.core.files import InputPath, OutputPath, whole_folder

EXAMPLE = "sft-judge untrained Qwen/Qwen2.5-0.5B-Instruct --shots 5 --battles train.parquet --output runs/five-shot"


def add_arguments(parser):
    parser.add_argument("model", type=model_path, help="folder or Hub id of an instruction-tuned model")
    parser.add_argument("--output", type=OutputPath, required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--shots", type=natural, default=0, metavar="N", help="number of example battles in the prompt (0)"
    )
    parser.add_argument("--battles", type=InputPath, metavar="F", help="battles to draw the examples from")
    parser.add_argument("--verdicts", type=int, choices=(2, 3), default=3, help="3, or 2 without ties (3)")
    parser.add_argument(
        "--prompt-template", default="pair", help="prompt template: a file, or a name in prompts/ (pair)"
    )
    parser.add_argument("--total-budget", type=positive, help="at most this many tokens in the whole prompt (6160)")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the draw (0)")


def run(args) -> dict:
    from sft_judge.conversion.zero_shot import choose_shots, make_untrained
    from sft_judge.data.battles import read_battles
    from sft_judge.modeling.judge_spec import Budget
    from sft_judge.prompts.templates import read_template

    if bool(args.shots) != bool(args.battles):
        raise InputError("--shots N and --battles F go together: example battles are drawn from F.")
    shots = choose_shots(read_battles(args.battles), args.shots, args.verdicts, args.seed) if args.shots else []
    total = args.total_budget or Budget().total
    budget = Budget(min(total, Budget().prompt), min(total, Budget().response), total)
    with whole_folder(args.output) as folder:
        template = read_template(args.prompt_template)
        spec = make_untrained(str(args.model), folder, template, args.verdicts, budget, shots)
    words = ", ".join(spec.verdict_words)
    print(f"{args.output}: {args.model} without training, {len(shots)} example battles, verdicts {words}")
    return {"shots": [shot["id"] for shot in shots], "verdict_words": spec.verdict_words}
