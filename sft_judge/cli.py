"""
The front door: `sft-judge STAGE ...`.

A stage is a module of `sft_judge.commands` with `add_arguments(parser)` and `run(args) -> facts`; heavy imports stand
inside `run`, so that `--help` answers without torch. What is the same for all of them happens here: errors to one
line and an exit status, the manifest beside the output, what to say when a person interrupts.
"""

import importlib
import os
import re
import shlex
import signal
import sys

from sft_judge.core.errors import GateError, InputError
from sft_judge.core.logs import show_messages
from sft_judge.core.registry import GROUPS, run_stage


def usage() -> str:
    """What `sft-judge --help` prints."""
    lines = []
    for group, stages in GROUPS.items():
        lines += [group, *(f"  {stage:<16} {help_}" for stage, (_, help_) in stages.items()), ""]
    return "\n".join(
        [
            "usage: sft-judge STAGE [arguments]      sft-judge STAGE --help for each      sft-judge --version",
            "",
            "A judge reads a prompt and two answers and says with what probability people prefer A, B or neither.",
            "",
            *lines,
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
    if argv[:1] == ["help"]:  # `help STAGE`
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
    except (InputError, GateError) as error:
        return _fail(str(error), error.exit_status)
    except BrokenPipeError:  # the reader has gone, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        return _fail(f"{error.strerror or error}: {error.filename or 'no file named'}. Nothing was written there.", 2)
    except _weight_errors() as error:
        if not _WRITING.search(str(error)):
            raise
        return _fail(f"A file of weights could not be written ({error}): is the disk full? No output was touched.", 2)
    except KeyboardInterrupt:
        return 130 if nested else _fail(_go_on("Interrupted", argv), 130)
    except Terminated:
        return 143 if nested else _fail(_go_on("Terminated", argv), 143)


# what safetensors and torch.save say where a file cannot be written: neither raises an OSError
_WRITING = re.compile(r"while serializing: I/O error|inline_container")


def _weight_errors() -> tuple[type[Exception], ...]:
    """Errors by which the libraries that write weights may tell of the disk; imports none of them."""
    writer = sys.modules.get("safetensors")
    return (RuntimeError, writer.SafetensorError) if writer else ()


class Terminated(BaseException):
    """SIGTERM, as an exception so that half-made outputs are cleared away on the way out."""


def _terminated(signum, frame):
    raise Terminated


def _go_on(what: str, argv: list[str]) -> str:
    return f"{what}. What was finished is kept; this goes on: sft-judge {shlex.join(argv)}"


def _fail(message: str, status: int) -> int:
    print("sft-judge: " + " ".join(message.split()), file=sys.stderr)
    return status
