"""
Stage the files of a judge for the Hub: links to its files, and manifests without paths of this machine.

A path that leads out of the working folder (absolute, `~/...`, `../...`) is reduced to its last part. Hashes,
settings, versions and times are kept. judge.json is not changed, because probs files recognise the judge by its hash.
"""

import json
import logging
import re
from fnmatch import fnmatch
from pathlib import Path

from sft_judge.core.errors import InputError
from sft_judge.core.files import write_json
from sft_judge.core.model_files import JUDGE

logger = logging.getLogger(__name__)

# unfinished work, checkpoints, pickles, and TensorBoard's logs, whose names contain the host name
LEFT_OUT = ("*.partial*", ".*", "checkpoint-*", "start/*", "*tfevents*", "*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle")
LEFT_OUT += ("*.ckpt", "*.joblib", "*.npy", "*.npz", "__pycache__/*")
REPORT = ("metrics.json", "report.html")
_PATH = re.compile(r"(?<![\w.~/\\-])(?:~|\.\.)?/(?!/)(?:[^\s\"'`,;:=()\[\]{}<>|/]+/)+(?=[^\s/])")


def stage_files(folder: Path, staging: Path, report: Path | None = None) -> None:
    """
    Fill the folder `staging` with the files of a judge's folder, and of its report, that are published.

    Args:
        folder: the judge's folder.
        staging: an empty folder.
        report: a folder of `sft-judge evaluate`, or None.

    Raises:
        InputError: `folder` holds no judge, or `report` holds no report.
    """
    if not (folder / JUDGE).is_file():
        raise InputError(f"{folder}: it has no {JUDGE}, so it is not a judge. `sft-judge train` and `merge` make one.")
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    for file in files:
        name = file.relative_to(folder).as_posix()
        if not any(fnmatch(name, pattern) or fnmatch(f"/{name}", f"*/{pattern}") for pattern in LEFT_OUT):
            _stage(file, staging / name)
    named = sorted(_paths_in(json.loads((folder / JUDGE).read_text(encoding="utf-8"))))
    if named:
        logger.warning(
            f"{JUDGE} names {', '.join(named)} and is uploaded unchanged, because probs files recognise the judge by "
            "its hash."
        )
    if report is not None:
        there = [name for name in REPORT if (report / name).is_file()]
        if not there:
            raise InputError(f"{report}: it has neither {' nor '.join(REPORT)}; `sft-judge evaluate` writes them.")
        for name in there:
            _stage(report / name, staging / "report" / name)


def _stage(file: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if file.name.endswith("manifest.json") or file.name == "metrics.json":
        write_json(place, without_paths(json.loads(file.read_text(encoding="utf-8"))))
    else:
        place.symlink_to(file.resolve())


def _paths_in(value) -> set[str]:
    """Return the texts of a judge.json that name paths of this machine, except in its template and example."""
    if isinstance(value, dict):
        return set().union(*(_paths_in(each) for key, each in value.items() if key not in ("template", "frame")))
    if isinstance(value, list):
        return set().union(*map(_paths_in, value))
    return {value} if isinstance(value, str) and without_paths(value) != value else set()


def without_paths(value):
    """Reduce all paths of this machine in a JSON value, including its keys, to their last part."""
    if isinstance(value, dict):
        cut = {}
        for key, each in value.items():
            name = without_paths(key)
            cut[name if name not in cut else f"{name} ({len(cut)})"] = without_paths(each)
        return cut
    if isinstance(value, list):
        return [without_paths(each) for each in value]
    if not isinstance(value, str):
        return value
    if value.startswith(("/", "~/", "../")):
        return Path(value).name
    return _PATH.sub("", value)
