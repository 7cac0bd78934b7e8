"""
Estimate of a pipeline's cost before it starts: `train --plan` of each pending training, and the sum.

Folds and seeds of a step cost about the same, so the first is estimated and multiplied by the number of runs.
"""

from collections import Counter
from pathlib import Path

from sft_judge.core import registry
from sft_judge.core.errors import InputError
from sft_judge.pipelines.pipeline import Step, outputs_of
from sft_judge.pipelines.planning.training_cost import GPUS, UTILISATION, cost_of_run, describe_time, hours, read_load
from sft_judge.training.recipes import read_recipe


def plan_pipeline(to_do: list[Step], steps: list[Step], num_gpus: int) -> str:
    """
    Describe the cost of a pipeline's trainings, one line each, and their sum.

    Args:
        to_do: the steps that will run.
        steps: all steps; a training may start from a model that one of them makes.
        num_gpus: number of GPUs of a training without launch settings.
    """
    lines, total = [], dict.fromkeys(GPUS, 0.0)
    for name, runs in Counter(step.name for step in to_do if step.stage == "train").items():
        first = next(step for step in to_do if step.name == name)
        try:
            summary, times = _plan_training(first, steps, runs, _num_gpus(first, num_gpus))
        except InputError as reason:
            summary, times = f"not planned: {reason}", {}
        left_out = "" if times else " (not in the sum)"
        lines.append(f"{name}, {runs} run{'s' if runs > 1 else ''}{left_out}: {summary}")
        total = {gpu: total[gpu] + times[gpu] for gpu in total if gpu in times} if times else total
    if any(total.values()) or not total:
        lines += [f"sum, run one after the other: {_list_hours(total)}"]
    used = sorted({_num_gpus(step, num_gpus) for step in to_do if step.stage == "train"})
    gpus = f"on {' or '.join(map(str, used))} GPU{'s' if used[-1] > 1 else ''} each"
    lines += [f"{gpus}; hours are estimates at {UTILISATION:.0%} of the published rate; only trainings are included"]
    return "\n".join(lines)


def _num_gpus(step: Step, num_gpus: int) -> int:
    """Return the number of GPUs of a training, from its launch settings or `num_gpus`."""
    if not step.launch:
        return num_gpus
    return registry.parse("launch", step.words[1:]).num_processes or num_gpus


def _plan_training(step: Step, steps: list[Step], runs: int, num_gpus: int) -> tuple[str, dict[str, float]]:
    """
    Describe the runs of a training, and return the hours on each GPU that holds one; empty if the hours are unknown.
    """
    args = registry.parse(step.stage, step.argv)
    recipe = read_recipe(args.config, args.overrides)
    recipe.require("battles")
    config, adapters = recipe.configs()
    adapters.model_name_or_path = origin_of(recipe.require("model_name_or_path"), steps)
    load = read_load(config, adapters) if config.battles_file else None
    plan = cost_of_run(config, adapters, load, num_gpus)
    peak = min(part.peak for part in plan.parts.values()) / 1e9
    summary = f"{peak:.1f} GB on each GPU, fits {', '.join(plan.gpus) or 'none of ' + ', '.join(GPUS)}"
    if load is None:
        return f"{summary}; the hours are known once {config.battles} exists", {}
    times = {gpu: runs * hours(plan.flops, gpu) for gpu in plan.gpus}
    return f"{summary}; {load.lengths.sum():,} tokens per epoch; {_list_hours(times)}", times


def origin_of(model: str, steps: list[Step]) -> str:
    """
    Return the existing or Hub model that a model of the pipeline is trained or merged from.

    Args:
        model: the model.
        steps: all steps of the pipeline.

    Raises:
        InputError: the model is made by a step that is neither a training nor a merge and has not run.
    """
    made = {str(path): step for step in steps for path in outputs_of(step)}
    while str(model) in made:
        step = made[str(model)]
        args = registry.parse(step.stage, step.argv)
        if step.stage == "train":
            model = read_recipe(args.config, args.overrides).require("model_name_or_path")
        elif step.stage == "merge":
            model = args.models[0]
        elif Path(model).is_dir():
            break
        else:
            raise InputError(f"{model} does not exist before {step.name} has run")
    return str(model)


def _list_hours(times: dict[str, float]) -> str:
    return (
        ", ".join(f"{gpu} {describe_time(each)}" for gpu, each in times.items())
        or "no single GPU type holds all of them"
    )
