"""Argument types and arguments that several commands share."""

import argparse
import os
import re
import time
from pathlib import Path

from sft_judge.core.choices import DTYPES, ENGINES, LOG_LOSS_TOLERANCE, SWAPS
from sft_judge.core.errors import InputError
from sft_judge.core.files import InputPath, OutputPath

MAX_COUNT, MAX_SEED = 2**31 - 1, 2**32 - 1
MAX_BUDGET = 365 * 24 * 3600  # seconds
FROM_HUB = "a judge: a folder or a Hub id; ID@REVISION is a branch, tag or commit"


def positive(text: str) -> int:
    """Parse an integer of at least one, as an argparse type."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return natural(text)


def natural(text: str, most: int = MAX_COUNT) -> int:
    """Parse an integer from zero to `most`, as an argparse type."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below zero")
    if value > most:
        raise argparse.ArgumentTypeError(f"{text} is above {most}")
    return value


def seed(text: str) -> int:
    """Parse a seed, as an argparse type; numpy and transformers take 32 bits."""
    return natural(text, MAX_SEED)


def above_zero(text: str) -> float:
    """Parse a finite number above zero, as an argparse type."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above zero")
    return value


class TimeBudget(float):
    """Hold a time such as `9h`, `90s` or `1h30m` in seconds; `started` is when the command line was parsed."""

    def __new__(cls, text: str):
        parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
        if not text or parts is None:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a time; expected hours, minutes and seconds, such as 9h, 90s or 1h30m"
            )
        budget = super().__new__(
            cls, sum(int(part or 0) * unit for part, unit in zip(parts.groups(), (3600, 60, 1), strict=True))
        )
        if not 0 < budget <= MAX_BUDGET:  # a timer holds no more than some hundred years
            raise argparse.ArgumentTypeError(f"{text!r} is not between 1s and {MAX_BUDGET // 3600}h, which is a year")
        budget.started = time.monotonic()
        return budget


def add_limit(parser: argparse.ArgumentParser) -> None:
    """Add `--limit N`, which every stage that reads battles takes."""
    parser.add_argument("--limit", type=positive, metavar="N", help="use only the first N rows, for a quick try")


def rows_path(text: str) -> OutputPath:
    """Parse the path of an output file of rows, as an argparse type; its ending is its format."""
    if not text.endswith((".jsonl", ".parquet")):
        raise argparse.ArgumentTypeError(f"{text}, expected a name that ends with .jsonl or .parquet")
    return OutputPath(text)


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add `--engine` and `--dtype`: the inference engine and its precision."""
    parser.add_argument(
        "--engine",
        choices=(*ENGINES, "auto"),
        default=ENGINES[0],
        help="auto: vLLM if it can run this judge on this machine (transformers)",
    )
    parser.add_argument("--dtype", default="auto", choices=DTYPES, help="of the weights; auto: that of the checkpoint")


def add_tolerance(parser: argparse.ArgumentParser) -> None:
    """Add `--tolerance NATS`, the limit for the rise in log loss between two forms of a judge."""
    parser.add_argument(
        "--tolerance",
        type=above_zero,
        default=LOG_LOSS_TOLERANCE,
        metavar="NATS",
        help="refuse a log loss that rises by more than this, if the paired 95 %% interval of the rise is above 0 "
        f"({LOG_LOSS_TOLERANCE})",
    )


def add_candidates(parser: argparse.ArgumentParser, swap: str | None) -> None:
    """
    Add the arguments of stages that judge several answers to a prompt.

    Args:
        parser: the parser to add them to.
        swap: default orders, or None for the judge's own policy.
    """
    parser.add_argument(
        "candidates", type=InputPath, metavar="CANDIDATES", help="JSONL or Parquet with prompt and candidates"
    )
    parser.add_argument("--model", required=True, type=judge_path, metavar="DIR", help=FROM_HUB)
    parser.add_argument("--output", required=True, type=rows_path, metavar="F", help=".jsonl or .parquet")
    add_engine(parser)
    parser.add_argument(
        "--swap", choices=SWAPS, default=swap, help=f"orders to judge ({swap or 'the policy of the judge'})"
    )
    parser.add_argument("--seed", type=seed, default=0, help="seed for choices between equal candidates (0)")
    add_limit(parser)


def model_path(text: str):
    """Parse a model, as an argparse type: a local folder, which is hashed into the manifest, or a Hub id."""
    return InputPath(text) if os.path.isdir(text) or text.startswith((".", "/")) or text.count("/") > 1 else text


class HubModel(str):
    """Hold a judge's Hub id, optionally with `@REVISION`, until `fetch_models` replaces it with a folder."""


def judge_path(text: str):
    """Parse a judge, as an argparse type: a folder, which is hashed into the manifest, or a Hub id."""
    path = model_path(text.split("@")[0])
    return InputPath(text) if os.path.isdir(text) or isinstance(path, InputPath) else HubModel(text)


def fetch_models(args: argparse.Namespace, offline: bool = False) -> None:
    """
    Replace each `HubModel` among a stage's arguments with its folder in the Hub's cache.

    Args:
        args: arguments of the stage, changed in place.
        offline: use only the cache; an id that is not cached is left as it is.
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
    """
    Return `path` if it exists.

    Args:
        path: file or folder.
        what: its expected content, for the message.

    Raises:
        InputError: there is no such file.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file; expected {what}.")
    return path
