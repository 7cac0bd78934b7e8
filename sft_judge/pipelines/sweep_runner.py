"""Runner of a sweep: runs its steps and writes its results."""

import logging
from pathlib import Path

logger = logging.getLogger(__name__)


def all_runs(sweep) -> list:
    """Return the runs of every trial with every selection seed."""
    return [sweep.run(trial, seed) for seed in sweep.seeds for trial in sweep.trials]


def run_sweep(sweep, jobs: int):
    """
    Run all steps that are not up to date, and write the results as JSON and as an HTML page.

    Args:
        sweep: a `Sweep`.
        jobs: number of steps at once.

    Returns:
        The scores; the results as a dictionary (None if no run finished); and the worst exit status of a step.
    """
    from sft_judge.core.files import write_json, write_text
    from sft_judge.pipelines.sweep_report import Scores, choose_trials, render_sweep, summary

    scores = Scores(sweep.measure)
    status = run_all(all_runs(sweep), scores, sweep.folder, jobs)
    chosen = choose_trials(sweep, scores)
    fresh = [sweep.run(trial, seed) for seed in sweep.confirm for trial in chosen if trial]
    status = max(status, run_all(fresh, scores, sweep.folder, jobs))
    result = None
    if scores.values:
        result = summary(sweep, scores, chosen)
        page = page_of(sweep)
        write_json(page.with_suffix(".json"), result)
        write_text(page, render_sweep(f"Sweep: {sweep.file.stem}", result))
    return scores, result, status


def page_of(sweep) -> Path:
    """Return the path of the HTML page with a sweep's results; the JSON file has the same name."""
    return sweep.folder / f"{sweep.file.stem}.html"


def run_all(runs: list, scores, folder, jobs: int) -> int:
    """
    Run all steps of some runs, score the finished runs, and log the last line of each failed step.

    Args:
        runs: the runs.
        scores: a `Scores`, extended by the finished runs.
        folder: folder of the sweep.
        jobs: number of steps at once.

    Returns:
        The worst exit status of a step.
    """
    from sft_judge.pipelines.parallel import log_file, run_in_parallel
    from sft_judge.pipelines.sweep import unique_steps

    steps, before = unique_steps(runs)
    statuses = run_in_parallel(steps, before, jobs, folder / "logs")
    done = {(steps[place].stage, *steps[place].argv) for place, status in statuses.items() if status == 0}
    for run in runs:
        if all((step.stage, *step.argv) in done for step in run.steps):
            scores.add(run)
    for place, status in statuses.items():
        if status:
            log = log_file(folder / "logs", steps[place])
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            why = lines[-1] if lines else f"exit status {status} without output"
            logger.warning(f"{steps[place].name} failed: {why} ({log})")
    return max(statuses.values(), default=0)
