"""
Train a judge from a recipe.

A recipe is a YAML file of TRL's SFTConfig and ModelConfig keys and the judge's own (battles, fold, labels,
distill_weight, prompt_template, num_verdicts, total_budget, swap, ...: see sft_judge/config.py). Every key can be
given on the command line as --key value, which wins. A run that was killed goes on from its last checkpoint.

On several processes: accelerate launch --config_file recipes/accelerate/X.yaml scripts/train.py --config RECIPE
"""

import sys

from sft_judge.recipes import input_paths, output_paths, required, resolved
from sft_judge.resources import find

EXAMPLE = "sft-judge train --config recipes/demo/teacher.yaml --fold 0 --output_dir runs/teacher/fold-0"


def add_arguments(parser):
    parser.add_argument("--config", required=True, metavar="RECIPE", help="a file, or a name such as demo/teacher")
    parser.add_argument("--limit", metavar="N", help="only the first N battles, for a quick try")
    parser.add_argument("--allow-in-sample", action="store_true", help="train on labels not proven out of fold")
    parser.usage = "sft-judge train --config RECIPE [--limit N] [--key value ...]"


def parse_args(parser, argv):
    """Everything that is not ours goes to the recipe."""
    args, rest = parser.parse_known_args(argv)
    args.overrides = [*rest, *(["--limit", args.limit] if args.limit else [])]
    args.overrides += ["--allow_in_sample", "true"] if args.allow_in_sample else []
    return args


def extra_inputs(args):
    """The recipe, and the files that it names."""
    return [find("recipes", args.config), *input_paths(resolved(args.config, args.overrides))]


def outputs(args):
    """The judge's folder."""
    return output_paths(resolved(args.config, args.overrides))


def run(args):
    settings = resolved(args.config, args.overrides)
    for key in ("model_name_or_path", "battles", "output_dir"):
        required(settings, key)

    from trl import TrlParser

    from sft_judge.config import JudgeConfig, JudgeModelConfig, check_keys
    from sft_judge.errors import InputError
    from sft_judge.manifest import provenance
    from sft_judge.training import train_judge

    check_keys(settings)
    words = ["--config", str(find("recipes", args.config)), *args.overrides]
    try:
        config, model_config = TrlParser((JudgeConfig, JudgeModelConfig)).parse_args_and_config(words)
    except SystemExit as error:  # argparse: a value of the wrong type
        raise InputError(f"{args.config}: a setting has a value of the wrong type; see the line above.") from error
    return train_judge(config, model_config, provenance(sys.modules[__name__], args)["fingerprint"])
