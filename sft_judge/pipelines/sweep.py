"""
A sweep file to runs: a pipeline, the settings that its trials change, and the seeds that each is repeated with.

A run is the pipeline with one trial's settings and one seed filled in. Steps that come out the same in several runs
(the data, a seed's teachers) are one step; what a trial changes stands under a name with `{cell}` in it.
"""

import copy
import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path

from sft_judge.core.errors import InputError
from sft_judge.pipelines.pipeline import Step, assign, first_output, read_pipeline, steps_of

KEYS = ("seeds", "confirm", "cells", "grid", "reference", "measure", "score")
MEASURES = ("expected_log_loss", "log_loss", "accuracy")


@dataclass
class Run:
    """One trial with one seed: its steps in order, its probabilities, and the battles to score them on."""

    trial: str
    seed: int
    steps: list[Step]
    score: dict


@dataclass
class Sweep:
    """
    What a sweep file says. `cells` are settings by `step.key` or variable, and steps to `drop`; `confirm` are fresh
    seeds, or none.
    """

    file: Path
    pipeline: dict
    trials: dict[str, dict]
    references: list[str]
    seeds: list[int]
    confirm: list[int]
    measure: str
    score: dict

    @property
    def folder(self) -> Path:
        """Where everything is written."""
        return Path(self.pipeline["vars"]["run"])

    def run(self, trial: str, seed: int) -> Run:
        """The run of a trial with a seed. Raises `InputError` for a setting that the steps do not have."""
        pipeline = copy.deepcopy(self.pipeline)
        for name in _as_list(self.trials[trial].get("drop", [])):
            if pipeline["steps"].pop(name, None) is None:
                raise InputError(f"{self.file}, trial {trial}: no step {name!r} to drop.")
        for key, value in self.trials[trial].items():
            if key == "drop":
                continue
            assign(pipeline, f"{self.file}, trial {trial}", key, value)
        pipeline["vars"] |= {"cell": _slug(trial), "seed": seed}
        variables = pipeline["vars"]
        filled = {
            key: value.format_map(variables) if isinstance(value, str) else value for key, value in self.score.items()
        }
        return Run(trial, seed, steps_of(pipeline, self.file), filled)


def read_sweep(file: Path, assignments: list[str] = ()) -> Sweep:
    """Read and check a sweep file; `assignments` as `run --set` has them. Raises `InputError`."""
    pipeline = read_pipeline(file, also=KEYS)
    for assignment in assignments:
        _assign(pipeline, assignment)
    given = {key: pipeline.pop(key, None) for key in KEYS}
    for key in ("seeds", "score", "reference"):
        if not given[key]:
            raise InputError(f"{file}: a sweep needs {key!r}; `sft-judge sweep --help` shows one.")
    trials = {**(given["cells"] or {}), **(_grid(given["grid"]) if given["grid"] else {})}
    trials = {name: settings or {} for name, settings in trials.items()}
    references = _as_list(given["reference"])
    unknown = [name for name in references if name not in trials]
    if unknown:
        raise InputError(f"{file}: the reference {unknown[0]!r} is no trial; they are {', '.join(trials)}.")
    if len({_slug(name) for name in trials}) < len(trials):
        raise InputError(f"{file}: two trials would share a folder; let their names differ in letters and digits.")
    measure = given["measure"] or ("expected_log_loss" if "truth" in given["score"] else "log_loss")
    if measure not in MEASURES:
        raise InputError(f"{file}: measure is {measure!r}, expected one of {', '.join(MEASURES)}.")
    seeds, confirm = _as_list(given["seeds"]), _as_list(given["confirm"] or [])
    both = sorted({*seeds} & {*confirm})
    if both:
        raise InputError(f"{file}: seed {both[0]} is in seeds and in confirm; fresh ones are those not chosen by.")
    return Sweep(file, pipeline, trials, references, seeds, confirm, measure, given["score"])


def unique_steps(runs: list[Run]) -> tuple[list[Step], list[set[int]]]:
    """
    The steps of all runs, each once, and for each the places of those that must be done before it.

    Raises `InputError` where two that differ would write the same output.
    """
    places, steps, before, writers = {}, [], [], {}
    for run in runs:
        last = None
        for step in run.steps:
            key = (step.stage, *step.argv)
            if key not in places:
                places[key] = len(steps)
                steps.append(step)
                before.append(set())
                other = writers.setdefault(first_output(step), run)
                if other is not run:
                    raise InputError(
                        f"Trials {other.trial!r} (seed {other.seed}) and {run.trial!r} (seed {run.seed}) would both "
                        f"write {first_output(step)}, with other settings: let the path hold {{cell}} or {{seed}}."
                    )
            if last is not None:
                before[places[key]].add(last)
            last = places[key]
    return steps, before


def _grid(grid: dict) -> dict[str, dict]:
    """Every combination, named by the values of the keys that have several, without what begins all their names."""
    trials = {}
    varied = [key for key, values in grid.items() if len(_as_list(values)) > 1]
    names = {key: key.rpartition(".")[-1] for key in varied}
    if len(varied) > 1:
        shared = os.path.commonprefix(list(names.values())).rpartition("_")
        names = {key: name.removeprefix(shared[0] + shared[1]) for key, name in names.items()}
    for values in itertools.product(*(_as_list(values) for values in grid.values())):
        settings = dict(zip(grid, values, strict=True))
        name = ", ".join(f"{names[key]} {settings[key]}" for key in varied)
        trials[name or "all"] = settings
    return trials


def _assign(sweep: dict, assignment: str) -> None:
    """`--set seeds=[1,2]` changes the sweep itself, any other one the pipeline."""
    import yaml

    from sft_judge.pipelines.pipeline import override

    key, _, value = assignment.partition("=")
    if key in KEYS:
        sweep[key] = yaml.safe_load(value)
    else:
        override(sweep, [assignment])


def _as_list(value) -> list:
    return value if isinstance(value, list) else [value]


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
