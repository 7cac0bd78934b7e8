"""A recipe and its overrides as plain values, without torch: what a run reads and writes is told before it starts."""

import contextlib
import io
from pathlib import Path

import yaml

from sft_judge.core.errors import InputError
from sft_judge.core.files import InputPath, OutputPath
from sft_judge.core.resources import find

PATH_KEYS = ("model_name_or_path", "battles", "labels")


def read_recipe(name: str) -> dict:
    """The mapping in a recipe file. Raises `InputError` where it is not YAML or not a mapping."""
    file = find("recipes", name)
    try:
        recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not valid YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(recipe, dict):
        raise InputError(f"{file}: expected `key: value` lines, found {type(recipe).__name__}.")
    return recipe


def read_overrides(words: list[str]) -> dict[str, list[str]]:
    """`--key value`, `--key=value` and, for settings that are lists, `--key value value`."""
    overrides, rest = {}, list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise InputError(f"{word!r} stands alone on the command line; settings are `--key value`.")
        key, equals, value = word[2:].partition("=")
        values = [value] if equals else []
        while not equals and rest and not rest[0].startswith("--"):
            values.append(rest.pop(0))
        if not values:
            raise InputError(f"--{key} has no value; settings are `--key value`.")
        overrides[key] = values
    return overrides


def resolved(name: str, words: list[str]) -> dict:
    """The recipe with its overrides, the overrides parsed as YAML values ("4" is a number, "null" is none)."""
    given = {key: [yaml.safe_load(value) for value in values] for key, values in read_overrides(words).items()}
    return read_recipe(name) | {key: values if len(values) > 1 else values[0] for key, values in given.items()}


def input_paths(settings: dict) -> list[Path]:
    """The local files and folders that training will read."""
    values = [settings[key] for key in PATH_KEYS if settings.get(key)]
    named = [name for value in values for name in (value if isinstance(value, list) else [value])]
    return [InputPath(value) for value in named if Path(value).exists() or str(value).count("/") > 1]


def output_paths(settings: dict) -> list[Path]:
    """The folder that training will make."""
    return [OutputPath(required(settings, "output_dir"))]


def required(settings: dict, key: str):
    """The value of a key that training cannot do without, or an `InputError`."""
    if settings.get(key) is None:
        raise InputError(f"The recipe has no {key!r}, and none was given on the command line (--{key}).")
    return settings[key]


def parsed_recipe(args, settings: dict, small: dict):
    """The recipe's two configurations; what `small` replaces gives way to the command line alone."""
    from trl import TrlParser

    from sft_judge.training.config import JudgeConfig, JudgeModelConfig, check_keys

    check_keys(settings)
    words = ["--config", str(find("recipes", args.config))]
    words += [str(word) for key, value in small.items() for word in (f"--{key}", value)]
    usage = io.StringIO()
    try:
        with contextlib.redirect_stderr(usage):
            return TrlParser((JudgeConfig, JudgeModelConfig)).parse_args_and_config([*words, *args.overrides])
    except SystemExit as error:  # argparse: a value of the wrong type, after a page of usage
        said = usage.getvalue().strip().splitlines()[-1].split("error: ", 1)[-1]
        raise InputError(f"{args.config}: a setting has a value of the wrong type: {said}") from error
    except ValueError as error:  # of transformers' and TRL's own checks
        raise error if isinstance(error, InputError) else InputError(f"{args.config}: {error}") from error
