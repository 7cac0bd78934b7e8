"""
Settings that silence third-party libraries: no banners, no telemetry, and waiting threads release their cores.

Importing this module applies them. Variables that the user has set in the environment are kept. `cli.main` imports it,
and the pipeline's fork server imports it first.
"""

import logging
import os
import re
import shutil
import warnings

# Beginnings of warnings that users cannot act on, with their categories; all other warnings are shown. The list is for
# torch 2.13. The entries must not contain a comma or colon, because PYTHONWARNINGS does not accept them.
WARNINGS = {
    # vLLM uses a deprecated name of torch at every start, in triton_utils/dispatcher.py
    "`torch.distributed.reduce_op` is deprecated": FutureWarning,
    # vLLM's tensor-parallel workers use a deprecated name of torch
    "`torch.distributed.all_gather_into_tensor` is deprecated": FutureWarning,
    # Python's resource tracker reports resources of a killed process, which it removes itself
    "resource_tracker": UserWarning,
}
ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "AR_LOG_LEVEL": "ERROR",
    "OMP_WAIT_POLICY": "PASSIVE",  # waiting threads sleep, because spinning threads slow down training on busy cores
    # for engine processes
    "PYTHONWARNINGS": ",".join(f"ignore:{start}:{category.__name__}" for start, category in WARNINGS.items()),
}
if shutil.which("nvidia-smi") is None:
    ENVIRONMENT["DS_ACCELERATOR"] = "cpu"  # otherwise DeepSpeed logs at every import that it guessed the accelerator
for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)
for start, category in WARNINGS.items():
    warnings.filterwarnings("ignore", re.escape(start), category)
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
