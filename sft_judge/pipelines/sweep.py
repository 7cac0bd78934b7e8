"""
A sweep file to runs: a pipeline, the settings that its cells change, and the seeds that each is repeated with.

A run is the pipeline with one cell's settings and one seed filled in. Steps that come out the same in several runs
(the data, a seed's teachers) are one step; what a cell changes stands under a name with `{cell}` in it.
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
    """One cell with one seed: its steps in order, and where its probabilities and the battles to score them on are."""

    cell: str
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
    cells: dict[str, dict]
    references: list[str]
    seeds: list[int]
    confirm: list[int]
    measure: str
    score: dict

    @property
    def folder(self) -> Path:
        """Where everything is written."""
        return Path(self.pipeline["vars"]["run"])

    def run(self, cell: str, seed: int) -> Run:
        """The run of a cell with a seed. Raises `InputError` for a setting that the steps do not have."""
        pipeline = copy.deepcopy(self.pipeline)
        for name in _listed(self.cells[cell].get("drop", [])):
            if pipeline["steps"].pop(name, None) is None:
                raise InputError(f"{self.file}, cell {cell}: no step {name!r} to drop.")
        for key, value in self.cells[cell].items():
            if key == "drop":
                continue
            assign(pipeline, f"{self.file}, cell {cell}", key, value)
        pipeline["vars"] |= {"cell": _slug(cell), "seed": seed}
        variables = pipeline["vars"]
        filled = {
            key: value.format_map(variables) if isinstance(value, str) else value for key, value in self.score.items()
        }
        return Run(cell, seed, steps_of(pipeline, self.file), filled)


def read_sweep(file: Path, assignments: list[str] = ()) -> Sweep:
    """Read and check a sweep file; `assignments` as `run --set` has them. Raises `InputError`."""
    pipeline = read_pipeline(file, also=KEYS)
    for assignment in assignments:
        _assign(pipeline, assignment)
    given = {key: pipeline.pop(key, None) for key in KEYS}
    for key in ("seeds", "score", "reference"):
        if not given[key]:
            raise InputError(f"{file}: a sweep needs {key!r}; `sft-judge sweep --help` shows one.")
    cells = {**(given["cells"] or {}), **(_grid(given["grid"]) if given["grid"] else {})}
    cells = {name: settings or {} for name, settings in cells.items()}
    references = _listed(given["reference"])
    unknown = [name for name in references if name not in cells]
    if unknown:
        raise InputError(f"{file}: the reference {unknown[0]!r} is no cell; they are {', '.join(cells)}.")
    if len({_slug(name) for name in cells}) < len(cells):
        raise InputError(f"{file}: two cells would share a folder; give them names that differ in letters and digits.")
    measure = given["measure"] or ("expected_log_loss" if "truth" in given["score"] else "log_loss")
    if measure not in MEASURES:
        raise InputError(f"{file}: measure is {measure!r}, expected one of {', '.join(MEASURES)}.")
    seeds, confirm = _listed(given["seeds"]), _listed(given["confirm"] or [])
    both = sorted({*seeds} & {*confirm})
    if both:
        raise InputError(f"{file}: seed {both[0]} is in seeds and in confirm; fresh ones are those not chosen by.")
    return Sweep(file, pipeline, cells, references, seeds, confirm, measure, given["score"])


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
                        f"Cells {other.cell!r} (seed {other.seed}) and {run.cell!r} (seed {run.seed}) would both "
                        f"write {first_output(step)}, with other settings: let the path hold {{cell}} or {{seed}}."
                    )
            if last is not None:
                before[places[key]].add(last)
            last = places[key]
    return steps, before


def _grid(grid: dict) -> dict[str, dict]:
    """Every combination, named by the values of the keys that have several, without what begins all their names."""
    cells = {}
    varied = [key for key, values in grid.items() if len(_listed(values)) > 1]
    names = {key: key.rpartition(".")[-1] for key in varied}
    if len(varied) > 1:
        shared = os.path.commonprefix(list(names.values())).rpartition("_")
        names = {key: name.removeprefix(shared[0] + shared[1]) for key, name in names.items()}
    for values in itertools.product(*(_listed(values) for values in grid.values())):
        settings = dict(zip(grid, values, strict=True))
        name = ", ".join(f"{names[key]} {settings[key]}" for key in varied)
        cells[name or "all"] = settings
    return cells


def _assign(sweep: dict, assignment: str) -> None:
    """`--set seeds=[1,2]` changes the sweep itself, any other one the pipeline."""
    import yaml

    from sft_judge.pipelines.pipeline import override

    key, _, value = assignment.partition("=")
    if key in KEYS:
        sweep[key] = yaml.safe_load(value)
    else:
        override(sweep, [assignment])


def _listed(value) -> list:
    return value if isinstance(value, list) else [value]


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
