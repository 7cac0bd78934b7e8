"""
Steps with dependencies, as many at once as there is room for, by any number of processes on a shared disk.

Nothing is shared but files. A step is done when its manifest says so, and whoever works on it holds a lock beside its
output, which a kill lets go: to spread the work, the same command is started again, on as many machines as there are.
"""

import fcntl
import logging
import os
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import Process, connection
from pathlib import Path
from typing import IO

from sft_judge.core.files import partial_path
from sft_judge.pipelines.pipeline import Step, exit_status, first_output, start_step, up_to_date

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 2  # at what other processes hold


@dataclass
class _Job:
    place: int
    process: Process
    lock: IO
    slot: int


def run_in_parallel(steps: list[Step], before: list[set[int]], jobs: int, logs: Path) -> dict[int, int]:
    """
    Run what is not up to date, `jobs` at once, each after those `before` it; returns statuses by place, 0 is done.

    What depends on a failed step is left out and has none; all else is done. A step prints into a file of `logs`.
    """
    logs.mkdir(parents=True, exist_ok=True)
    waiting, statuses = dict.fromkeys(range(len(steps))), {}
    with _ending_all([]) as running:
        while waiting:
            held = moved = False
            done = {place for place, status in statuses.items() if status == 0}
            for place in [place for place in waiting if before[place] <= done]:
                if len(running) == jobs:
                    break
                lock = _lock(first_output(steps[place]))
                if lock is None:
                    held = True
                    continue
                del waiting[place]
                moved = True
                if up_to_date(steps[place]):
                    statuses[place] = 0
                    lock.close()
                else:
                    running.append(_start(steps, place, lock, jobs, {job.slot for job in running}, logs))
            if not (moved or running or held):
                break  # what is left waits for what failed
            if not moved:
                _finish(running, statuses, SECONDS_BETWEEN_LOOKS if held else None)
        while running:
            _finish(running, statuses, None)
    return statuses


def default_num_jobs() -> int:
    """How many steps this machine runs at once by default: one a GPU, else one a core."""
    import torch

    return torch.cuda.device_count() or len(os.sched_getaffinity(0))


def log_file(logs: Path, step: Step) -> Path:
    """Where a step's own words are."""
    return logs / (str(first_output(step)).strip("/").replace("/", "-") + ".log")


def _start(steps: list[Step], place: int, lock: IO, jobs: int, taken: set[int], logs: Path) -> _Job:
    import torch

    slot = min(set(range(jobs)) - taken)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    gpu = gpus[slot % len(gpus)] if gpus and jobs > 1 else None
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    logger.info(f"[{place + 1}/{len(steps)}] {steps[place].name}: {first_output(steps[place])}")
    return _Job(place, start_step(steps[place], log_file(logs, steps[place]), threads, gpu), lock, slot)


def _finish(running: list[_Job], statuses: dict[int, int], seconds) -> None:
    """Wait until a step ends, or for `seconds`, and take note of those that have."""
    ended = connection.wait([job.process.sentinel for job in running], seconds)
    for job in [job for job in running if job.process.sentinel in ended]:
        job.process.join()
        statuses[job.place] = exit_status(job.process)
        running.remove(job)
        job.lock.close()


@contextmanager
def _ending_all(running: list[_Job]):
    """Whatever stops us stops the steps, so that their locks and half-made outputs go."""
    try:
        yield running
    finally:
        for job in running:
            job.process.terminate()
        for job in running:
            job.process.join()
            job.lock.close()


def _lock(output: Path) -> IO | None:
    """The lock of a step, or None where another process holds it."""
    file = partial_path(output).with_suffix(".lock.partial")
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = open(file, "w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        return None
    return handle
