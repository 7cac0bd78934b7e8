"""What the benchmarks share: memory at its peak, processes of their own, and figures with an interval over rounds."""

import multiprocessing
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path


def return_freed_memory() -> None:
    """Start again with a malloc that hands freed memory back at once, so that a peak of resident memory is a peak."""
    if os.environ.get("MALLOC_MMAP_THRESHOLD_") != "131072":  # malloc reads its settings at the start of a process
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"})


def resident() -> int:
    """Bytes of this process in memory now."""
    return _status("VmRSS")


def new_peak() -> None:
    """Let `peak` start anew."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """The most bytes of this process in memory since `new_peak`."""
    return _status("VmHWM")


def _status(field: str) -> int:
    return 1024 * int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def apart(function, *arguments):
    """Call in a process of its own, forked where nothing but the libraries is loaded."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(function, arguments)


def over_rounds(name: str, figure: Callable, rounds: int, goal: str) -> dict:
    """A result for `bench.py`: `figure` of the indices of rounds, and its 95 % interval by bootstrap over them."""
    import numpy as np

    draws = np.random.default_rng(0).integers(0, rounds, (2000, rounds))
    low, high = np.quantile([figure(draw) for draw in draws], (0.025, 0.975))
    known = {"ratio": float(figure(np.arange(rounds))), "low": float(low), "high": float(high)}
    return {"name": name, **known, "goal": goal, "rounds": rounds}
