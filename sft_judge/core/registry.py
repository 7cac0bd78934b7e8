"""Registry of commands: their modules, argument parsers, and how they are run."""

import argparse
import importlib
import os
import sys
from pathlib import Path

from sft_judge.core.errors import InputError, nearest
from sft_judge.core.files import OutputPath
from sft_judge.core.manifest import (
    Meter,
    collect_provenance,
    paths_in,
    stage_inputs,
    stage_outputs,
    write_manifest,
)
from sft_judge.core.write_errors import NamedOutput

# by group of the help: stage: (module under sft_judge.commands, description)
GROUPS = {
    "general": {
        "run": ("run", "run the steps of a pipeline in order, skipping those that are up to date"),
        "doctor": ("doctor", "show what is installed, what each extra adds, and which GPU is found"),
    },
    "data": {
        "import": ("import_battles", "convert competition files and preference sets to battles"),
        "prepare": ("prepare", "assign folds grouped by prompt; keep, drop or split ties"),
        "audit": ("audit", "inspect battles before training: lengths, verdicts, languages, duplicates"),
        "prompt": ("prompt", "show the exact text and tokens a model sees; check that verdicts are single tokens"),
        "synth": ("synth", "make synthetic battles whose best possible log loss is known"),
    },
    "train": {
        "train": ("train", "train a judge from a recipe"),
        "launch": ("launch", "run `train` on several GPUs or machines, with accelerate and a launch file"),
        "base": ("base_model", "make a base model: a small pretrained one from a package, or a tiny random one"),
        "untrained": ("untrained", "use a plain model as a judge, zero-shot or few-shot: the baseline of training"),
        "sweep": ("sweep", "run a grid over recipes: seeds, intervals, paired tests; resumable"),
        "shift": ("shift", "decide whether to mix in a second source: train on each, score on both"),
    },
    "use": {
        "judge": ("judge", "judge battles from the terminal or a pipe"),
        "predict": ("predict", "predict verdict probabilities for battles"),
        "submit": ("submit", "write a submission in the sample's format"),
        "rank": ("rank", "rank models by votes or by a judge, with intervals"),
        "best-of-n": ("best_of_n", "select the best of several answers to each prompt"),
        "preference-pairs": ("preference_pairs", "select chosen and rejected answers for DPO from several answers"),
    },
    "measure": {
        "evaluate": ("evaluate", "compute metrics with intervals, and a report"),
        "calibrate": ("calibrate", "fit a calibration on battles the judge did not see"),
        "verify": ("verify", "check that engines give the same probabilities, and a second form no higher log loss"),
        "attack": ("attack", "make battles in which one response addresses the judge, for `evaluate --attacked`"),
    },
    "serve": {
        "serve": ("serve", "serve a judge over HTTP: POST /v1/judge, and a page to try it"),
        "merge": ("merge", "merge adapters into the base; average seeds or folds"),
        "quantize": ("quantize", "quantize a judge with auto-round on its own prompts"),
        "export": ("export", "export a sequence-classification checkpoint, for servers without support for judges"),
        "push": ("push", "push a judge to the Hugging Face Hub, with its card"),
    },
}
STAGES = {stage: entry for stages in GROUPS.values() for stage, entry in stages.items()}
# names of stages in other tools
SYNONYMS = {
    **dict.fromkeys(("sft", "fit", "finetune", "fine-tune", "distil", "distill", "reward"), ("train",)),
    **dict.fromkeys(("accelerate", "torchrun", "deepspeed"), ("launch",)),
    **dict.fromkeys(("score", "infer", "inference", "generate"), ("predict",)),
    **dict.fromkeys(("eval", "metrics", "report", "test", "benchmark"), ("evaluate",)),
    **dict.fromkeys(("chat", "ask", "compare"), ("judge",)),
    **dict.fromkeys(("load", "download"), ("import",)),
    "convert": ("import", "export", "merge"),
    **dict.fromkeys(("split", "clean", "dedup"), ("prepare",)),
    "check": ("verify", "doctor"),
    "env": ("doctor",),
    **dict.fromkeys(("api", "deploy", "server"), ("serve",)),
    "compress": ("quantize",),
    **dict.fromkeys(("upload", "publish", "share"), ("push",)),
    "leaderboard": ("rank",),
    "dpo": ("preference-pairs",),
    "pipeline": ("run",),
}
OLD_NAMES = {"plant": "synth"}


