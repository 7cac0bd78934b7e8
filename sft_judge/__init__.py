"""A judge of your own: which of two answers do people prefer, and with what probability."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("sft-judge")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+unknown"

__all__ = ["Judge", "__version__"]


def __getattr__(name: str):
    # Judge pulls in torch; `import sft_judge` and every `--help` must not.
    if name == "Judge":
        from sft_judge.judge import Judge

        return Judge
    raise AttributeError(f"module 'sft_judge' has no attribute {name!r}")
