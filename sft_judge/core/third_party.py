"""
Importing this quiets the libraries: their banners are not for our users, none of them is to report home, and their
threads are to leave the cores to others while they wait.

What a user has set in the environment stays. Imported by `cli.main`, and first of all by the pipeline's fork server.
"""

import logging
import os
import shutil
import warnings

ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "AR_LOG_LEVEL": "ERROR",
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait asleep: on busy cores a tiny training took 8 s instead of 47
    "PYTHONWARNINGS": "ignore::FutureWarning,ignore::UserWarning,ignore::DeprecationWarning",  # engine processes
}
if shutil.which("nvidia-smi") is None:
    ENVIRONMENT["DS_ACCELERATOR"] = "cpu"  # DeepSpeed says at every import that it had to guess
for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)
for category in (FutureWarning, UserWarning, DeprecationWarning):
    warnings.filterwarnings("ignore", category=category)
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
