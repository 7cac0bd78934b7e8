"""A judge of your own: which of two answers do people prefer, and with what probability."""

from sft_judge.core.version import __version__

__all__ = ["Judge", "__version__"]


def __getattr__(name: str):
    # Judge pulls in torch; `import sft_judge` and every `--help` must not.
    if name == "Judge":
        from sft_judge.inference.judge import Judge

        return Judge
    raise AttributeError(f"module 'sft_judge' has no attribute {name!r}")
