"""
Probs files as they are to be read: orders averaged, and the calibration that belongs to a file applied, once.

Which one that is is decided here and nowhere else: that of the folder of the judge that made the file, as it is now (a
judge is calibrated after it predicted), else the one the file carries. The folder is found by the paths in the file
and believed by its hash alone, so that neither the directory nor another judge in that place changes a number.
"""

import logging
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sft_judge.core.errors import InputError
from sft_judge.core.model_files import judge_hash, name_of
from sft_judge.data.probs import METADATA_KEY, Probs, average_orders, read_metadata
from sft_judge.modeling.judge_spec import FILE, read_spec
from sft_judge.modeling.temperature_scaling import apply_calibration, check_calibration, describe_calibration

logger = logging.getLogger(__name__)


@dataclass
class Calibrated:
    """
    `ids` [N], calibrated `probs` [N, 3] of averaged orders, the `calibration` applied (None: raw) and why.

    `orders` [N]: in how many a battle was judged; one in none has class frequencies, which no calibration touches.
    """

    ids: np.ndarray
    probs: np.ndarray
    calibration: dict | None
    reason: str
    orders: np.ndarray

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Where each id stands."""
        return {id_: row for row, id_ in enumerate(self.ids)}

    def rows_of(self, name, ids: list[str], what: str, remedy: str) -> np.ndarray:
        """Where these ids [N] stand; an `InputError` of the file `name` that says how many of `what` are missing."""
        missing = [id_ for id_ in ids if id_ not in self.row_of]
        if missing:
            raise InputError(
                f"{name}: no probabilities for {len(missing)} of {len(ids)} {what}, e.g. id {missing[0]!r}. {remedy}"
            )
        return np.array([self.row_of[id_] for id_ in ids])


def describe_judge(model: str, output: Path) -> dict:
    """
    What a probs file keeps of the judge that makes it.

    Args:
        model: the judge's folder, or one of several judges.
        output: the probs file.

    Returns:
        `model` as it was given, or its id and commit on the hub; `model_from_here`, the way to it from the file's
        folder; and `judge`, its hash, None where several judges make the file.
    """
    folder = Path(model).resolve()
    hashed = judge_hash(folder) if (folder / FILE).is_file() else None
    here = os.path.relpath(folder, Path(output).resolve().parent)
    return {"model": name_of(model), "model_from_here": here, "judge": hashed}


def find_judge(metadata: dict, file: Path | None) -> Path | None:
    """
    The folder of the very judge that made a probs file.

    Args:
        metadata: that of the file.
        file: its path; None for probs that never were in one.

    Returns:
        None where no folder of its hash stands in either place that the file names.
    """
    wanted = metadata.get("judge")
    return next((folder for folder in _named_folders(metadata, file) if judge_hash(folder) == wanted), None)


def _named_folders(metadata: dict, file: Path | None) -> list[Path]:
    """The judges' folders in the places that a probs file names; none where it has no hash to tell them by."""
    if not metadata.get("judge"):
        return []
    beside = [] if file is None else [Path(file).resolve().parent / metadata["model_from_here"]]
    folders = [*beside, *_folder_of(metadata["model"])]
    return [folder for folder in folders if os.access(folder / FILE, os.R_OK)]  # another user's may be closed


def _folder_of(model: str) -> list[Path]:
    """The folder that a probs file names, or that of the hub's cache for an id and commit; none for one not in it."""
    if "@" not in model or Path(model).is_dir():
        return [Path(model)]
    from sft_judge.modeling.hub import judge_folder  # huggingface_hub, which few files need

    try:
        return [Path(judge_folder(model, offline=True))]
    except InputError:
        return []


def calibrate_probs(probs: Probs, raw: bool = False) -> Calibrated:
    """Average the orders and apply the calibration that belongs to this file; with `raw`, none."""
    ids, averaged, orders = average_orders(probs)
    calibration, reason = (None, "raw, as asked") if raw else _calibration_of(probs)
    judged = orders > 0
    averaged[judged] = apply_calibration(averaged[judged], calibration, languages_of(probs, ids)[judged])
    return Calibrated(ids, averaged, calibration, reason, orders)


def languages_of(probs: Probs, ids: np.ndarray) -> np.ndarray:
    """The language [N] of each of these ids that the file states, None where it states none."""
    if probs.languages is None:
        return np.full(len(ids), None, dtype=object)
    language_of = dict(zip(probs.ids, probs.languages, strict=True))
    return np.array([language_of[id_] for id_ in ids], dtype=object)


def _calibration_of(probs: Probs) -> tuple[dict | None, str]:
    """
    The calibration that belongs to a probs file, and where it is from.

    Raises:
        InputError: the judge's folder holds another judge now, and the file carries no calibration of its own.
    """
    metadata, own = probs.metadata, probs.metadata.get("calibration")
    check_calibration(probs.path, own)
    if not metadata:
        return None, "raw: the file has no metadata, so no judge is known"
    folder = find_judge(metadata, probs.path)
    if folder is None:
        return _own_calibration(probs, own)
    calibration = read_spec(folder).calibration
    if not calibration:
        before = f" any more (when it predicted: {describe_calibration(own)})" if own else ""
        return None, f"raw: no calibration in {folder}{before}"
    since = " (since it predicted)" if own and own != calibration else ""
    return calibration, f"{describe_calibration(calibration)} from {folder / FILE}{since}"


def _own_calibration(probs: Probs, own: dict | None) -> tuple[dict | None, str]:
    others = _named_folders(probs.metadata, probs.path)
    model = probs.metadata.get("model")
    if own:
        aside = f" ({others[0]} is another judge now)" if others else ""
        return own, f"{describe_calibration(own)} from the probs file{aside}"
    if others:
        raise InputError(
            f"{probs.path}: predicted by {model}, but {others[0]} is another judge now: trained or changed since. "
            "Predict again, or take the probabilities as they are: --uncalibrated."
        )
    if probs.metadata.get("judge"):
        logger.warning(
            f"{probs.path}: {model}, which made it, is not here; if it was calibrated after it predicted, that is not "
            "applied. `sft-judge calibrate --model DIR --apply F --output COPY` puts it into a copy."
        )
    if model and "judge" not in probs.metadata:
        return None, f"raw: the file has no hash of {model}, so no calibration is known to be its own; predict again"
    return None, "raw: no calibration in the probs file"


def folds_seen(probs: Probs) -> list[int]:
    """The folds that the judge of a probs file was trained on; none where each row's judge did not see its fold."""
    folder = None if probs.metadata.get("folds") else find_judge(probs.metadata, probs.path)
    return (read_spec(folder).training.get("folds_seen") or []) if folder else []


def judge_files(paths: list[Path]) -> list[Path]:
    """The judge.json files on which the reading of these probs files depends, for a stage's `extra_inputs`."""
    files = []
    for path in paths:
        try:
            metadata = read_metadata(path, (pq.read_schema(path).metadata or {}).get(METADATA_KEY, b"{}"))
        except (OSError, pa.ArrowException, ValueError):  # not there yet, or a CSV: it names no judge
            continue
        folder = find_judge(metadata, path)
        if folder is not None and folder / FILE not in files:
            files.append(folder / FILE)
    return files
