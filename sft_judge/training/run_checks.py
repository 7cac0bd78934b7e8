"""
Check a recipe's settings on this machine before the model is loaded, to fail now and not hours later.

Where possible the checks call the libraries' own code on something small: an optimiser takes a step on a few numbers,
and the adapter is put on a model without weights.
"""

import logging
from inspect import signature

import pyarrow as pa
import torch
from accelerate.utils import DynamoBackend
from torch.utils.checkpoint import checkpoint
from transformers import Trainer, get_scheduler
from transformers.integrations import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

from sft_judge.core.environment import install_command
from sft_judge.core.errors import InputError, nearest, one_line
from sft_judge.training.base_model import check_base
from sft_judge.training.config import JudgeConfig, JudgeModelConfig
from sft_judge.training.machine_defaults import uses_fsdp
from sft_judge.training.settings_checks import keys_of_many_processes, unused_settings
from sft_judge.training.settings_table import MODEL, OWN, TRAINING

logger = logging.getLogger(__name__)

# exceptions that libraries raise for settings they do not accept
REFUSALS = (ImportError, ValueError, TypeError, AttributeError, LookupError, RuntimeError, ArithmeticError)
OF_THE_OPTIMISER = ("adam_beta1", "adam_beta2", "adam_epsilon", "optim_args", "optim_target_modules")
TRIED_NUMBERS, TRIED_STEPS = 8192, 3  # bitsandbytes quantises the state of 4,096 numbers and more
LONG_WARMUP = 0.1  # share of the steps above which a warm-up is questioned
CHECKPOINTING_KEYS = ("use_reentrant", "preserve_rng_state", "selective")


def check_run(config: JudgeConfig, model_config: JudgeModelConfig) -> None:
    """
    Check that this machine and this model support a recipe's settings.

    Args:
        config: settings of the training.
        model_config: settings of the base model and its adapter.

    Raises:
        InputError: a setting would fail once the model is loaded, or would have no effect.
    """
    check_settings_here(config)
    check_base(model_config, config)


def check_settings_here(config: JudgeConfig) -> None:
    """Check that this machine supports a run's settings. Raises `InputError`."""
    _check_trackers(config)
    _check_device(config)
    _check_deepspeed(config)
    _check_compile(config)
    _check_checkpointing(config)
    _check_optimizer(config)


def check_evaluation(config: JudgeConfig, has_battles: bool) -> None:
    """
    Raise `InputError` if an evaluation is asked for and there are no battles to evaluate on.

    Args:
        config: settings of the training.
        has_battles: True if there are battles to evaluate on.
    """
    if config.eval_strategy != "no" and not has_battles:
        raise InputError(
            f"eval_strategy is {config.eval_strategy.value}, but no battles are held out to evaluate on; set fold, "
            "or dataset_name with a test split, or in Python eval_dataset."
        )


def warn_of_unused(config: JudgeConfig, model_config: JudgeModelConfig) -> None:
    """
    Warn of settings without effect, such as `lora_r` without `use_peft`, and of a warm-up that is too long.

    Args:
        config: settings of the training.
        model_config: settings of the base model and its adapter.
    """
    unused = [*unused_settings(config, TRAINING | OWN), *unused_settings(model_config, MODEL | OWN)]
    of_many = keys_of_many_processes(config) if config.world_size == 1 else []
    unused += [f"{', '.join(of_many)} (this is one process)"] if of_many else []
    if 0 < config.max_steps <= config.warmup_steps:
        logger.warning(
            f"warmup_steps is {config.warmup_steps:g} and max_steps {config.max_steps}: the learning rate starts at 0 "
            f"and never reaches {config.learning_rate:g}."
        )
    elif config.max_steps > 0 and config.warmup_steps >= 1 and config.warmup_steps > LONG_WARMUP * config.max_steps:
        logger.warning(
            f"warmup_steps is {config.warmup_steps:g} and max_steps {config.max_steps}: the learning rate is below "
            "its peak for more than a tenth of the run."
        )
    if unused:
        logger.warning(f"settings without effect in this run: {'; '.join(unused)}.")


