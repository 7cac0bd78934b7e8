"""Train, distil, quantise and serve a judge: a model that predicts which of two answers people prefer."""

from importlib import import_module

from sft_judge.core.version import __version__

# Imported on first use, because they import torch, which would slow down `import sft_judge` and every `--help`.
_HOMES = {
    "Judge": "sft_judge.inference.judge",
    "JudgeConfig": "sft_judge.training.config",
    "JudgeModelConfig": "sft_judge.training.config",
    "JudgeTrainer": "sft_judge.training.trainer",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'sft_judge' has no attribute {name!r}")
