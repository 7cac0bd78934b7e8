"""
Entry point of the command line: `sft-judge COMMAND ...`.

A command is a module of `sft_judge.commands` with `add_arguments(parser)` and `run(args) -> facts`. Heavy imports are
inside `run`, so that `--help` works without importing torch. This module does what all commands share: it reports an
error as one line and an exit status, and tells how to resume an interrupted command.
"""

import importlib
import os
import shlex
import signal
import sys

from sft_judge.core.errors import GateError, InputError, WriteError
from sft_judge.core.logs import show_messages
from sft_judge.core.registry import GROUPS, run_stage


def usage() -> str:
    """Return the text of `sft-judge --help`."""
    lines = []
    for group, stages in GROUPS.items():
        lines += [group, *(f"  {stage:<16} {help_}" for stage, (_, help_) in stages.items()), ""]
    return "\n".join(
        [
            "usage: sft-judge COMMAND [arguments]    sft-judge COMMAND --help for each    sft-judge --version",
            "",
            "A judge reads a prompt and two answers and predicts the probability that people prefer A, B or neither.",
            "",
            *lines,
            "example:",
            "  sft-judge run recipes/demo/pipeline.yaml",
        ]
    )


def main(argv: list[str] | None = None, nested: bool = False) -> int:
    """
    Run one command.

    Args:
        argv: arguments of the command; by default those of the process.
        nested: True for a step of `run`, which itself tells how to resume after an interruption.

    Returns:
        Exit status: 0, 1, 2, 3, 130 or 143, see docs/reference/files.md.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["help"]:  # `help COMMAND`
        argv = [*argv[1:2], "--help"]
    try:
        if not argv or argv[0] in ("-h", "--help"):
            print(usage(), flush=True)
            return 0 if argv else 2
        if argv[0] == "--version":
            from sft_judge.core.version import __version__

            print(f"sft-judge {__version__}")
            return 0
        importlib.import_module("sft_judge.core.third_party")
        show_messages()
        signal.signal(signal.SIGTERM, _terminated)
        return run_stage(argv[0], argv[1:])
    except (InputError, GateError, WriteError) as error:
        return _fail(str(error), error.exit_status)
    except BrokenPipeError:  # the reader closed the pipe, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        return _fail(f"{error.strerror or error}: {error.filename or 'unknown file'}. Nothing was written there.", 2)
    except KeyboardInterrupt:
        return 130 if nested else _fail(_how_to_resume("Interrupted", argv), 130)
    except Terminated:
        return 143 if nested else _fail(_how_to_resume("Terminated", argv), 143)


class Terminated(BaseException):
    """Signal SIGTERM as an exception, so that incomplete outputs are removed on exit."""


def _terminated(signum, frame):
    raise Terminated


def _how_to_resume(event: str, argv: list[str]) -> str:
    return f"{event}. Finished work is kept. To resume, run: sft-judge {shlex.join(argv)}"


def _fail(message: str, status: int) -> int:
    print("sft-judge: " + " ".join(message.split()), file=sys.stderr)
    return status
