"""What a judge is: judge.json, loading, the verdict head, temperature scaling, tiny models."""

import logging

# peft imports bitsandbytes, which warns at its import of kernels that no judge needs
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
