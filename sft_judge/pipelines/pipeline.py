"""
Pipeline files and their steps: what a step runs, what it makes, and whether it is up to date.

A pipeline defines variables and steps; a step is a `sft-judge` command with its arguments. The only state is the
manifests next to the outputs. A step is up to date if its manifest has the fingerprint of the current inputs, settings
and stage source, and its outputs are unchanged since.
"""

import itertools
import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from sft_judge import cli
from sft_judge.core import registry
from sft_judge.core.errors import InputError, nearest
from sft_judge.core.files import content_hash, load_yaml
from sft_judge.core.manifest import collect_provenance, manifest_path, stage_outputs

logger = logging.getLogger(__name__)

KEYS = ("vars", "steps", "extends", "drop")
LAUNCH_FLAGS = {"config": "--config_file", "processes": "--num_processes"}

# Imported once and inherited by every step, because the imports take seconds.
PRELOAD = ["sft_judge.core.third_party", "sft_judge.training.train", "sft_judge.inference.predict"]
PRELOAD += ["sft_judge.inference.engines.transformers_engine", "sft_judge.modeling.tiny_models"]


@dataclass
class Step:
    """
    One command of a pipeline; a step with `each` becomes several steps of the same name.

    Attributes:
        name: name of the step.
        stage: the `sft-judge` command.
        argv: its arguments.
        launch: arguments of `sft-judge launch` for a training on several processes; empty for one process.
    """

    name: str
    stage: str
    argv: list[str]
    launch: list[str] = field(default_factory=list)

    @property
    def words(self) -> list[str]:
        """Return the command line of this step after `sft-judge`."""
        return [*(["launch", *self.launch] if self.launch else [self.stage]), *self.argv]


