"""The table of commands: how one is found, parsed and run."""

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

# group of the help: stage: (module under sft_judge.commands, what it does)
GROUPS = {
    "general": {
        "run": ("run", "the stages of a pipeline, in order; what is up to date is skipped"),
        "doctor": ("doctor", "what is installed, what an extra would give, which GPU is seen"),
    },
    "data": {
        "import": ("import_battles", "competition files, preference sets to battles"),
        "prepare": ("prepare", "folds grouped by prompt, ties kept, dropped or split"),
        "audit": ("audit", "look before you train: lengths, verdicts, languages, duplicates"),
        "prompt": ("prompt", "the exact text and tokens a model sees; whether verdicts are single tokens"),
        "synth": ("synth", "synthetic battles whose best possible log loss is known"),
    },
    "train": {
        "train": ("train", "a judge from a recipe"),
        "launch": ("launch", "`train` on several GPUs or machines, under accelerate with a launch file"),
        "base": ("base_model", "a tiny random model of a real family, its tokenizer trained on the spot"),
        "untrained": ("untrained", "a plain model as a judge, zero-shot or few-shot: what training has to beat"),
        "sweep": ("sweep", "a grid over recipes: seeds, intervals, paired tests; resumable"),
        "shift": ("shift", "whether to mix in a second source: trained on each, scored on both"),
    },
    "use": {
        "judge": ("judge", "battles from the terminal or a pipe, answered at once"),
        "predict": ("predict", "verdict probabilities for battles"),
        "submit": ("submit", "a submission in the sample's format"),
        "rank": ("rank", "a ranking of models, by votes or by a judge, with intervals"),
        "best-of-n": ("best_of_n", "the best of several answers to each prompt"),
        "preference-pairs": ("preference_pairs", "chosen and rejected answers for DPO, out of several"),
    },
    "measure": {
        "evaluate": ("evaluate", "metrics with intervals, and a report"),
        "calibrate": ("calibrate", "fit the temperature on rows the judge did not see"),
        "verify": ("verify", "the parity gate: engines and forms of one judge give the same numbers"),
        "attack": ("attack", "battles in which one response talks to the judge, for `evaluate --attacked`"),
    },
    "serve": {
        "serve": ("serve", "HTTP: POST /v1/judge, and a page to try it"),
        "merge": ("merge", "adapters into the base, seeds or folds averaged"),
        "quantize": ("quantize", "auto-round on the judge's own prompts"),
        "export": ("export", "a sequence-classification checkpoint, for servers that know nothing of judges"),
        "push": ("push", "a judge to the Hugging Face hub, with its card"),
    },
}
STAGES = {stage: entry for stages in GROUPS.values() for stage, entry in stages.items()}
# what people call a stage elsewhere
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
    """argparse that names the nearest known flag and reports bad settings in one line."""

    def error(self, message: str):
        prefix = "unrecognized arguments: "
        if message.startswith(prefix):
            flag = message.removeprefix(prefix).split()[0]
            message = f"unknown argument {flag!r}." + nearest(flag.split("=")[0], self._option_string_actions)
        stop = "" if message.endswith("?") else "."
        raise InputError(f"{self.prog}: {message.rstrip('.')}{stop} `{self.prog} --help` lists what it takes.")

    def exit(self, status: int = 0, message: str | None = None):
        sys.stdout.flush()  # argparse passes over a reader that has gone, of which Python would tell at its end
        super().exit(status, message)


def stage_module(stage: str):
    """The module of a stage. Raises `InputError` that names the nearest known one."""
    stage = OLD_NAMES.get(stage, stage)
    if stage not in STAGES:
        raise InputError(f"Unknown stage {stage!r}.{_meant(stage)} Known: {', '.join(STAGES)}.")
    return importlib.import_module(f"sft_judge.commands.{STAGES[stage][0]}")


def _meant(word: str) -> str:
    """A question that names a stage by its meaning, or the nearest by its letters; empty where none is near."""
    known = SYNONYMS.get(word.lower().replace("_", "-"))
    if known:
        return f" Did you mean {' or '.join(map(repr, known))}?"
    return nearest(word, ["--help", "--version"] if word.startswith("-") else STAGES)


def stage_parser(stage: str) -> Parser:
    """The argument parser of one stage; its epilog is the module's EXAMPLE."""
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
    """The stage's arguments; a stage that takes open-ended settings has a `parse_args` of its own."""
    module, parser = stage_module(stage), stage_parser(stage)
    return module.parse_args(parser, argv) if "parse_args" in vars(module) else parser.parse_args(argv)


def fetch_models(args: argparse.Namespace, offline: bool = False) -> None:
    """Put folders in the place of hub ids: see `commands.arguments.fetch_models`."""
    importlib.import_module("sft_judge.commands.arguments").fetch_models(args, offline)


def check_paths(module, args) -> None:
    """
    Check that no output of a stage takes the place of one of its inputs, or of another output.

    Raises:
        InputError: an output is an input, a folder that holds one (it would be replaced whole), or stands twice.
    """
    made = stage_outputs(module, args)  # a stage may make files in a folder that it names, and leave the others
    outputs = [*made, *(path for path in paths_in(vars(args), OutputPath) if path not in made)]
    resolved = [Path(path).resolve() for path in outputs]
    for place, (path, whole) in enumerate(zip(outputs, resolved, strict=True)):
        if whole in resolved[:place]:
            raise InputError(f"{path} is named as an output twice; give each output a file of its own.")
        for source in stage_inputs(module, args):
            other = Path(source).resolve()
            if whole == other or (whole.exists() and other.exists() and whole.samefile(other)):
                raise InputError(f"{path} is an input and would be replaced as an output; name another output.")
            if path in made and whole in other.parents:
                raise InputError(f"{path} holds the input {source} and would be replaced whole; name another output.")


def run_stage(stage: str, argv: list[str]) -> int:
    """Parse, run, write the manifest. Raises what the stage raises."""
    module = stage_module(stage)
    args = parse(stage, argv)
    fetch_models(args)
    check_paths(module, args)
    if "before" in vars(module):
        module.before(args)  # what must stand before the inputs are hashed, which takes minutes for large models
    provenance = collect_provenance(
        module, args
    )  # before the stage runs: an input that changes meanwhile is not what was read
    args.provenance = provenance
    with Meter() as meter:
        result = module.run(args)
    outputs = stage_outputs(module, args)
    if outputs and result is not None and os.environ.get("RANK", "0") == "0":
        write_manifest(outputs, stage, provenance, result, meter)
    return 0