class Parser(argparse.ArgumentParser):
    """Argument parser that suggests the nearest known flag and raises `InputError` with one line."""

    def error(self, message: str):
        prefix = "unrecognized arguments: "
        if message.startswith(prefix):
            flag = message.removeprefix(prefix).split()[0]
            message = f"unknown argument {flag!r}." + nearest(flag.split("=")[0], self._option_string_actions)
        stop = "" if message.endswith("?") else "."
        raise InputError(f"{self.prog}: {message.rstrip('.')}{stop} `{self.prog} --help` lists all arguments.")

    def exit(self, status: int = 0, message: str | None = None):
        sys.stdout.flush()  # argparse ignores a closed pipe; flush now, as Python would report it when it exits
        super().exit(status, message)


def stage_module(stage: str):
    """
    Import the module of a stage.

    Raises:
        InputError: the stage is unknown; the message suggests the nearest stage.
    """
    stage = OLD_NAMES.get(stage, stage)
    if stage not in STAGES:
        raise InputError(f"Unknown command {stage!r}.{_meant(stage)} Known: {', '.join(STAGES)}.")
    return importlib.import_module(f"sft_judge.commands.{STAGES[stage][0]}")


def _meant(word: str) -> str:
    """Return a question that suggests a stage by its meaning or by similar letters; empty if there is none."""
    known = SYNONYMS.get(word.lower().replace("_", "-"))
    if known:
        return f" Did you mean {' or '.join(map(repr, known))}?"
    return nearest(word, ["--help", "--version"] if word.startswith("-") else STAGES)


def stage_parser(stage: str) -> Parser:
    """Build the argument parser of a stage; its epilog is the module's EXAMPLE."""
    module = stage_module(stage)
    parser = Parser(
        prog=f"sft-judge {stage}",
        description=module.__doc__.strip(),
        epilog=f"example:\n  {module.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return parser


def parse(stage: str, argv: list[str]) -> argparse.Namespace:
    """
    Parse a stage's arguments, with the module's own `parse_args` if it has open-ended settings.

    Args:
        stage: the stage.
        argv: its arguments.
    """
    module, parser = stage_module(stage), stage_parser(stage)
    return module.parse_args(parser, argv) if "parse_args" in vars(module) else parser.parse_args(argv)


def fetch_models(args: argparse.Namespace, offline: bool = False) -> None:
    """
    Replace Hub ids by local folders, see `commands.arguments.fetch_models`.

    Args:
        args: arguments of a stage, changed in place.
        offline: use only the local cache.
    """
    importlib.import_module("sft_judge.commands.arguments").fetch_models(args, offline)


def check_paths(module, args) -> None:
    """
    Check that no output of a stage replaces one of its inputs or another output.

    Args:
        module: module of the stage.
        args: its arguments.

    Raises:
        InputError: an output is an input, is a folder that holds an input (the folder would be replaced), or is named
            twice.
    """
    made = stage_outputs(module, args)  # a stage may write some files of a folder and leave the others
    outputs = [*made, *(path for path in paths_in(vars(args), OutputPath) if path not in made)]
    resolved = [Path(path).resolve() for path in outputs]
    for place, (path, whole) in enumerate(zip(outputs, resolved, strict=True)):
        if whole in resolved[:place]:
            raise InputError(f"{path} is named as an output twice; give each output its own file.")
        for source in stage_inputs(module, args):
            other = Path(source).resolve()
            if whole == other or (whole.exists() and other.exists() and whole.samefile(other)):
                raise InputError(f"{path} is an input and would be replaced as an output; choose another output.")
            if path in made and whole in other.parents:
                raise InputError(f"{path} holds the input {source} and would be replaced; choose another output.")


def run_stage(stage: str, argv: list[str]) -> int:
    """
    Parse the arguments, run the stage and write its manifest.

    Args:
        stage: the stage.
        argv: its arguments.

    Returns:
        The exit status 0. Errors of the stage are raised.
    """
    module = stage_module(stage)
    args = parse(stage, argv)
    fetch_models(args)
    check_paths(module, args)
    outputs = stage_outputs(module, args)
    with NamedOutput(outputs[0] if outputs else None):
        if "before" in vars(module):
            module.before(args)  # checks that run before the inputs are hashed, which takes minutes for large models
        # before the stage runs, so that an input that changes meanwhile does not match
        provenance = collect_provenance(module, args)
        args.provenance = provenance
        with Meter() as meter:
            result = module.run(args)
    if outputs and result is not None and os.environ.get("RANK", "0") == "0":
        write_manifest(outputs, stage, provenance, result, meter)
    return 0