def read_pipeline(file: Path, also: tuple[str, ...] = ()) -> dict:
    """
    Read a pipeline file.

    A file that `extends` another inherits its steps, without those in `drop`, and changes their arguments. A new step
    needs `before`, the inherited step that it precedes.

    Args:
        file: the file.
        also: additional keys, such as those of a sweep file; they are inherited too.

    Raises:
        InputError: the file is not valid YAML, or has an unknown key or step.
    """
    try:
        pipeline = load_yaml(Path(file).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not valid YAML ({' '.join(str(error).split())}).") from error
    keys = (*KEYS, *also)
    if not isinstance(pipeline, dict):
        raise InputError(f"{file}: expected a mapping with {', '.join(keys)}.")
    check_known(file, "key", pipeline, keys)
    if "extends" not in pipeline:
        return pipeline
    base = read_pipeline(Path(file).parent / pipeline["extends"], also)
    steps = base["steps"]
    new = [name for name, step in pipeline.get("steps", {}).items() if "before" in step]
    check_known(file, "step", [name for name in pipeline.get("steps", {}) if name not in new], steps)
    for name, changes in pipeline.get("steps", {}).items():
        steps = _insert_step(file, steps, name, changes) if name in new else steps | {name: {**steps[name], **changes}}
    check_known(file, "step", pipeline.get("drop", []), steps)
    remaining = {name: step for name, step in steps.items() if name not in pipeline.get("drop", [])}
    more = {name: value for name, value in {**base, **pipeline}.items() if name in also}
    variables = {**base.get("vars", {}), **pipeline.get("vars", {})}
    return {"vars": variables, "steps": remaining, **more}


def _insert_step(file, steps: dict, name: str, step: dict) -> dict:
    """Insert a new step before the step given by its `before`."""
    check_known(file, "step", [step["before"]], steps)
    place = list(steps).index(step["before"])
    whole = list(steps.items())
    new = (name, {key: value for key, value in step.items() if key != "before"})
    return dict([*whole[:place], new, *whole[place:]])


def override(pipeline: dict, assignments: list[str]) -> None:
    """
    Apply assignments `step.key=value` and `var=value` to a pipeline in place; values are read as YAML.

    Args:
        pipeline: the pipeline.
        assignments: the assignments.
    """
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise InputError(f"--set {assignment}: expected step.key=value or var=value.")
        assign(pipeline, "--set", key, yaml.safe_load(value))


def assign(pipeline: dict, where: str, key: str, value) -> None:
    """
    Set `step.key` or a variable of a pipeline in place.

    Args:
        pipeline: the pipeline.
        where: origin of the assignment, for messages.
        key: `step.key` or the name of a variable.
        value: the value.

    Raises:
        InputError: the pipeline does not have the step or variable.
    """
    step, dot, name = key.partition(".")
    check_known(where, "step" if dot else "var", [step], pipeline["steps"] if dot else pipeline["vars"])
    target = pipeline["steps"][step] if dot else pipeline["vars"]
    target[name if dot else step] = value


def steps_of(pipeline: dict, file: Path) -> list[Step]:
    """
    Build the commands of a pipeline with all variables filled in.

    Args:
        pipeline: the pipeline.
        file: its file, for messages.

    Raises:
        InputError: a stage, variable or argument is unknown, or a variable has no value.
    """
    variables = pipeline.get("vars", {})
    for name, value in variables.items():
        if value is None:
            raise InputError(f"{file}: the variable {name!r} has no value. Set it with --set {name}=...")
    steps = []
    for name, fields in pipeline["steps"].items():
        fields = dict(fields)
        stage, each = fields.pop("stage", name), fields.pop("each", {})
        registry.stage_module(stage)
        launch = _launch_words(file, name, stage, fields.pop("launch", None))
        for values in itertools.product(*each.values()):
            scope = {**variables, **dict(zip(each, values, strict=True))}
            argv = [str(fill(file, name, word, scope)) for word in _words(stage, fields)]
            words = [str(fill(file, name, word, scope)) for word in launch]
            alone = LAUNCH_FLAGS["processes"] in words and words[words.index(LAUNCH_FLAGS["processes"]) + 1] == "1"
            steps.append(Step(name, stage, argv, [] if alone else words))
    for step in steps:
        registry.parse(step.stage, step.argv)  # raise for wrong arguments before anything runs
        if step.launch:
            registry.parse("launch", step.words[1:])
    return steps


def _launch_words(file, name: str, stage: str, launch) -> list[str]:
    """Return the arguments of `sft-judge launch` for a step's `launch: {config: zero2, processes: 4}`."""
    if launch is None:
        return []
    if stage != "train" or not isinstance(launch, dict) or "config" not in launch:
        raise InputError(
            f"{file}: step {name!r} has launch: {launch!r}. `launch` is for train steps and needs a launch file: "
            "launch: {config: zero2, processes: 4}."
        )
    check_known(f"{file}, launch of step {name!r}", "key", launch, LAUNCH_FLAGS)
    words = [str(word) for key, value in launch.items() for word in (LAUNCH_FLAGS[key], value)]
    return [*words, "--main_process_port", "0"]  # any free port, because several steps may run at once


def outputs_of(step: Step) -> list[Path]:
    """Return the files and folders that a step makes; its manifest is next to the first."""
    outputs = stage_outputs(registry.stage_module(step.stage), registry.parse(step.stage, step.argv))
    return [Path(path) for path in outputs]


def first_output(step: Step) -> Path | None:
    """Return the output that a step's manifest is next to."""
    return next(iter(outputs_of(step)), None)


def up_to_date(step: Step) -> bool:
    """Return True if the step's outputs were made from the current inputs, settings and source."""
    module, args = registry.stage_module(step.stage), registry.parse(step.stage, step.argv)
    registry.fetch_models(args, offline=True)
    outputs = stage_outputs(module, args)
    manifest = manifest_path(outputs[0]) if outputs else None
    if manifest is None or not manifest.is_file():
        return False
    try:
        made = json.loads(manifest.read_text(encoding="utf-8"))
        hashes, stamp = made["outputs"].items(), made["fingerprint"]
    except (ValueError, KeyError, TypeError, AttributeError):  # a damaged manifest: run the step again
        return False
    unchanged = all(Path(path).exists() and content_hash(path) == digest for path, digest in hashes)
    return unchanged and stamp == collect_provenance(module, args)["fingerprint"]


def start_step(step: Step, log: Path | None = None, threads: int | None = None, gpu: str | None = None):
    """
    Start a step in its own process, which ends with this process.

    Args:
        step: the step.
        log: file for its output; None prints to this process's streams.
        threads: number of torch threads; None leaves the default.
        gpu: the only GPU that the step may use; None allows all.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=_step_process, args=(step.words, log, threads, gpu))
    process.start()
    return process


def exit_status(process) -> int:
    """Return the exit status of a finished process as a shell reports it."""
    return process.exitcode if process.exitcode >= 0 else 128 - process.exitcode


def _step_process(argv: list[str], log: Path | None, threads: int | None, gpu: str | None) -> None:
    if log is not None:
        with open(log, "w") as file:
            for stream in (1, 2):
                os.dup2(file.fileno(), stream)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    threading.Thread(target=_die_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    sys.exit(cli.main(argv, nested=True))


def _die_with(parent) -> None:
    """
    Kill this process when its parent ends, even if the fork server started the step only after the parent was killed.
    """
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)


def _words(stage: str, fields: dict) -> list:
    """
    Convert a step's mapping to command-line words.

    Training settings keep their underscores, because they are field names.
    """
    words = [str(word) for word in fields.get("args", [])]
    for key, value in fields.items():
        flag = f"--{key if stage == 'train' else key.replace('_', '-')}"
        if key == "args" or value is None or value is False:
            continue
        bare = value is True and (stage != "train" or key in ("plan", "shrink"))
        words += [flag] if bare else [flag, *(value if isinstance(value, list) else [value])]
    return words


def fill(file, step: str, word, scope: dict):
    """
    Fill in the variables in a word of a step.

    Args:
        file: the pipeline file, for messages.
        step: name of the step, for messages.
        word: the word; only strings are changed.
        scope: values of the variables.

    Raises:
        InputError: the word uses an unknown variable.
    """
    try:
        return word.format_map(scope) if isinstance(word, str) else word
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(f"{file}: step {step!r} has {word!r}, but the variables are {', '.join(scope)}.") from error


def check_known(where, what: str, names, known) -> None:
    """
    Check that all names are known.

    Args:
        where: the file, for messages.
        what: kind of the names, for messages.
        names: the names.
        known: the known names.

    Raises:
        InputError: a name is not known; the message suggests the nearest known name.
    """
    for name in names:
        if name not in known:
            raise InputError(f"{where}: unknown {what} {name!r}.{nearest(name, known)} Known: {', '.join(known)}.")
