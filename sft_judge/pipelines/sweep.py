"""
Sweep files: a pipeline, the settings that its trials change, and the seeds that each trial is repeated with.

A run is the pipeline with one trial's settings and one seed filled in. Steps that are identical in several runs (the
data, a seed's teachers) are one step. An output that depends on the trial needs `{cell}` in its name.
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
    """
    One trial with one seed.

    Attributes:
        trial: name of the trial.
        seed: the seed.
        steps: steps in order.
        score: its probabilities, and the battles to score them on.
    """

    trial: str
    seed: int
    steps: list[Step]
    score: dict


@dataclass
class Sweep:
    """
    Contents of a sweep file.

    Attributes:
        file: the file.
        pipeline: the pipeline that all runs share.
        trials: settings of each trial by `step.key` or variable, and steps to `drop`.
        references: trials to compare with.
        seeds: seeds that select the best trial.
        confirm: fresh seeds that confirm it, may be empty.
        measure: one of MEASURES.
        score: files to score a run with.
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
        """Return the output folder."""
        return Path(self.pipeline["vars"]["run"])

    def run(self, trial: str, seed: int) -> Run:
        """
        Build the run of a trial with a seed.

        Args:
            trial: name of the trial.
            seed: the seed.

        Raises:
            InputError: the trial sets a setting or drops a step that does not exist.
        """
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
    """
    Read and check a sweep file.

    Args:
        file: the file.
        assignments: changes as in `run --set`.

    Raises:
        InputError: the file is invalid.
    """
    pipeline = read_pipeline(file, also=KEYS)
    for assignment in assignments:
        _assign(pipeline, assignment)
    given = {key: pipeline.pop(key, None) for key in KEYS}
    for key in ("seeds", "score", "reference"):
        if not given[key]:
            raise InputError(f"{file}: a sweep needs {key!r}; recipes/sweeps/tiny/distillation.yaml is an example.")
    trials = {**(given["cells"] or {}), **(_grid(given["grid"]) if given["grid"] else {})}
    trials = {name: settings or {} for name, settings in trials.items()}
    references = _as_list(given["reference"])
    unknown = [name for name in references if name not in trials]
    if unknown:
        raise InputError(f"{file}: the reference {unknown[0]!r} is not a trial; the trials are {', '.join(trials)}.")
    if len({_slug(name) for name in trials}) < len(trials):
        raise InputError(f"{file}: two trials would share a folder; their names must differ in letters or digits.")
    measure = given["measure"] or ("expected_log_loss" if "truth" in given["score"] else "log_loss")
    if measure not in MEASURES:
        raise InputError(f"{file}: measure is {measure!r}, expected one of {', '.join(MEASURES)}.")
    seeds, confirm = _as_list(given["seeds"]), _as_list(given["confirm"] or [])
    both = sorted({*seeds} & {*confirm})
    if both:
        raise InputError(f"{file}: seed {both[0]} is in seeds and in confirm; seeds that confirm must be new.")
    return Sweep(file, pipeline, trials, references, seeds, confirm, measure, given["score"])


def unique_steps(runs: list[Run]) -> tuple[list[Step], list[set[int]]]:
    """
    Return the distinct steps of all runs, and for each step the indices of the steps that must run before it.

    Raises:
        InputError: two different steps would write the same output.
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
                        f"write {first_output(step)} with different settings. Put {{cell}} or {{seed}} into the path."
                    )
            if last is not None:
                before[places[key]].add(last)
            last = places[key]
    return steps, before


def _grid(grid: dict) -> dict[str, dict]:
    """
    Return every combination, named by the values of the keys with several values, without the keys' common prefix.
    """
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
    """Apply one `--set`: `seeds=[1,2]` and other KEYS change the sweep, all others change the pipeline."""
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
