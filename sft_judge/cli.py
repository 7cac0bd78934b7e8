"""
The front door: `sft-judge STAGE ...`.

A stage is a module of `sft_judge.stages` with `add_arguments(parser)` and `run(args) -> facts`; heavy imports stand
inside `run`, so that `--help` answers without torch. What is the same for all of them happens here: errors to one
line and an exit status, the manifest beside the output, what to say when a person interrupts.
"""

import argparse
import importlib
import os
import shlex
import signal
import sys

from sft_judge.errors import GateError, InputError, nearest
from sft_judge.manifest import Meter, provenance, stage_outputs, write_manifest

# stage: (module under sft_judge.stages, what it does)
STAGES = {
    "run": ("run", "the stages of a pipeline, in order; what is up to date is skipped"),
    "import": ("import_battles", "competition files, preference sets to battles"),
    "prepare": ("prepare", "folds grouped by prompt, ties kept, dropped or split"),
    "audit": ("audit", "look before you train: lengths, verdicts, languages, duplicates"),
    "prompt": ("prompt", "the exact text and tokens a model sees; whether verdicts are single tokens"),
    "base": ("base", "a tiny random model of a real family, its tokenizer trained on the spot"),
    "train": ("train", "a judge from a recipe"),
    "untrained": ("untrained", "a plain model as a judge, zero-shot or few-shot: what training has to beat"),
    "predict": ("predict", "verdict probabilities for battles"),
    "merge": ("merge", "adapters into the base, seeds or folds averaged"),
    "quantize": ("quantize", "auto-round on the judge's own prompts"),
    "export": ("export", "a sequence-classification checkpoint, for servers that know nothing of judges"),
    "verify": ("verify", "the parity gate: engines and forms of one judge give the same numbers"),
    "calibrate": ("calibrate", "fit the temperature on rows the judge did not see"),
    "sweep": ("sweep", "a grid over recipes: seeds, intervals, paired tests; resumable"),
    "shift": ("shift", "whether to mix in a second source: trained on each, scored on both"),
    "evaluate": ("evaluate", "metrics with intervals, and a report"),
    "attack": ("attack", "battles in which one response talks to the judge, for `evaluate --attacked`"),
    "rank": ("rank", "a ranking of models, by votes or by a judge, with intervals"),
    "submit": ("submit", "a submission in the sample's format"),
    "judge": ("judge", "one battle, answered on the terminal"),
    "serve": ("serve", "HTTP: POST /v1/judge, and a page to try it"),
    "best-of-n": ("best_of_n", "the best of several answers to each prompt"),
    "preference-pairs": ("preference_pairs", "chosen and rejected answers for DPO, out of several"),
    "plant": ("plant", "planted battles whose best possible log loss is known"),
    "doctor": ("doctor", "what is installed, what an extra would give, which GPU is seen"),
}


class Parser(argparse.ArgumentParser):
    """argparse that names the nearest known flag and reports bad settings in one line."""

    def error(self, message: str):
        prefix = "unrecognized arguments: "
        if message.startswith(prefix):
            flag = message.removeprefix(prefix).split()[0]
            message = f"unknown argument {flag!r}." + nearest(flag.split("=")[0], self._option_string_actions)
        stop = "" if message.endswith("?") else "."
        raise InputError(f"{self.prog}: {message.rstrip('.')}{stop} `{self.prog} --help` lists what it takes.")


def stage_module(stage: str):
    """The module of a stage. Raises `InputError` that names the nearest known one."""
    if stage not in STAGES:
        raise InputError(f"Unknown stage {stage!r}.{nearest(stage, STAGES)} Known: {', '.join(STAGES)}.")
    return importlib.import_module(f"sft_judge.stages.{STAGES[stage][0]}")


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


def run_stage(stage: str, argv: list[str]) -> int:
    """Parse, run, write the manifest. Raises what the stage raises."""
    module = stage_module(stage)
    args = parse(stage, argv)
    if "before" in vars(module):
        module.before(args)  # what must stand before the inputs are hashed, which takes minutes for large models
    known = provenance(module, args)  # before the stage runs: an input that changes meanwhile is not what was read
    with Meter() as meter:
        facts = module.run(args)
    outputs = stage_outputs(module, args)
    if outputs and facts is not None and os.environ.get("RANK", "0") == "0":
        write_manifest(outputs, stage, known, facts, meter)
    return 0


def usage() -> str:
    """What `sft-judge --help` prints."""
    lines = [f"  {stage:<16} {help_}" for stage, (_, help_) in STAGES.items()]
    return "\n".join(
        [
            "usage: sft-judge STAGE [arguments]      sft-judge STAGE --help for each      sft-judge --version",
            "",
            "A judge reads a prompt and two answers and says with what probability people prefer A, B or neither.",
            "",
            *lines,
            "",
            "example:",
            "  sft-judge run recipes/demo/pipeline.yaml",
        ]
    )


def main(argv: list[str] | None = None, nested: bool = False) -> int:
    """
    Run one command and return its exit status (0, 1, 2, 3, 130, 143: see the README).

    `nested`: as a step of `run`, which says itself how to go on after an interruption.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        from sft_judge import __version__

        print(f"sft-judge {__version__}")
        return 0
    importlib.import_module("sft_judge.quiet")
    signal.signal(signal.SIGTERM, _terminated)
    try:
        return run_stage(argv[0], argv[1:])
    except (InputError, GateError) as error:
        return _fail(str(error), error.exit_status)
    except BrokenPipeError:  # the reader has gone, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        return _fail(f"{error.strerror or error}: {error.filename or 'no file named'}. Nothing was written there.", 2)
    except KeyboardInterrupt:
        return 130 if nested else _fail(_go_on("Interrupted", argv), 130)
    except Terminated:
        return 143 if nested else _fail(_go_on("Terminated", argv), 143)


class Terminated(BaseException):
    """SIGTERM, as an exception so that half-made outputs are cleared away on the way out."""


def _terminated(signum, frame):
    raise Terminated


def _go_on(what: str, argv: list[str]) -> str:
    return f"{what}. What was finished is kept; this goes on: sft-judge {shlex.join(argv)}"


def _fail(message: str, status: int) -> int:
    print("sft-judge: " + " ".join(message.split()), file=sys.stderr)
    return status
