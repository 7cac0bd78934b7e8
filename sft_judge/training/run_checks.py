"""
Try a recipe's keys on this machine before the model is loaded: what would fail hours later fails here.

The libraries' own code is asked wherever it can be, on something small: an optimiser takes a step on a few numbers,
and the adapter goes on a model without weights.
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

# what libraries raise for settings that they do not take
REFUSALS = (ImportError, ValueError, TypeError, AttributeError, LookupError, RuntimeError, ArithmeticError)
OF_THE_OPTIMISER = ("adam_beta1", "adam_beta2", "adam_epsilon", "optim_args", "optim_target_modules")
TRIED_NUMBERS, TRIED_STEPS = 8192, 3  # bitsandbytes quantises the state of 4,096 numbers and more
LONG_WARMUP = 0.1  # of the steps
CHECKPOINTING_KEYS = ("use_reentrant", "preserve_rng_state", "selective")


def check_run(config: JudgeConfig, model_config: JudgeModelConfig) -> None:
    """
    Check that this machine and this model take a recipe's keys.

    Raises:
        InputError: a key would end in an error once the model is loaded, or would change nothing.
    """
    check_settings_here(config)
    check_base(model_config, config)


def check_settings_here(config: JudgeConfig) -> None:
    """Check that this machine takes a run's settings. Raises `InputError`."""
    _check_trackers(config)
    _check_device(config)
    _check_deepspeed(config)
    _check_compile(config)
    _check_checkpointing(config)
    _check_optimizer(config)


def check_evaluation(config: JudgeConfig, has_battles: bool) -> None:
    """Raise `InputError` where an evaluation is asked for, and there is nothing to evaluate on."""
    if config.eval_strategy != "no" and not has_battles:
        raise InputError(
            f"eval_strategy is {config.eval_strategy.value}, but no battles are left out to evaluate on; set fold, or "
            "give an eval_dataset."
        )


def warn_of_unused(config: JudgeConfig, model_config: JudgeModelConfig) -> None:
    """Name the keys that a recipe sets in vain, such as `lora_r` without `use_peft`, or a warm-up that never ends."""
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
            f"warmup_steps is {config.warmup_steps:g} of max_steps {config.max_steps}: more than a tenth of the run "
            "is spent below its learning rate."
        )
    if unused:
        logger.warning(f"keys that do nothing in this run: {'; '.join(unused)}.")


def check_rows(config: JudgeConfig, battles: pa.Table, num_rows: int) -> None:
    """
    Check what a recipe asks of its battles.

    Args:
        config: the recipe.
        battles: those that it trains on.
        num_rows: how many of them have a label.

    Raises:
        InputError: no batch of the training set is whole, so that nothing would be trained, or no battle has a margin.
    """
    margins = battles["margin"].to_pylist() if "margin" in battles.column_names else []
    if config.margin_scale and not any(margins):
        raise InputError("margin_scale is set, but no battle has a `margin`; leave it out.")
    batch = config.train_batch_size * config.world_size
    if config.dataloader_drop_last and config.token_budget is None and num_rows < batch:
        raise InputError(
            f"dataloader_drop_last leaves out a batch that is not whole, and {num_rows} battles are fewer than the "
            f"{batch} of one on all processes. Leave it out, or lower per_device_train_batch_size."
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
            raise InputError(f"{name} is of trackio, but report_to is {', '.join(config.report_to)}; leave it out.")


def _check_device(config: JudgeConfig) -> None:
    if config.n_gpu > 1:
        raise InputError(
            f"{config.n_gpu} GPUs are visible to one process; start one for each: sft-judge launch --num_processes "
            f"{config.n_gpu} ..., or set CUDA_VISIBLE_DEVICES=0."
        )
    divided = uses_fsdp() or config.deepspeed_plugin
    if divided and config.save_only_model and config.load_best_model_at_end:
        raise InputError("save_only_model and load_best_model_at_end do not go together under DeepSpeed or FSDP.")
    for name in ("fp16", "activation_offloading"):
        if getattr(config, name) and config.device.type == "cpu":
            raise InputError(f"{name} needs a GPU, but training is on the CPU; leave it out.")


def _check_deepspeed(config: JudgeConfig) -> None:
    """Raise `InputError` where a launcher's DeepSpeed settings contradict the recipe."""
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
        raise InputError("gradient_checkpointing_kwargs: selective needs gradient_checkpointing, not reentrant.")
    assert set(given) - {"selective"} <= set(signature(checkpoint).parameters)


def _check_optimizer(config: JudgeConfig) -> None:
    """Let the optimiser and its schedule take a few steps on a few numbers, on the device of the run."""
    layer = torch.nn.Linear(1, TRIED_NUMBERS, bias=False, device=config.device)
    defaults = _try_optimizer(config, layer)
    for name in OF_THE_OPTIMISER:
        default = JudgeConfig.__dataclass_fields__[name].default
        if getattr(config, name) == default:
            continue
        try:
            without = _try_optimizer(config.with_changes(**{name: default}), layer)
        except InputError:  # it needs the key
            continue
        if without == defaults:
            raise InputError(f"{name} is {getattr(config, name)!r}, but {config.optim.value} makes no use of it.")
    if "weight_decay" in (config.optim_args or ""):  # Trainer's groups of parameters have their own
        raise InputError("optim_args has weight_decay, which Trainer takes from the key weight_decay alone.")
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
    """Let the optimiser that Trainer would make take a step; returns its options. Raises `InputError` if it cannot."""
    some = config.with_changes(optim_target_modules=config.optim_target_modules and "all-linear")
    try:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(some, torch.nn.ModuleDict({"layer": layer}))
        seen = dict(options)
        given = [options.pop(name) for name in ("params", "model", "optimizer_dict") if name in options]
        optimizer = kind(given[0] if given else layer.parameters(), **options)
        if hasattr(optimizer, "train"):  # a schedule-free one
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
            raise InputError(f"{name} is {given}, but lr_scheduler_type {kind} makes no use of it; leave it out.")
