"""
Recipes: a YAML file of settings and the words of a command line that win over it.

Reading one needs no torch, so that a pipeline can ask what a run reads and writes. The words are given their types by
TRL's parser alone, in `Recipe.configs`.
"""

import contextlib
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import yaml

from sft_judge.core.errors import InputError
from sft_judge.core.files import InputPath, OutputPath, load_yaml
from sft_judge.core.resources import find_resource
from sft_judge.training.settings_table import DEFAULT_TEMPLATE


class _Bare(str):
    """The value of a switch that stands on the command line without one."""


BARE = _Bare("true")
PATH_KEYS = ("model_name_or_path", "battles", "labels", "chat_template_path", "deepspeed")


@dataclass(frozen=True)
class Recipe:
    """A recipe file and its overrides. Values of the file are typed by YAML; overrides are text until `configs`."""

    name: str  # as the user wrote it
    values: dict  # of the file
    overrides: list[str]  # words of the command line: --key value

    @property
    def settings(self) -> dict:
        """The values of the file, and over them the words of the command line, a list where there are several."""
        given = split_overrides(self.overrides)
        return self.values | {key: words if len(words) > 1 else str(words[0]) for key, words in given.items()}

    def without(self, *keys: str) -> "Recipe":
        """Leave settings out of the command line."""
        given = split_overrides(self.overrides)
        left = {key: words for key, words in given.items() if key not in keys}
        return replace(self, overrides=[word for key, words in left.items() for word in (f"--{key}", *_given(words))])

    def require(self, key: str):
        """Return the value of a setting. Raises `InputError` if neither the file nor the command line gives it."""
        value = self.settings.get(key)
        if value in (None, ""):
            raise InputError(f"The recipe has no {key!r}, and none was given on the command line (--{key}).")
        return value

    def _check_bare_keys(self, kinds: tuple) -> None:
        """Raise `InputError` for a key without a value that is no switch."""
        from sft_judge.training.settings_checks import hints_of

        for key, words in split_overrides(self.overrides).items():
            hint = next(hints_of(kind)[key] for kind in kinds if key in hints_of(kind))
            if words[0] is BARE and bool not in (hint, *get_args(hint)):
                raise InputError(f"--{key} has no value; settings are `--key value`, and switches may be bare.")

    def input_paths(self) -> list[Path]:
        """List the local files and folders that training will read."""
        names = [name for key in PATH_KEYS for name in _names(key, self.settings.get(key))]
        templates = _names("prompt_template", self.settings.get("prompt_template") or DEFAULT_TEMPLATE)
        files = [Path(name) for name in names if Path(name).exists() or name.count("/") > 1]
        return [InputPath(file) for file in [*files, *(find_resource("prompts", name) for name in templates)]]

    def output_paths(self) -> list[Path]:
        """List the folder that training will make."""
        self.require("output_dir")
        return [OutputPath(name) for name in _names("output_dir", self.settings["output_dir"])]

    def configs(self, replaced: dict | None = None):
        """
        Parse the settings with TRL's parser.

        Args:
            replaced: values that win over the file's, and give way to the command line.

        Returns:
            A `JudgeConfig` and a `JudgeModelConfig`.

        Raises:
            InputError: a key is unknown, or a value has the wrong type or is out of range.
        """
        from trl import TrlParser

        from sft_judge.training.config import JudgeConfig, JudgeModelConfig, check_keys
        from sft_judge.training.machine_defaults import DEFAULTS

        check_keys(self.settings)
        self._check_bare_keys((JudgeConfig, JudgeModelConfig))
        parser = TrlParser((JudgeConfig, JudgeModelConfig))
        by_machine = {name: default() for name, default in DEFAULTS.items() if self.values.get(name) is None}
        given = split_overrides(self.overrides)
        # TRL's parser takes one word for a field that may be text or a list
        lists = {key: given.pop(key) for key in ("report_to",) if len(given.get(key, ())) > 1}
        parser.set_defaults_with_config(**{**self.values, **by_machine, **(replaced or {}), **lists})
        usage = io.StringIO()
        try:
            with contextlib.redirect_stderr(usage):
                return parser.parse_args_into_dataclasses(args=_plain_words(given))
        except SystemExit as error:  # argparse: a value of the wrong type, after a page of usage
            message = usage.getvalue().strip().splitlines()[-1].split("error: ", 1)[-1]
            raise InputError(f"{self.name}: a setting has a value of the wrong type: {message}") from error
        except ValueError as error:  # of transformers' and TRL's own checks
            raise error if isinstance(error, InputError) else InputError(f"{self.name}: {error}") from error


def _given(words: list[str]) -> list[str]:
    """The words behind a key; none behind a bare one."""
    return [] if words[0] is BARE else words


def _plain_words(given: dict[str, list[str]]) -> list[str]:
    """The words of a command line with underscores in its keys, and a value for each, as argparse takes them."""
    return [word for key, values in given.items() for word in (f"--{key}", *values)]


def _names(key: str, value) -> list[str]:
    """The files and folders that a setting names; none in a mapping or its JSON, which DeepSpeed takes too."""
    names = [name for name in (value if isinstance(value, list) else [value]) if name not in (None, "")]
    if key == "deepspeed":
        names = [name for name in names if not isinstance(name, dict) and not str(name).startswith("{")]
    for name in names:
        if not isinstance(name, str):
            raise InputError(f"{key} is {name!r}, expected the name of a file or folder.")
    return names


def read_recipe(name: str | None, overrides: list[str] = ()) -> Recipe:
    """
    Read a recipe file.

    Args:
        name: a file, the name of a recipe of ours such as "demo/teacher", or None for the command line alone.
        overrides: words of the command line.

    Raises:
        InputError: there is no such file, or it is not a YAML mapping, or the words are not `--key value`.
    """
    if name is None:
        return Recipe("the command line", {}, list(overrides))
    file = find_resource("recipes", name)
    try:
        values = load_yaml(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not valid YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(values, dict):
        raise InputError(f"{file}: expected `key: value` lines, found {type(values).__name__}.")
    return Recipe(str(name), values, list(overrides))


def split_overrides(words: list[str]) -> dict[str, list[str]]:
    """
    Split `--key value`, `--key=value`, a bare `--key` for true and, for settings that are lists, `--key value value`.

    Hyphens in a key are underscores, as in TRL's command line.
    """
    overrides, rest = {}, list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise InputError(f"{word!r} stands alone on the command line; settings are `--key value`.")
        key, equals, value = word[2:].partition("=")
        key, values = key.replace("-", "_"), [value] if equals else []
        while not equals and rest and not rest[0].startswith("--"):
            values.append(rest.pop(0))
        overrides[key] = values or [BARE]
    return overrides
