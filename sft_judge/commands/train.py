"""
Train a judge from a recipe.

A recipe is a YAML file with keys of TRL's SFTConfig and ModelConfig and with the judge's own keys, listed below. Every
key can be given on the command line as --key value, which overrides the recipe. A killed run resumes from its last
checkpoint.

On several GPUs: sft-judge launch --config_file ddp --num_processes N --config RECIPE
"""

import os
from pathlib import Path

from sft_judge.core.errors import InputError
from sft_judge.core.resources import find_resource
from sft_judge.training.recipes import Recipe, read_recipe, split_overrides

EXAMPLE = "sft-judge train --config qwen2.5-3b/student --battles battles.parquet --fold 0 --output_dir judge"


def add_arguments(parser):
    settings = Path(__file__).parents[1] / "training" / "settings_help.txt"
    parser.epilog += f"\n\n{settings.read_text(encoding='utf-8')}"
    parser.add_argument("--config", metavar="RECIPE", help="recipe, or a name such as demo/teacher")
    parser.add_argument("--limit", metavar="N", help="use only the first N battles, for a quick try")
    parser.add_argument(
        "--allow-in-sample", action="store_true", help="train on teacher labels that are not proven to be out of fold"
    )
    parser.add_argument(
        "--shrink",
        action="store_true",
        help="dry run: a tiny random model of the same architecture and features, a few steps on synthetic battles",
    )
    parser.add_argument(
        "--plan", action="store_true", help="print the expected cost (tokens, memory, GPUs, hours) and exit"
    )
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="number of GPUs to plan for (1)")
    parser.usage = (
        "sft-judge train [--config RECIPE] [--plan [--gpus N]] [--shrink] [--limit N] [--key value ...]\n"
        "       sft-judge train --model_name_or_path MODEL --dataset_name DATA --output_dir DIR [--key value ...]"
    )


def parse_args(parser, argv):
    """
    Parse the command's own arguments; all others are keys of the recipe.

    Args:
        parser: parser of the command.
        argv: the arguments.
    """
    args, rest = parser.parse_known_args(argv)
    args.overrides = [*rest, *(["--limit", args.limit] if args.limit else [])]
    args.overrides += ["--allow_in_sample", "true"] if args.allow_in_sample else []
    if args.config is None and not rest:
        raise InputError(
            "Nothing to train: give --config RECIPE, or --model_name_or_path, --dataset_name and --output_dir."
        )
    if args.shrink and not recipe_of(args).settings.get("output_dir"):
        recipe = find_resource("recipes", args.config) if args.config else Path("command/line")
        args.overrides += ["--output_dir", f"runs/shrunk/{recipe.parent.name}-{recipe.stem}"]
    return args


def extra_inputs(args):
    """Return the recipe and the files that it names."""
    recipe = [find_resource("recipes", args.config)] if args.config else []
    return [*recipe, *recipe_of(args).input_paths()]


def outputs(args):
    """Return the judge's folder, or nothing for --plan."""
    return [] if args.plan else recipe_of(args).output_paths()


def run(args):
    recipe = recipe_of(args)
    alone = args.plan or args.shrink  # these need no battles of the user
    data = [] if alone or recipe.settings.get("dataset_name") else ["battles"]
    for key in ("model_name_or_path", *([] if args.plan else ["output_dir"]), *data):
        recipe.require(key)

    from sft_judge.pipelines.planning.training_cost import plan_training
    from sft_judge.training.train import train_judge

    if args.plan:
        if args.gpus < 1:
            raise InputError(f"--gpus is {args.gpus}, expected 1 or more.")
        print(plan_training(*recipe.configs(), args.gpus))
        return None

    small = {}
    if args.shrink:
        whole = recipe.settings
        recipe = recipe.without("model_name_or_path", "gguf_file")  # the command line would override the small model
        small = _shrunk(recipe)
        _make_small_inputs(whole, small)
    return train_judge(*recipe.configs(small), args.provenance["fingerprint"])


def recipe_of(args) -> Recipe:
    """Read the recipe that the arguments name, with their overrides."""
    return read_recipe(args.config, args.overrides)


def _small_folder(settings: dict) -> Path:
    output = Path(settings["output_dir"])
    return output.with_name(f"small-{output.name}")


def _shrunk(recipe: Recipe) -> dict:
    import torch

    from sft_judge.pipelines.shrink import shrunk_settings

    settings, given = recipe.settings, split_overrides(recipe.overrides)
    small = shrunk_settings(settings, _small_folder(settings), torch.cuda.is_available())
    return {key: value for key, value in small.items() if key not in given}


def _make_small_inputs(settings: dict, small: dict) -> None:
    """
    Make the inputs of --shrink on the first process and print them.

    This happens before the recipe is parsed. Parsing it makes the other processes wait for the first, and afterwards
    ZeRO-3 shards every model that is made, which needs all processes.
    """
    from sft_judge.modeling.hub import model_folder
    from sft_judge.pipelines.shrink import make_small_inputs
    from sft_judge.training.config import check_keys

    check_keys(settings)
    if os.environ.get("RANK", "0") == "0":
        model, file = settings["model_name_or_path"], settings.get("gguf_file")
        model = model_folder(model, settings.get("model_revision"), file)[0] if file else model
        lines = make_small_inputs(model, _small_folder(settings))
        lines += [f"{key}: {value} for {settings.get(key)}" for key, value in small.items()]
        print("--shrink replaces", *lines, sep="\n  ", flush=True)
