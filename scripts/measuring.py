"""
Functions that benchmarks share: peak memory, separate processes, intervals over rounds, and legs with a time limit.
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

REPEATS = {"cuda": (2, 5), "cpu": (1, 2)}  # warm-up calls and timed calls; CPUs are for dry runs
# Errors that a library may raise on an untested GPU; the other legs still run.
FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, ImportError, AssertionError, OSError)


def chosen(what: str, known: Iterable[str]) -> list[str]:
    """
    Parse the command line of a benchmark, and return the parts that it names, or all parts.

    Args:
        what: description for the help.
        known: names of all parts.
    """
    known = list(known)
    parser = argparse.ArgumentParser(description=what, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"parts to run, by default all: {', '.join(known)}")
    names = parser.parse_args().names
    if unknown := set(names) - set(known):
        parser.error(f"{', '.join(sorted(unknown))}: expected of {', '.join(known)}")
    return names or known


def return_freed_memory() -> None:
    """Restart this process with a malloc that returns freed memory at once, so that peaks of memory are exact."""
    if os.environ.get("MALLOC_MMAP_THRESHOLD_") != "131072":  # malloc reads its settings at the start of a process
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"})


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    return _status("VmRSS")


def new_peak() -> None:
    """Reset the peak that `peak` returns."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Return the peak resident memory of this process since `new_peak`, in bytes."""
    return _status("VmHWM")


def _status(field: str) -> int:
    return 1024 * int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def wait(device: str) -> None:
    """Wait until all work on the device is done."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def median_seconds(function, device: str) -> float:
    """
    Return the median time of several calls, after some warm-up calls.

    Args:
        function: function without arguments.
        device: "cuda" or "cpu".
    """
    (warm_up, timed), taken = REPEATS[device], []
    for _ in range(warm_up + timed):
        wait(device)
        start = time.perf_counter()
        function()
        wait(device)
        taken.append(time.perf_counter() - start)
    return median(taken[warm_up:])


def held_bytes(device: str) -> int:
    """Return the bytes of tensors on a GPU; 0 on a CPU, as its peaks are those of the whole process."""
    import torch

    return torch.cuda.memory_allocated() if device == "cuda" else 0


def start_peak(device: str) -> None:
    """Reset the peak that `peak_bytes` returns."""
    import torch

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        new_peak()


def peak_bytes(device: str) -> int:
    """Return the peak bytes since `start_peak`: of tensors on a GPU, of the whole process on a CPU."""
    import torch

    return torch.cuda.max_memory_allocated() if device == "cuda" else peak()


def apart(function, *arguments):
    """
    Call a function in a separate process, forked before anything but the libraries is loaded.

    Args:
        function: the function.
        arguments: its arguments.
    """
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(function, arguments)


def over_rounds(name: str, figure: Callable, rounds: int, goal: str) -> dict:
    """
    Return a result for `bench.py`, with a 95 % interval by bootstrap over rounds.

    Args:
        name: name of the result.
        figure: function from indices of rounds to the ratio.
        rounds: number of rounds.
        goal: such as ">= 0.8".
    """
    import numpy as np

    draws = np.random.default_rng(0).integers(0, rounds, (2000, rounds))
    low, high = np.quantile([figure(draw) for draw in draws], (0.025, 0.975))
    known = {"ratio": float(figure(np.arange(rounds))), "low": float(low), "high": float(high)}
    return {"name": name, **known, "goal": goal, "rounds": rounds}


@contextmanager
def serving(model, *flags, log=None):
    """
    Run `sft-judge serve` in a separate process on a free port, and stop it at the end.

    Args:
        model: folder of the judge.
        flags: further flags.
        log: file for standard error, or None.

    Yields:
        The process and the URL, once it serves.
    """
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
    """Hold the results so far, and write all of them after each leg; `end` is the deadline."""

    output: Path
    device: str
    shapes: tuple
    about: dict
    end: float
    options: argparse.Namespace
    results: list[dict] = field(default_factory=list)

    def add(self, leg: str, status: str = "done", **found) -> None:
        """
        Print a result, and write all results.

        Args:
            leg: name of the leg.
            status: "done", or the reason for no numbers.
            found: numbers by name.
        """
        self.results.append({"leg": leg, "status": status, **found})
        shown = ", ".join(f"{name} {_shown(value)}" for name, value in found.items() if value is not None)
        print(f"{leg}: {shown if status == 'done' else status}", flush=True)
        write_json(self.output, {**self.about, "results": self.results})

    def attempt(self, leg: str, function, *given, seconds: float = 5):
        """
        Call a function unless too little time is left; a failure becomes the leg's result.

        Args:
            leg: name of the leg.
            function: function to call.
            given: its arguments.
            seconds: expected time of the call.

        Returns:
            The result of the function, or None after a failure.
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
        """
        Attempt a leg and add the numbers that it returns.

        Args:
            leg: name of the leg.
            function: function to call.
            given: its arguments.
            seconds: expected time of the call.
        """
        found = self.attempt(leg, function, *given, seconds=seconds)
        if found is not None:
            self.add(leg, **found)


def _shown(value) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if value < 1e4 else f"{value:,.0f}"
    return f"{value:,}" if type(value) is int else str(value)


@contextmanager
def _alarm(seconds: float):
    """Raise `TimeoutError` in the block after `seconds`."""

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
    """Free unused memory; a trainer and its parts have reference cycles, so garbage is collected first."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
