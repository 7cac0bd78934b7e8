"""
Parallel execution of steps with dependencies, by any number of processes on a shared disk.

Processes share only files. A step is done if its manifest says so. A process that works on a step holds a lock next to
the step's output, which is released if the process is killed. To distribute the work, start the same command again, on
any number of machines.
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

SECONDS_BETWEEN_LOOKS = 2  # between checks of steps that other processes hold


@dataclass
class _Job:
    place: int
    process: Process
    lock: IO
    slot: int


def run_in_parallel(
    steps: list[Step], before: list[set[int]], jobs: int, logs: Path, skip: bool = True
) -> dict[int, int]:
    """
    Run the steps that are not up to date, each after the steps it depends on.

    Steps that depend on a failed step are left out and have no status; all other steps run.

    Args:
        steps: the steps.
        before: indices of the steps that must run before each step.
        jobs: number of steps at once.
        logs: folder of the steps' output, one file each.
        skip: leave out steps that are up to date.

    Returns:
        The exit status of each step that ran or was up to date, by index; 0 is done.
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
                if skip and up_to_date(steps[place]):
                    statuses[place] = 0
                    lock.close()
                else:
                    running.append(_start(steps, place, lock, jobs, {job.slot for job in running}, logs))
            if not (moved or running or held):
                break  # the remaining steps depend on failed steps
            if not moved:
                _finish(running, statuses, SECONDS_BETWEEN_LOOKS if held else None)
        while running:
            _finish(running, statuses, None)
    return statuses


def default_num_jobs() -> int:
    """Return the default number of steps at once on this machine: one per GPU, or one per core without GPUs."""
    import torch

    return torch.cuda.device_count() or len(os.sched_getaffinity(0))


def log_file(logs: Path, step: Step) -> Path:
    """
    Return the log file of a step.

    Args:
        logs: folder of the logs.
        step: the step.
    """
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
    """Wait until a step ends, or for `seconds`, and record the status of the steps that have ended."""
    ended = connection.wait([job.process.sentinel for job in running], seconds)
    for job in [job for job in running if job.process.sentinel in ended]:
        job.process.join()
        statuses[job.place] = exit_status(job.process)
        running.remove(job)
        job.lock.close()


@contextmanager
def _ending_all(running: list[_Job]):
    """Terminate the running steps if the block is left for any reason, to remove their locks and partial outputs."""
    try:
        yield running
    finally:
        for job in running:
            job.process.terminate()
        for job in running:
            job.process.join()
            job.lock.close()


def _lock(output: Path) -> IO | None:
    """Acquire the lock of a step, or return None if another process holds it."""
    file = partial_path(output).with_suffix(".lock.partial")
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = open(file, "w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        return None
    return handle
