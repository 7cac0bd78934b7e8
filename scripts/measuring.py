"""
What the benchmarks share: memory at its peak, processes of their own, figures with an interval over rounds, and legs
that must end within some minutes.
"""

import argparse
import gc
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from sft_judge.core.errors import InputError, one_line
from sft_judge.core.files import write_json

REPEATS = {"cuda": (2, 5), "cpu": (1, 2)}  # calls that do not count and those that do, where CPUs are for dry runs
# What a library may raise on a GPU that nobody tried; the other legs are worth their minutes all the same.
FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, ImportError, AssertionError, OSError)


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


def wait(device: str) -> None:
    """Until what was started on the device is done."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def median_seconds(function, device: str) -> float:
    """The median time of several calls after some that do not count."""
    (warm_up, timed), taken = REPEATS[device], []
    for _ in range(warm_up + timed):
        wait(device)
        start = time.perf_counter()
        function()
        wait(device)
        taken.append(time.perf_counter() - start)
    return median(taken[warm_up:])


def held_bytes(device: str) -> int:
    """Bytes of tensors now; on a CPU none, as its peaks are of all that the process holds."""
    import torch

    return torch.cuda.memory_allocated() if device == "cuda" else 0


def start_peak(device: str) -> None:
    """Let `peak_bytes` start anew."""
    import torch

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        new_peak()


def peak_bytes(device: str) -> int:
    """The most bytes since `start_peak`: of tensors, on a CPU of the whole process."""
    import torch

    return torch.cuda.max_memory_allocated() if device == "cuda" else peak()


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


@dataclass
class Report:
    """What was found so far, written whole after each leg; `end` is when the minutes are over."""

    output: Path
    device: str
    shapes: tuple
    about: dict
    end: float
    options: argparse.Namespace
    results: list[dict] = field(default_factory=list)

    def add(self, leg: str, status: str = "done", **found) -> None:
        """Print a result and write all of them."""
        self.results.append({"leg": leg, "status": status, **found})
        shown = ", ".join(f"{name} {_shown(value)}" for name, value in found.items() if value is not None)
        print(f"{leg}: {shown if status == 'done' else status}", flush=True)
        write_json(self.output, {**self.about, "results": self.results})

    def attempt(self, leg: str, function, *given, seconds: float = 5):
        """
        Call a function unless fewer than `seconds` are left; what goes wrong becomes the leg's result.

        Returns:
            What it returns; None where it gave nothing.
        """
        import torch

        left = self.end - time.monotonic()
        if left < seconds:
            self.add(leg, f"left out: it takes about {seconds:.0f} s, and {max(left, 0):.0f} are left (--minutes)")
            return None
        found, status = None, None
        try:
            with _alarm(left):
                found = function(*given)
        except torch.OutOfMemoryError:
            status = "out of GPU memory"
        except TimeoutError:
            status = "stopped: the minutes are over (--minutes)"
        except InputError as error:
            status = f"failed: {error}"
        except FAILURES as error:
            traceback.print_exc()
            status = f"failed: {type(error).__name__}: {one_line(error)}"
        if status is not None:
            free_memory()  # outside the handlers, whose traceback holds the tensors
            self.add(leg, status)
        return found

    def run(self, leg: str, function, *given, seconds: float = 5) -> None:
        """Attempt a leg that gives numbers, and add them."""
        found = self.attempt(leg, function, *given, seconds=seconds)
        if found is not None:
            self.add(leg, **found)


def _shown(value) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if value < 1e4 else f"{value:,.0f}"
    return f"{value:,}" if type(value) is int else str(value)


@contextmanager
def _alarm(seconds: float):
    """Raise `TimeoutError` in the block when so many seconds are over."""

    def ring(number, frame):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    others = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *others)


def free_memory() -> None:
    """Give back what nothing uses; a trainer and its parts hold one another."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
