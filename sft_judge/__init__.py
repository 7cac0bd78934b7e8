"""A judge of your own: which of two answers do people prefer, and with what probability."""

from importlib import import_module

from sft_judge.core.version import __version__

# They pull in torch, which `import sft_judge` and every `--help` must not.
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
