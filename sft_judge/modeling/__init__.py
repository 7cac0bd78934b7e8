"""Modeling: judge.json, loading, the verdict head, temperature scaling, tiny models."""

import logging

# peft imports bitsandbytes, which logs warnings about kernels that judges do not need
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
