"""What the benchmarks share: memory at its peak, processes of their own, and figures with an interval over rounds."""

import argparse
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from pathlib import Path


def chosen(what: str, known: Iterable[str]) -> list[str]:
    """The benchmark's parts that its command line names, or all of them; ends with what is known at any other word."""
    known = list(known)
    parser = argparse.ArgumentParser(description=what, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all unless named: {', '.join(known)}")
    names = parser.parse_args().names
    if unknown := set(names) - set(known):
        parser.error(f"{', '.join(sorted(unknown))}: expected of {', '.join(known)}")
    return names or known


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


@contextmanager
def serving(model, *flags, log=None):
    """`sft-judge serve` in a process of its own, on a free port: (process, url) once it serves; stopped at the end."""
    command = [sys.executable, "-m", "sft_judge", "serve", "--model", str(model), "--port", "0", *map(str, flags)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        try:
            line = next((line for line in process.stdout if line.startswith("serving at ")), None)
            if line is None:
                raise RuntimeError(f"the server ended with status {process.wait()} before it served")
            yield process, line.split()[-1]
        finally:
            process.terminate()
