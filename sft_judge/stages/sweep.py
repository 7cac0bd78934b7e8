"""
Run a grid over recipes, each cell with several seeds, and say what the intervals support.

A sweep is a pipeline file with `cells` or a `grid` of settings (`step.key: value`), `seeds`, a `reference` and what to
`score`; `confirm` names fresh seeds with which the best cell and the best reference are run again. Finished steps are
kept: the same command goes on, and started several times, on machines that share a disk, it shares the work.
"""

import sys
from contextlib import nullcontext

from sft_judge.stages import positive

EXAMPLE = "sft-judge sweep recipes/sweeps/tiny/distillation.yaml --jobs 2"


def add_arguments(parser):
    parser.add_argument("sweep", metavar="SWEEP.yaml", help="a file, or a name such as sweeps/tiny/distillation")
    parser.add_argument(
        "--set", action="append", default=[], metavar="step.key=value", help="or var=value, seeds=[1,2]"
    )
    parser.add_argument("--jobs", type=positive, metavar="N", help="steps at once (one a GPU, else one a core)")
    parser.add_argument("--ray", metavar="auto|ADDRESS", help="let a Ray cluster's nodes work on it too (extra `ray`)")
    parser.add_argument("--plan", action="store_true", help="print what would be done, and do nothing")


def run(args):
    from sft_judge.ray_workers import ray_workers
    from sft_judge.resources import find
    from sft_judge.side_by_side import room
    from sft_judge.sweep import read_sweep

    sweep = read_sweep(find("recipes", args.sweep), args.set)
    if args.plan:
        return print_plan(all_runs(sweep))
    with ray_workers(args.ray, str(sweep.file), args.set, args.jobs) if args.ray else nullcontext():
        _, status = run_sweep(sweep, args.jobs or room())
    if status:
        raise SystemExit(status)


def all_runs(sweep) -> list:
    """Every cell with every choosing seed."""
    return [sweep.run(cell, seed) for seed in sweep.seeds for cell in sweep.cells]


def run_sweep(sweep, jobs: int):
    """Run what is not done, write and print the table; returns the scores and the worst status of a step."""
    from sft_judge.evaluate.tables import print_table
    from sft_judge.files import whole_file, write_json
    from sft_judge.sweep_results import Scores, best_of, render_sweep, summary, table_of

    scores = Scores(sweep.measure)
    status = run_all(all_runs(sweep), scores, sweep.folder, jobs)
    others = [cell for cell in sweep.cells if cell not in sweep.references]
    chosen = best_of(scores, others, sweep.seeds), best_of(scores, sweep.references, sweep.seeds)
    fresh = [sweep.run(cell, seed) for seed in sweep.confirm for cell in chosen if cell]
    status = max(status, run_all(fresh, scores, sweep.folder, jobs))
    if scores.values:
        result = summary(sweep, scores, chosen)
        page = sweep.folder / f"{sweep.file.stem}.html"
        write_json(page.with_suffix(".json"), result)
        with whole_file(page) as aside:
            aside.write_text(render_sweep(f"Sweep: {sweep.file.stem}", result), encoding="utf-8")
        print_table(table_of(result))
        print(f"{result['verdict']}\npage: {page}")
    return scores, status


def run_all(runs: list, scores, folder, jobs: int) -> int:
    """Run them and score those that finish; the worst status of a step. What failed is said, with its own words."""
    from sft_judge.side_by_side import log_file, run_side_by_side
    from sft_judge.sweep import unique_steps

    steps, before = unique_steps(runs)
    statuses = run_side_by_side(steps, before, jobs, folder / "logs")
    done = {(steps[place].stage, *steps[place].argv) for place, status in statuses.items() if status == 0}
    for run in runs:
        if all((step.stage, *step.argv) in done for step in run.steps):
            scores.add(run)
    for place, status in statuses.items():
        if status:
            log = log_file(folder / "logs", steps[place])
            said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            why = said[-1] if said else f"ended with status {status} and said nothing"
            print(f"sft-judge: {steps[place].name} failed: {why} ({log})", file=sys.stderr)
    return max(statuses.values(), default=0)


def print_plan(runs: list) -> None:
    """Each step once, with whether it is up to date."""
    from sft_judge.pipeline import up_to_date
    from sft_judge.sweep import unique_steps

    steps, _ = unique_steps(runs)
    for step in steps:
        state = "up to date" if up_to_date(step) else "to do"
        print(f"{state:<11} {step.name}: sft-judge {step.stage} {' '.join(step.argv)}")
    print(f"{len(runs)} runs, {len(steps)} steps; those with fresh seeds follow from the results")
