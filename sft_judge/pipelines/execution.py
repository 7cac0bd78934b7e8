"""
Execution of a pipeline's steps in order; consecutive trainings that do not depend on each other can run at once.

Only `base` and `train` run at once (SEPARATE). Other stages may change files that later steps read, as `calibrate`
does.
"""

import fcntl
import logging
from pathlib import Path

from sft_judge.core import registry
from sft_judge.core.errors import InputError
from sft_judge.pipelines.parallel import log_file, run_in_parallel
from sft_judge.pipelines.pipeline import Step, exit_status, outputs_of, start_step, up_to_date
from sft_judge.training.recipes import read_recipe

logger = logging.getLogger(__name__)

SEPARATE = ("base", "train")
LAST_LINES = 20  # of the log of a failed step, printed


def run_steps(steps: list[Step], forced: set[str], folder: Path, jobs: int = 1) -> int:
    """
    Run the steps that are not up to date, each in its own process.

    Args:
        steps: the steps in order.
        forced: names of steps to run even if they are up to date.
        folder: folder of the pipeline, locked while it runs.
        jobs: number of trainings that run at once, if they follow each other and none needs the output of another.

    Returns:
        The exit status of the first step that fails, or 0.

    Raises:
        InputError: another run holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock.partial", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{folder}: another `sft-judge run` is using it. Wait for it, or stop it.") from error
        for group in [[place] for place in range(len(steps))] if jobs == 1 else group_steps(steps):
            status = _run_group(steps, group, forced, jobs, folder / "logs")
            if status:
                return status
    return 0


def group_steps(steps: list[Step]) -> list[list[int]]:
    """
    Divide the steps into groups that may run at once.

    Returns:
        Indices of consecutive steps. A group of several steps has stages of SEPARATE alone, and none of its steps
        reads what another one of it makes.
    """
    groups: list[list[int]] = []
    for place, step in enumerate(steps):
        together = groups and all(_may_run_beside(step, steps[other]) for other in groups[-1])
        if together:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


def _may_run_beside(step: Step, earlier: Step) -> bool:
    """Return True if both are of SEPARATE, on one process each, and `step` names nothing that `earlier` makes."""
    if any(one.stage not in SEPARATE or one.launch for one in (step, earlier)):
        return False
    named = [Path(word).absolute() for word in _words_of(step)]
    made = [path.absolute() for path in outputs_of(earlier)]
    return not any(one == other or one in other.parents or other in one.parents for one in named for other in made)


def _words_of(step: Step) -> list[str]:
    """Return every word that may be a path: the arguments, and for a training the values of its recipe."""
    args = registry.parse(step.stage, step.argv)
    settings = read_recipe(args.config, args.overrides).settings if step.stage == "train" else {}
    values = [part for value in settings.values() for part in (value if isinstance(value, list) else [value])]
    return [word for word in map(str, [*step.argv, *values]) if word and not word.startswith("--")]


def _run_group(steps: list[Step], group: list[int], forced: set[str], jobs: int, logs: Path) -> int:
    """Run the steps of a group that are to be run, and return the first exit status that is not 0."""
    to_do = []
    for place in group:
        if steps[place].name not in forced and up_to_date(steps[place]):
            logger.info(f"[{place + 1}/{len(steps)}] {steps[place].name}: up to date")
        else:
            to_do.append(place)
    if len(to_do) > 1:
        return _run_at_once(steps, to_do, jobs, logs)
    for place in to_do:
        logger.info(f"[{place + 1}/{len(steps)}] {steps[place].name}: sft-judge {' '.join(steps[place].words)}")
        status = _run(steps[place])
        if status:
            return status
    return 0


def _run_at_once(steps: list[Step], places: list[int], jobs: int, logs: Path) -> int:
    chosen = [steps[place] for place in places]
    for place in places:
        logger.info(f"[{place + 1}/{len(steps)}] {steps[place].name}: sft-judge {' '.join(steps[place].words)}")
    logger.info(f"{len(chosen)} steps, {min(jobs, len(chosen))} at once; their output is in {logs}")
    statuses = run_in_parallel(chosen, [set() for _ in chosen], jobs, logs, skip=False)
    for place, step in enumerate(chosen):
        if statuses[place]:
            lines = log_file(logs, step).read_text(encoding="utf-8", errors="replace").splitlines()
            logger.error("\n".join(lines[-LAST_LINES:]))
            return statuses[place]
    return 0


def _run(step: Step) -> int:
    process = start_step(step)
    try:
        process.join()
    except BaseException:  # stop the step too, and propagate
        process.terminate()
        process.join()
        raise
    return exit_status(process)
