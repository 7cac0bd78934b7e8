"""
Recipes: a YAML file of settings, and the command-line words that override them.

Reading a recipe does not import torch, so that a pipeline can ask what a run reads and writes. Only `Recipe.configs`
converts the words to their types, with TRL's parser.
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
    """Hold the value "true" of a switch that has no value on the command line."""


BARE = _Bare("true")
PATH_KEYS = ("model_name_or_path", "battles", "labels", "chat_template_path", "deepspeed")


@dataclass(frozen=True)
class Recipe:
    """
    Hold a recipe file and its overrides.

    Values of the file have the types of YAML. Overrides are text until `configs` is called.
    """

    name: str  # as the user wrote it
    values: dict  # settings in the file
    overrides: list[str]  # words of the command line: --key value

    @property
    def settings(self) -> dict:
        """Return the file's values, overridden by the command line; several words of one key are a list."""
        given = split_overrides(self.overrides)
        return self.values | {key: words if len(words) > 1 else str(words[0]) for key, words in given.items()}

    def without(self, *keys: str) -> "Recipe":
        """Return a copy of the recipe without overrides of these keys."""
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
        """Raise `InputError` if a key without a value is not a switch."""
        from sft_judge.training.settings_checks import hints_of

        for key, words in split_overrides(self.overrides).items():
            hint = next(hints_of(kind)[key] for kind in kinds if key in hints_of(kind))
            if words[0] is BARE and bool not in (hint, *get_args(hint)):
                raise InputError(f"--{key} has no value; write `--key value`. Only switches may omit the value.")

    def input_paths(self) -> list[Path]:
        """List the local files and folders that training will read."""
        names = [name for key in PATH_KEYS for name in _names(key, self.settings.get(key))]
        templates = _names("prompt_template", self.settings.get("prompt_template") or DEFAULT_TEMPLATE)
        files = [Path(name) for name in names if Path(name).exists() or name.count("/") > 1]
        return [InputPath(file) for file in [*files, *(find_resource("prompts", name) for name in templates)]]

    def output_paths(self) -> list[Path]:
        """List the folder that training will write."""
        self.require("output_dir")
        return [OutputPath(name) for name in _names("output_dir", self.settings["output_dir"])]

    def configs(self, replaced: dict | None = None):
        """
        Parse the settings with TRL's parser.

        Args:
            replaced: values that override those of the file; the command line overrides both.

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
        # TRL's parser accepts only one word for a field that may be text or a list
        lists = {key: given.pop(key) for key in ("report_to",) if len(given.get(key, ())) > 1}
        parser.set_defaults_with_config(**{**self.values, **by_machine, **(replaced or {}), **lists})
        usage = io.StringIO()
        try:
            with contextlib.redirect_stderr(usage):
                return parser.parse_args_into_dataclasses(args=_plain_words(given))
        except SystemExit as error:  # argparse prints the usage and exits on a value of the wrong type
            message = usage.getvalue().strip().splitlines()[-1].split("error: ", 1)[-1]
            raise InputError(f"{self.name}: a setting has a value of the wrong type: {message}") from error
        except ValueError as error:  # from the checks of transformers and TRL
            raise error if isinstance(error, InputError) else InputError(f"{self.name}: {error}") from error


def _given(words: list[str]) -> list[str]:
    """Return the words after a key; none after a bare key."""
    return [] if words[0] is BARE else words


def _plain_words(given: dict[str, list[str]]) -> list[str]:
    """Return the words as argparse takes them: underscores in keys, and a value for each key."""
    return [word for key, values in given.items() for word in (f"--{key}", *values)]


def _names(key: str, value) -> list[str]:
    """
    Return the files and folders that a setting names. A mapping or its JSON, which DeepSpeed also takes, names none.
    """
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
        name: a file, the name of a recipe of the package such as "demo/teacher", or None for the command line alone.
        overrides: words of the command line.

    Raises:
        InputError: the file does not exist or is not a YAML mapping, or the words are not `--key value`.
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
    Split the words of a command line into keys and their values.

    Accepts `--key value`, `--key=value`, a bare `--key` for true and, for lists, `--key value value`. Hyphens in a key
    are replaced by underscores, as in TRL's command line.
    """
    overrides, rest = {}, list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise InputError(f"{word!r} on the command line has no key; write settings as `--key value`.")
        key, equals, value = word[2:].partition("=")
        key, values = key.replace("-", "_"), [value] if equals else []
        while not equals and rest and not rest[0].startswith("--"):
            values.append(rest.pop(0))
        overrides[key] = values or [BARE]
    return overrides
