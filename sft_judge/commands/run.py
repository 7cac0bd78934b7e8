"""
Run the steps of a pipeline in order; each is a command that can also be run by itself.

A step is up to date, and skipped, if its input hashes, settings and source code are unchanged. A changed step runs
again, and so does each later step whose inputs it changed. A killed run resumes where it stopped. Manifests beside
the outputs record all of this.
"""

from sft_judge.commands.arguments import positive
from sft_judge.commands.console import print_tables
from sft_judge.core.errors import InputError, nearest
from sft_judge.core.manifest import read_stages
from sft_judge.core.resources import find_resource

EXAMPLE = "sft-judge run recipes/demo/pipeline.yaml --set synth.rows=2000 --until labels"


def add_arguments(parser):
    parser.add_argument("pipeline", metavar="PIPELINE.yaml", help="pipeline file, or a name such as demo/pipeline")
    parser.add_argument(
        "--set", action="append", default=[], metavar="step.key=value", help="set an argument; or var=value"
    )
    parser.add_argument("--until", metavar="STEP", help="stop after this step")
    parser.add_argument(
        "--force", action="append", default=[], metavar="STEP", help="run this step even if it is up to date"
    )
    parser.add_argument(
        "--shrink",
        action="store_true",
        help="dry run of the pipeline with tiny random models of the same classes and few rows, in RUN-shrunk",
    )
    parser.add_argument(
        "--plan", action="store_true", help="print what would be done and what it would cost, and exit"
    )
    parser.add_argument(
        "--jobs",
        type=positive,
        default=1,
        metavar="N",
        help="trainings at once, such as those of several folds: each gets its share of the cores, or a GPU of its "
        "own; memory is needed N times (1)",
    )
    parser.add_argument("--gpus", type=positive, default=1, metavar="N", help="number of GPUs to plan for (1)")


def run(args):
    from pathlib import Path

    from sft_judge.pipelines.execution import run_steps
    from sft_judge.pipelines.pipeline import override, read_pipeline, steps_of

    file = find_resource("recipes", args.pipeline)
    pipeline = read_pipeline(file)
    override(pipeline, args.set)
    if not pipeline.get("vars", {}).get("run"):
        raise InputError(f"{file}: no variable 'run', the folder of the run; add vars: {{run: DIR}}.")
    if args.shrink:
        pipeline["vars"]["run"] += "-shrunk"
    steps = steps_of(pipeline, file)
    if args.shrink:
        steps = shrunk(steps, Path(pipeline["vars"]["run"]))
    names = [step.name for step in steps]
    for name in [*args.force, *([args.until] if args.until else [])]:
        if name not in names:
            raise InputError(
                f"{file} has no step {name!r}.{nearest(name, names)} Known: {', '.join(dict.fromkeys(names))}."
            )
    if args.until:
        steps = steps[: len(names) - names[::-1].index(args.until)]
    if args.plan:
        return print_plan(steps, set(args.force), args.gpus)
    folder = Path(pipeline["vars"]["run"])
    status = run_steps(steps, set(args.force), folder, args.jobs)
    if status:
        raise SystemExit(status)
    print_results(folder, steps)


def print_plan(steps, forced, num_gpus):
    """
    Print which steps are to be run, and the expected cost of their trainings.

    Args:
        steps: steps of the pipeline.
        forced: names of the steps to run in any case.
        num_gpus: GPUs to plan for.
    """
    from sft_judge.pipelines.pipeline import up_to_date

    to_do = []
    for step in steps:
        wanted = step.name in forced or not up_to_date(step)
        to_do += [step] if wanted else []
        print(f"{'to do' if wanted else 'up to date':<11} {step.name}: sft-judge {' '.join(step.words)}")
    if any(step.stage == "train" for step in to_do):
        from sft_judge.pipelines.planning.pipeline_cost import plan_pipeline

        print("\n" + plan_pipeline(to_do, steps, num_gpus))


def shrunk(steps, folder):
    """
    Return the steps of a dry run.

    Args:
        steps: steps of the pipeline.
        folder: folder of the run, in which the small models are made.
    """
    import torch

    from sft_judge.pipelines.shrink import shrunk_steps

    return shrunk_steps(steps, folder / "small", torch.cuda.is_available())


def print_results(folder, steps):
    """
    Print the cost of the stages and, if there is a metrics.json, the skill score of each judge.

    Args:
        folder: folder of the run.
        steps: steps of the pipeline.
    """
    import json

    from sft_judge.evaluation.reporting.tables import skill_table, stages_table
    from sft_judge.pipelines.pipeline import first_output

    made = {first_output(step) for step in steps}  # the folder may also contain outputs of another pipeline
    stages = [row for row in read_stages(folder, folder / "none") if folder / row["output"] in made]
    if stages:
        print_tables([stages_table(stages)])
    if (folder / "metrics.json").is_file():
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        if metrics.get("worth"):
            print_tables([skill_table(metrics)])
    print(f"Everything is in {folder}.")
