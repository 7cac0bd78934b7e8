"""
Default settings that depend on the machine and the launcher: TRL leaves them to the user, a recipe may set them.

`JudgeConfig` takes them as defaults of its fields, and so does the parser of recipes, which would pass None otherwise.
A setting in a recipe or on the command line wins.
"""

import os
import sys

from sft_judge.training.deepspeed_builds import prepare_builds


def has_gpu() -> bool:
    """True if torch sees a GPU."""
    import torch

    return torch.cuda.is_available()


def uses_deepspeed() -> bool:
    """True in a process that accelerate started with DeepSpeed."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"


def is_one_of_many_on_cpu() -> bool:
    """True in a process of a launch of several on CPUs."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and not has_gpu()


def default_bf16() -> bool | None:
    """Return None (TRL's own rule) on a GPU and False without one, where TRL's rule would fail."""
    return None if has_gpu() else False


def default_disable_tqdm() -> bool:
    """Return False, for a progress bar, on a terminal; True, for plain lines, on a pipe."""
    return not sys.stderr.isatty()


def default_ddp_backend() -> str | None:
    """Return gloo for several processes on CPUs; None, torch's choice, elsewhere."""
    return "gloo" if is_one_of_many_on_cpu() else None


def default_use_cpu() -> bool:
    """
    Return True for several processes on CPUs, except under DeepSpeed, which refuses it.

    Without it accelerate takes each process for the only one, and their gradients are not averaged.
    """
    return is_one_of_many_on_cpu() and not uses_deepspeed()


# setting of JudgeConfig: what gives its default
DEFAULTS = {
    "bf16": default_bf16,
    "disable_tqdm": default_disable_tqdm,
    "ddp_backend": default_ddp_backend,
    "use_cpu": default_use_cpu,
    "dataloader_pin_memory": has_gpu,
}


def prepare_launch() -> None:
    """Prepare what a launcher needs before a `JudgeConfig` is made, which is when DeepSpeed starts."""
    if uses_deepspeed():
        prepare_builds()
