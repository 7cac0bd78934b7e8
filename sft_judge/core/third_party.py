"""
Importing this quiets the libraries: their banners are not for our users, none of them is to report home, and their
threads are to leave the cores to others while they wait.

What a user has set in the environment stays. Imported by `cli.main`, and first of all by the pipeline's fork server.
"""

import logging
import os
import re
import shutil
import warnings

# Starts of warnings that ask nothing of our users, with their categories; all others are shown. They are what was
# seen on 2.13 of torch in the tiny and demo pipelines, 4-bit and 8-bit training and quantising, vLLM with one worker
# and two, Ray, serving, DeepSpeed and FSDP. No comma or colon in them: PYTHONWARNINGS takes none.
WARNINGS = {
    # vLLM looks up an old name of torch's at every start, in triton_utils/dispatcher.py
    "`torch.distributed.reduce_op` is deprecated": FutureWarning,
    # vLLM's workers that share a model gather by an old name of torch's
    "`torch.distributed.all_gather_into_tensor` is deprecated": FutureWarning,
    # Python's tracker, of what a killed process left, which it takes away itself
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
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait asleep: on busy cores a tiny training took 8 s instead of 47
    # in engine processes
    "PYTHONWARNINGS": ",".join(f"ignore:{start}:{category.__name__}" for start, category in WARNINGS.items()),
}
if shutil.which("nvidia-smi") is None:
    ENVIRONMENT["DS_ACCELERATOR"] = "cpu"  # DeepSpeed says at every import that it had to guess
for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)
for start, category in WARNINGS.items():
    warnings.filterwarnings("ignore", re.escape(start), category)
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
