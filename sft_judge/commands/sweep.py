"""
Run a grid over recipes, each trial with several seeds, and report which differences the intervals support.

A sweep is a pipeline file with `cells` (trials) or a `grid` of settings (`step.key: value`), `seeds`, a `reference`
and what to `score`. `confirm` lists fresh seeds: the best trial and the best reference are run again with them, and
compared on the half of the prompts that did not select them. Finished steps are kept, so the same command resumes.
Started several times, on machines that share a disk, the command shares the work.
"""

from contextlib import nullcontext

from sft_judge.commands.arguments import positive
from sft_judge.commands.console import print_tables
from sft_judge.core.resources import find_resource
from sft_judge.pipelines.sweep_runner import all_runs, page_of, run_sweep

EXAMPLE = "sft-judge sweep recipes/sweeps/tiny/distillation.yaml --jobs 2"


def add_arguments(parser):
    parser.add_argument("sweep", metavar="SWEEP.yaml", help="sweep file, or a name such as sweeps/tiny/distillation")
    parser.add_argument(
        "--set", action="append", default=[], metavar="step.key=value", help="set an argument; or var=value, seeds=[1]"
    )
    parser.add_argument("--jobs", type=positive, metavar="N", help="parallel steps (one per GPU, else one per core)")
    parser.add_argument(
        "--ray", metavar="auto|ADDRESS", help="run steps on the nodes of a Ray cluster too (extra `ray`)"
    )
    parser.add_argument("--plan", action="store_true", help="print what would be done, and exit")


def run(args):
    from sft_judge.pipelines.parallel import default_num_jobs
    from sft_judge.pipelines.ray_nodes import ray_workers
    from sft_judge.pipelines.sweep import read_sweep

    sweep = read_sweep(find_resource("recipes", args.sweep), args.set)
    if args.plan:
        return print_plan(all_runs(sweep))
    with ray_workers(args.ray, str(sweep.file), args.set, args.jobs) if args.ray else nullcontext():
        _, result, status = run_sweep(sweep, args.jobs or default_num_jobs())
    print_results(sweep, result)
    if status:
        raise SystemExit(status)


def print_results(sweep, result: dict | None) -> None:
    """
    Print the table and the verdict of a sweep.

    Args:
        sweep: the sweep.
        result: its results, or None if no run finished, which prints nothing.
    """
    from sft_judge.pipelines.sweep_report import table_of

    if result:
        print_tables([table_of(result)])
        print(f"{result['verdict']}\npage: {page_of(sweep)}")


def print_plan(runs: list) -> None:
    """Print each step once, and whether it is up to date."""
    from sft_judge.pipelines.pipeline import up_to_date
    from sft_judge.pipelines.sweep import unique_steps

    steps, _ = unique_steps(runs)
    for step in steps:
        state = "up to date" if up_to_date(step) else "to do"
        print(f"{state:<11} {step.name}: sft-judge {step.stage} {' '.join(step.argv)}")
    print(f"{len(runs)} runs, {len(steps)} steps; runs with fresh seeds depend on the results")