def check_rows(config: JudgeConfig, battles: pa.Table, num_rows: int) -> None:
    """
    Check the settings that depend on the battles.

    Args:
        config: settings of the training.
        battles: the battles to train on.
        num_rows: number of battles with a label.

    Raises:
        InputError: there are too few battles for one full batch, or `margin_scale` is set and no battle has a margin.
    """
    margins = battles["margin"].to_pylist() if "margin" in battles.column_names else []
    if config.margin_scale and not any(margins):
        raise InputError("margin_scale is set, but no battle has a `margin`; remove the setting.")
    batch = config.train_batch_size * config.world_size
    if config.dataloader_drop_last and config.token_budget is None and num_rows < batch:
        raise InputError(
            f"dataloader_drop_last drops an incomplete batch, and {num_rows} battles are fewer than the {batch} of "
            "one batch on all processes. Remove the setting, or lower per_device_train_batch_size."
        )


def _check_trackers(config: JudgeConfig) -> None:
    installed = get_available_reporting_integrations()
    for tracker in config.report_to or []:
        if tracker not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            raise InputError(f"report_to is {tracker!r}, expected none, {known}.{nearest(tracker, known.split(', '))}")
        if tracker not in installed:
            raise InputError(f"report_to is {tracker}, which is not installed: {install_command(tracker)}")
    for name in ("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"):
        default = JudgeConfig.__dataclass_fields__[name].default
        if config.report_to and "trackio" not in config.report_to and getattr(config, name) != default:
            raise InputError(f"{name} is for trackio, but report_to is {', '.join(config.report_to)}; remove it.")


def _check_device(config: JudgeConfig) -> None:
    if config.n_gpu > 1:
        raise InputError(
            f"{config.n_gpu} GPUs are visible to one process; start one process for each GPU: sft-judge launch "
            f"--num_processes {config.n_gpu} ..., or set CUDA_VISIBLE_DEVICES=0."
        )
    divided = uses_fsdp() or config.deepspeed_plugin
    if divided and config.save_only_model and config.load_best_model_at_end:
        raise InputError("save_only_model and load_best_model_at_end cannot be combined under DeepSpeed or FSDP.")
    for name in ("fp16", "activation_offloading"):
        if getattr(config, name) and config.device.type == "cpu":
            raise InputError(f"{name} needs a GPU, but training is on the CPU; remove the setting.")


def _check_deepspeed(config: JudgeConfig) -> None:
    """Raise `InputError` if a launcher's DeepSpeed settings contradict the recipe."""
    given = config.deepspeed_plugin.deepspeed_config if config.deepspeed_plugin else {}
    own = {
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "train_micro_batch_size_per_gpu": config.per_device_train_batch_size,
        "gradient_clipping": config.max_grad_norm,
    }
    for name, value in own.items():
        if given.get(name, "auto") not in ("auto", value):
            raise InputError(
                f"{name} is {given[name]} in DeepSpeed's settings, but {value} in the recipe; set it to auto there."
            )


def _check_compile(config: JudgeConfig) -> None:
    backend, mode = config.torch_compile_backend, config.torch_compile_mode
    backends = [kind.value.lower() for kind in DynamoBackend if kind.value != "NO"]
    if backend is not None and backend not in backends:
        known = ", ".join(backends)
        raise InputError(f"torch_compile_backend is {backend!r}, expected one of {known}.{nearest(backend, backends)}")
    if mode is not None:
        from torch._inductor import list_mode_options

        modes = list(list_mode_options())
        if mode not in modes:
            known = ", ".join(modes)
            raise InputError(f"torch_compile_mode is {mode!r}, expected one of {known}.{nearest(mode, modes)}")


