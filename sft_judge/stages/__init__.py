"""One module a command: its arguments, what it reads and writes, and a call into the layers below."""

import argparse
import os
from pathlib import Path

from sft_judge.files import InputPath


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


def add_limit(parser: argparse.ArgumentParser) -> None:
    """`--limit N`, which every stage that reads battles takes."""
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N rows, for a quick try")


def model_path(text: str):
    """argparse type: a local folder, hashed into the manifest, or a hub id, passed on as it is."""
    return InputPath(text) if os.path.isdir(text) or text.startswith((".", "/")) or text.count("/") > 1 else text


def exists(path: Path, what: str) -> Path:
    """`path`, or an `InputError` that says which file was expected to hold what."""
    from sft_judge.errors import InputError

    if not path.exists():
        raise InputError(f"{path}: no such file; expected {what}.")
    return path
