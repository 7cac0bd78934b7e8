"""One module a command: its arguments, what it reads and writes, and a call into the layers below."""

import argparse
import os
import re
import time
from pathlib import Path

from sft_judge.core.choices import DTYPES, ENGINES, LOG_LOSS_TOLERANCE, SWAPS
from sft_judge.core.errors import InputError
from sft_judge.core.files import InputPath, OutputPath

FROM_HUB = "a judge: its folder, or its id on the hub, ID@REVISION for a branch, tag or commit of it"


def positive(text: str) -> int:
    """argparse type: an integer of at least one."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def natural(text: str) -> int:
    """argparse type: an integer of at least zero."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below zero")
    return value


def above_zero(text: str) -> float:
    """argparse type: a finite number above zero."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above zero")
    return value


class TimeBudget(float):
    """argparse type: `9h`, `90s` or `1h30m` as seconds; `started` is the clock when the command line was read."""

    def __new__(cls, text: str):
        parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
        if not text or parts is None:
            raise argparse.ArgumentTypeError(f"{text!r} is no time; expected hours, minutes, seconds: 9h, 90s, 1h30m")
        budget = super().__new__(
            cls, sum(int(part or 0) * unit for part, unit in zip(parts.groups(), (3600, 60, 1), strict=True))
        )
        if not budget > 0:
            raise argparse.ArgumentTypeError(f"{text!r} leaves no time")
        budget.started = time.monotonic()
        return budget


def add_limit(parser: argparse.ArgumentParser) -> None:
    """`--limit N`, which every stage that reads battles takes."""
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N rows, for a quick try")


def rows_path(text: str) -> OutputPath:
    """argparse type: a file of rows to make, whose name says in which of two formats."""
    if not text.endswith((".jsonl", ".parquet")):
        raise argparse.ArgumentTypeError(f"{text}, expected a name that ends with .jsonl or .parquet")
    return OutputPath(text)


def add_engine(parser: argparse.ArgumentParser) -> None:
    """`--engine` and `--dtype`: what reads a judge, and in which precision."""
    parser.add_argument(
        "--engine",
        choices=(*ENGINES, "auto"),
        default=ENGINES[0],
        help="auto: vLLM where it can run this judge here (transformers)",
    )
    parser.add_argument("--dtype", default="auto", choices=DTYPES)


def add_tolerance(parser: argparse.ArgumentParser) -> None:
    """`--tolerance NATS`, by which a form of a judge is held to another."""
    parser.add_argument(
        "--tolerance",
        type=above_zero,
        default=LOG_LOSS_TOLERANCE,
        metavar="NATS",
        help="refused: a log loss that has certainly risen (its paired 95 %% interval is above 0), by more than this "
        f"({LOG_LOSS_TOLERANCE})",
    )


def add_candidates(parser: argparse.ArgumentParser, swap: str | None) -> None:
    """What stages take that judge several answers to a prompt; `swap` is the default, None for the judge's own."""
    parser.add_argument("candidates", type=InputPath, metavar="CANDIDATES", help="prompt, candidates; JSONL, Parquet")
    parser.add_argument("--model", required=True, type=judge_path, metavar="DIR", help=FROM_HUB)
    parser.add_argument("--output", required=True, type=rows_path, metavar="F", help=".jsonl or .parquet")
    add_engine(parser)
    parser.add_argument(
        "--swap", choices=SWAPS, default=swap, help=f"orders to show ({swap or 'the policy of the judge'})"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the lots that decide among equals (0)")
    add_limit(parser)


def model_path(text: str):
    """argparse type: a local folder, hashed into the manifest, or a hub id, passed on as it is."""
    return InputPath(text) if os.path.isdir(text) or text.startswith((".", "/")) or text.count("/") > 1 else text


class HubModel(str):
    """A hub id among a stage's arguments, perhaps with `@REVISION`; `fetch_models` puts a folder in its place."""


def judge_path(text: str):
    """argparse type: a judge's folder, hashed into the manifest, or its hub id."""
    path = model_path(text.split("@")[0])
    return InputPath(text) if os.path.isdir(text) or isinstance(path, InputPath) else HubModel(text)


def fetch_models(args: argparse.Namespace, offline: bool = False) -> None:
    """
    Put the folder of its files in the hub's cache in the place of each `HubModel` among a stage's arguments.

    Args:
        args: changed in place.
        offline: take what the cache holds, and leave an id that it does not hold as it is.
    """
    for name, value in vars(args).items():
        if isinstance(value, list):
            setattr(args, name, [_fetch(each, offline) for each in value])
        else:
            setattr(args, name, _fetch(value, offline))


def _fetch(model, offline: bool):
    if not isinstance(model, HubModel):
        return model
    from sft_judge.modeling.hub import judge_folder

    try:
        return InputPath(judge_folder(model, offline=offline))
    except InputError:
        if not offline:
            raise
        return model


def exists(path: Path, what: str) -> Path:
    """`path`, or an `InputError` that says which file was expected to hold what."""
    if not path.exists():
        raise InputError(f"{path}: no such file; expected {what}.")
    return path