def _check_checkpointing(config: JudgeConfig) -> None:
    given = config.gradient_checkpointing_kwargs or {}
    for name in given:
        if name not in CHECKPOINTING_KEYS or not isinstance(given[name], bool):
            raise InputError(
                f"gradient_checkpointing_kwargs has {name}: {given[name]!r}, expected true or false for "
                f"{', '.join(CHECKPOINTING_KEYS)}.{nearest(str(name), CHECKPOINTING_KEYS)}"
            )
    if given.get("selective") and (given.get("use_reentrant") or not config.gradient_checkpointing):
        raise InputError(
            "gradient_checkpointing_kwargs: selective needs gradient_checkpointing: true and use_reentrant: false."
        )
    assert set(given) - {"selective"} <= set(signature(checkpoint).parameters)


def _check_optimizer(config: JudgeConfig) -> None:
    """Run a few steps of the optimiser and its schedule on a few numbers, on the device of the run."""
    layer = torch.nn.Linear(1, TRIED_NUMBERS, bias=False, device=config.device)
    defaults = _try_optimizer(config, layer)
    for name in OF_THE_OPTIMISER:
        default = JudgeConfig.__dataclass_fields__[name].default
        if getattr(config, name) == default:
            continue
        try:
            without = _try_optimizer(config.with_changes(**{name: default}), layer)
        except InputError:  # the optimiser needs the setting
            continue
        if without == defaults:
            raise InputError(f"{name} is {getattr(config, name)!r}, but {config.optim.value} does not use it.")
    if "weight_decay" in (config.optim_args or ""):  # Trainer sets weight decay in its parameter groups
        raise InputError("optim_args has weight_decay, which Trainer reads only from the setting weight_decay.")
    _check_unused_by_schedule(config)
    steps = config.max_steps if config.max_steps > 0 else TRIED_STEPS + int(config.warmup_steps)
    try:
        schedule = get_scheduler(
            config.lr_scheduler_type,
            torch.optim.SGD(layer.parameters(), lr=config.learning_rate),
            config.get_warmup_steps(steps),
            steps,
            config.lr_scheduler_kwargs,
        )
        with_loss = "metrics" in signature(schedule.step).parameters
        for _ in range(TRIED_STEPS):
            schedule.optimizer.step()
            schedule.step(*([1.0] if with_loss else []))
    except REFUSALS as error:
        kind, given = config.lr_scheduler_type.value, config.lr_scheduler_kwargs or "none"
        raise InputError(f"lr_scheduler_type {kind} with lr_scheduler_kwargs {given}: {one_line(error)}.") from error


def _try_optimizer(config: JudgeConfig, layer: torch.nn.Module) -> dict:
    """
    Run one step of the optimiser that Trainer would create, and return its options.

    Raises:
        InputError: the optimiser cannot be used.
    """
    some = config.with_changes(optim_target_modules=config.optim_target_modules and "all-linear")
    try:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(some, torch.nn.ModuleDict({"layer": layer}))
        seen = dict(options)
        given = [options.pop(name) for name in ("params", "model", "optimizer_dict") if name in options]
        optimizer = kind(given[0] if given else layer.parameters(), **options)
        if hasattr(optimizer, "train"):  # a schedule-free optimiser
            optimizer.train()
        layer(torch.ones(1, 1, device=config.device)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    except REFUSALS as error:
        given = f" with optim_args {config.optim_args}" if config.optim_args else ""
        raise InputError(f"optim {config.optim.value}{given} cannot be used here: {one_line(error)}.") from error
    return seen


def _check_unused_by_schedule(config: JudgeConfig) -> None:
    kind = config.lr_scheduler_type.value
    unused = {
        "lr_scheduler_kwargs": kind in ("constant", "constant_with_warmup") and config.lr_scheduler_kwargs,
        "warmup_steps": kind in ("constant", "reduce_lr_on_plateau", "greedy") and config.warmup_steps,
    }
    for name, given in unused.items():
        if given:
            raise InputError(f"{name} is {given}, but lr_scheduler_type {kind} does not use it; remove the setting.")
