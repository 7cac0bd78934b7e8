"""
Default settings that depend on the machine and the launcher: TRL leaves them to the user, a recipe may set them.

`JudgeConfig` takes them as defaults of its fields, and so does the parser of recipes, which would pass None otherwise.
A setting in a recipe or on the command line wins.
"""

import functools
import logging
import os
import signal
import sys
import threading
import time

from sft_judge.training.deepspeed_builds import prepare_builds

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 1  # whether the launcher is still there


def has_gpu() -> bool:
    """True if torch sees a GPU."""
    import torch

    return torch.cuda.is_available()


def uses_deepspeed() -> bool:
    """True in a process that accelerate started with DeepSpeed."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"


def uses_fsdp() -> bool:
    """True in a process that accelerate started with FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP") == "true"


def is_one_of_many_on_cpu() -> bool:
    """True in a process of a launch of several on CPUs."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and not has_gpu()


# setting of JudgeConfig: what gives its default
DEFAULTS = {
    "bf16": lambda: None if has_gpu() else False,  # None: TRL's own rule, which fails without a GPU
    "disable_tqdm": lambda: not sys.stderr.isatty(),  # a progress bar on a terminal, plain lines on a pipe
    "ddp_backend": lambda: "gloo" if is_one_of_many_on_cpu() else None,
    # without it accelerate takes each process of a launch for the only one and averages no gradients, and transformers
    # refuses bf16; DeepSpeed refuses it
    "use_cpu": lambda: not has_gpu() and not uses_deepspeed(),
    "dataloader_pin_memory": lambda: has_gpu(),
}


def prepare_launch() -> None:
    """
    Prepare what a launch needs; `JudgeConfig` calls it before its base class starts DeepSpeed.

    One process on a machine with several GPUs uses the first of them, which is said: Trainer would spread each batch
    over all by DataParallel, and TRL refuses that.
    """
    if uses_deepspeed():
        prepare_builds()
    if "TORCHELASTIC_RUN_ID" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ:
        _end_with_launcher()
    if "WORLD_SIZE" not in os.environ and "LOCAL_RANK" not in os.environ:
        _use_one_gpu()


@functools.cache  # once a process
def _end_with_launcher() -> None:
    """End this process when its launcher is killed, which leaves its workers to themselves."""
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _use_one_gpu() -> None:
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if torch.cuda.is_initialized() or torch.cuda.device_count() < 2:
        return
    os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0] if visible else "0"
    logger.warning(
        f"Of several GPUs one is used, {os.environ['CUDA_VISIBLE_DEVICES']}: this is one process. `sft-judge launch` "
        "starts one for each."
    )
