"""
Check settings against the table: known, of the right type, one of the choices, in range, not refused.

These checks need neither the model nor the machine. run_checks.py holds those that do.
"""

import json
import os
from dataclasses import MISSING, fields
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sft_judge.core.errors import InputError, nearest
from sft_judge.training.machine_defaults import has_gpu
from sft_judge.training.settings_table import RANGES, REFUSED, Setting

OFF = (None, False, 0, "", "no", [], "none")
_NAMES = {NoneType: "null", bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_NAMES |= {dict: "a mapping", list: "a list"}
_SHOWN_CHARACTERS = 80


def check_settings(config, table: dict[str, Setting], choices: dict[str, tuple]) -> None:
    """
    Check every field of a settings dataclass. A single value for a list becomes a list.

    Args:
        config: a `JudgeConfig` or `JudgeModelConfig` with the values of the recipe.
        table: handling of the fields that are TRL's.
        choices: allowed values by field, in addition to those that TRL declares.

    Raises:
        InputError: a field has the wrong type, is not one of its choices, is out of range, refused, or not in `table`.
    """
    hints = hints_of(type(config))
    for item in fields(config):
        name, hint, value = item.name, hints[item.name], getattr(config, item.name)
        if isinstance(value, os.PathLike):
            setattr(config, name, value := os.fspath(value))
        if _takes_list_alone(hint) and isinstance(value, str | int | float):
            setattr(config, name, value := [value])
        default = item.default_factory() if item.default is MISSING else item.default
        if value == default and type(value) is type(default):
            continue
        if name not in table and name not in type(config).__annotations__:
            raise InputError(f"{name} is set, but sft_judge does not know this setting of the installed TRL.")
        if name in table and table[name].handling == REFUSED:
            if value in table[name].allowed:
                continue
            raise InputError(f"{name} is {_show(value)}, but {table[name].remark}.")
        if not _fits(value, hint):
            raise InputError(f"{name} is {_show(value)}, expected {_describe(hint)}.")
        _check_mapping(name, value, hint)
        _check_choice(name, value, choices.get(name) or item.metadata.get("choices") or enum_values(hint))
        _check_range(name, value)


def check_combinations(config) -> None:
    """
    Raise `InputError` if a setting of a `JudgeConfig` has no effect, or fails late, because another one is missing.
    """
    evaluates = config.eval_strategy != "no"
    wants_evaluation = {
        "load_best_model_at_end": config.load_best_model_at_end,
        "eval_on_start": config.eval_on_start,
        "save_strategy best": config.save_strategy == "best",
    }
    for name, wanted in wants_evaluation.items():
        if wanted and not evaluates:
            raise InputError(f"{name} needs an evaluation; set eval_strategy, and fold or dataset_name, or remove it.")
    if config.save_only_model and config.save_strategy == "no":
        raise InputError("save_only_model applies to checkpoints, but save_strategy is no; remove one of them.")
    metric = config.metric_for_best_model
    if config.save_strategy == "best" and metric is None:
        raise InputError("save_strategy is best; set metric_for_best_model too, e.g. log_loss.")
    by_metric = config.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy") or config.save_strategy == "best"
    for name in ("metric_for_best_model", "greater_is_better"):
        if getattr(config, name) is not None and not (by_metric or config.load_best_model_at_end):
            raise InputError(f"{name} has no effect; set load_best_model_at_end or save_strategy best too.")
    if evaluates and config.max_steps > 0 and max(config.eval_steps or 0, config.eval_delay) > config.max_steps:
        raise InputError(f"eval_steps or eval_delay is beyond max_steps, {config.max_steps}: nothing is evaluated.")
    if evaluates and config.dataloader_drop_last:
        raise InputError("dataloader_drop_last would drop battles from the evaluation too; remove one of them.")
    if config.dataloader_num_workers == 0:
        for name in ("dataloader_persistent_workers", "dataloader_multiprocessing_context"):
            if getattr(config, name):
                raise InputError(f"{name} is set, but there are no workers; set dataloader_num_workers.")
    if config.agreement_weight and config.swap != "both":
        raise InputError(f"agreement_weight needs both orders of a battle, but swap is {config.swap}; set swap: both.")
    if config.ddp_backend and os.environ.get("WORLD_SIZE", "1") == "1":
        raise InputError(f"ddp_backend is {config.ddp_backend}, but this is a single process; remove the setting.")
    if config.deepspeed and not has_gpu() and os.environ.get("WORLD_SIZE", "1") == "1":
        raise InputError("deepspeed is set, but this is a single process on a CPU; remove it, or launch on GPUs.")
    _check_order(config)


def _check_order(config) -> None:
    """Raise `InputError` if one setting of a batch's battles would silently override another."""
    budget, strategy = config.token_budget is not None, config.train_sampling_strategy
    if budget and not config.padding_free:
        raise InputError("token_budget needs padding_free: set it too, or use per_device_train_batch_size instead.")
    if budget and config.battle_order == "random":
        raise InputError("token_budget needs battle_order balanced or by_length, not random.")
    if strategy != "random" and (budget or config.battle_order != "balanced"):
        other = "token_budget" if budget else f"battle_order {config.battle_order}"
        raise InputError(f"train_sampling_strategy {strategy} and {other} each choose the batches; remove one.")
    if config.data_seed is not None and strategy != "random":
        raise InputError(f"data_seed is set, but train_sampling_strategy is {strategy}; remove one of them.")


def check_deepspeed(config) -> None:
    """Raise `InputError` if DeepSpeed's own settings contradict the recipe, as Trainer would when training starts."""
    if getattr(config, "hf_deepspeed_config", None) and config.hf_deepspeed_config.mismatches:
        wrong = "; ".join(line.removeprefix("- ") for line in config.hf_deepspeed_config.mismatches)
        raise InputError(f"deepspeed: its JSON and the recipe differ ({wrong}). Set these to 'auto' in the JSON.")


def unused_settings(config, table: dict[str, Setting]) -> list[str]:
    """
    Describe the settings without effect, together with the setting that each one needs.

    Args:
        config: a `JudgeConfig` or `JudgeModelConfig`.
        table: settings by name.
    """
    found = {}
    for item in fields(config):
        needs = table[item.name].needs if item.name in table else None
        value, default = getattr(config, item.name), item.default
        if default is MISSING:  # TRL turns a list of one into a single value
            default = item.default_factory()
            value = value if isinstance(value, list) else [value]
        if needs and value != default and getattr(config, needs) in OFF:
            found.setdefault(needs, []).append(item.name)
    return [f"{', '.join(names)} ({needs} is off)" for needs, names in found.items()]


def keys_of_many_processes(config) -> list[str]:
    """Return the names of the multi-process settings (`ddp_*`) that a recipe sets."""
    items = [item for item in fields(config) if item.name.startswith("ddp_") and item.default is not MISSING]
    return [item.name for item in items if getattr(config, item.name) != item.default]


@cache
def hints_of(kind: type) -> dict:
    """Return the type hints of a dataclass, cached."""
    return get_type_hints(kind)


def _check_mapping(name: str, value, hint) -> None:
    """Raise `InputError` if text for a mapping is not JSON, as on the command line, or for `deepspeed` not a file."""
    if not isinstance(value, str) or dict not in [get_origin(kind) or kind for kind in _alternatives(hint)]:
        return
    if name == "deepspeed" and not value.startswith("{"):
        if not os.path.isfile(value):
            raise InputError(f"deepspeed is {_show(value)}, but there is no such file.")
        return
    try:
        parsed = json.loads(value)
    except ValueError as error:
        raise InputError(f"{name} is {_show(value)}, expected a mapping as JSON ({error}).") from error
    if not isinstance(parsed, dict):
        raise InputError(f"{name} is {_show(value)}, expected a mapping.")


def _check_choice(name: str, value, known) -> None:
    if known and value is not None and value not in tuple(known):
        known = [str(item) for item in known]
        raise InputError(f"{name} is {_show(value)}, expected one of {', '.join(known)}.{nearest(str(value), known)}")


def _check_range(name: str, value) -> None:
    if name in RANGES and isinstance(value, int | float):
        low, high = RANGES[name]
        if not low <= value <= high:  # NaN too
            raise InputError(f"{name} is {value}, expected {low:g} to {high:g}.")


def _alternatives(hint) -> tuple:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _takes_list_alone(hint) -> bool:
    kinds = _alternatives(hint)
    return str not in kinds and any(get_origin(kind) is list for kind in kinds)


def enum_values(hint) -> tuple:
    """Return the values of all enums in a type hint."""
    enums = [kind for kind in _alternatives(hint) if isinstance(kind, type) and issubclass(kind, Enum)]
    return tuple(item.value for kind in enums for item in kind)


def _fits(value, hint) -> bool:
    """Return True if a value has an annotated type. An integer is also a float; true and false are neither."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return any(value is part for part in parts)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, parts[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(item, parts[1]) for item in value.values())
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    return isinstance(value, hint)


def _describe(hint) -> str:
    if list[str] in _alternatives(hint):
        return "a list of text" if str not in _alternatives(hint) else "text or a list of text"
    kinds = [get_origin(kind) or kind for kind in _alternatives(hint)]
    return " or ".join(dict.fromkeys(_NAMES.get(kind, "text") for kind in kinds if kind is not Literal))


def _show(value) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
