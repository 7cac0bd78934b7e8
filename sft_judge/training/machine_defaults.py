"""
Defaults that depend on the machine and the launcher. TRL leaves these settings to the user.

`JudgeConfig` uses them as defaults of its fields. The parser of recipes uses them too, since it would pass None
otherwise. A setting in a recipe or on the command line overrides them.
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

SECONDS_BETWEEN_LOOKS = 1  # between checks that the launcher still runs


def has_gpu() -> bool:
    """Return True if torch sees a GPU."""
    import torch

    return torch.cuda.is_available()


def uses_deepspeed() -> bool:
    """Return True in a process that accelerate started with DeepSpeed."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"


def uses_fsdp() -> bool:
    """Return True in a process that accelerate started with FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP") == "true"


def is_one_of_many_on_cpu() -> bool:
    """Return True in a process of a multi-process launch on CPUs."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and not has_gpu()


# For each setting of JudgeConfig, the function that returns its default.
DEFAULTS = {
    "bf16": lambda: None if has_gpu() else False,  # None selects TRL's own rule, which fails without a GPU
    "disable_tqdm": lambda: not sys.stderr.isatty(),  # a progress bar on a terminal, plain lines otherwise
    "ddp_backend": lambda: "gloo" if is_one_of_many_on_cpu() else None,
    # Without `use_cpu` on a CPU, accelerate treats each process of a launch as the only one and does not average
    # gradients, and transformers refuses bf16. DeepSpeed refuses `use_cpu`.
    "use_cpu": lambda: not has_gpu() and not uses_deepspeed(),
    "dataloader_pin_memory": lambda: has_gpu(),
}


def prepare_launch() -> None:
    """
    Prepare the process for its launcher. `JudgeConfig` calls this before its base class initialises DeepSpeed.

    A single process on a machine with several GPUs uses the first GPU and logs a warning. Trainer would spread each
    batch over all GPUs with DataParallel, which TRL refuses.
    """
    if uses_deepspeed():
        prepare_builds()
    if "TORCHELASTIC_RUN_ID" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ:
        _end_with_launcher()
    if "WORLD_SIZE" not in os.environ and "LOCAL_RANK" not in os.environ:
        _use_one_gpu()


@functools.cache  # runs once in each process
def _end_with_launcher() -> None:
    """End this process when its launcher is killed; a killed launcher leaves its workers running."""
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
        f"Of several GPUs only one is used, {os.environ['CUDA_VISIBLE_DEVICES']}, because this is a single process. "
        "`sft-judge launch` starts one process for each GPU."
    )
