"""
Read probs files for use: average the orders and apply the file's calibration exactly once.

This module alone decides which calibration applies. It is the current calibration of the judge that made the file (a
judge may be calibrated after it predicted), else the calibration stored in the file. The judge's folder is found by
the paths in the file and accepted only if its hash matches, so neither the working directory nor another judge at the
same path changes a number.
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
    Hold the calibrated probabilities of a probs file.

    Attributes:
        ids: ids of the battles [N].
        probs: calibrated probabilities, averaged over the orders [N, 3].
        calibration: the calibration applied, or None for raw probabilities.
        reason: why this calibration was applied, or why none was.
        orders: number of orders in which each battle was judged [N]. With 0 the battle has class frequencies, which
            are not calibrated.
    """

    ids: np.ndarray
    probs: np.ndarray
    calibration: dict | None
    reason: str
    orders: np.ndarray

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Return the row of each id."""
        return {id_: row for row, id_ in enumerate(self.ids)}

    def rows_of(self, name, ids: list[str], what: str, remedy: str) -> np.ndarray:
        """
        Return the rows of these ids.

        Args:
            name: the file, for messages.
            ids: ids [N].
            what: description of the ids, for messages.
            remedy: advice, for messages.

        Raises:
            InputError: ids are missing.
        """
        missing = [id_ for id_ in ids if id_ not in self.row_of]
        if missing:
            raise InputError(
                f"{name}: no probabilities for {len(missing)} of {len(ids)} {what}, e.g. id {missing[0]!r}. {remedy}"
            )
        return np.array([self.row_of[id_] for id_ in ids])


def describe_judge(model: str, output: Path) -> dict:
    """
    Describe the judge that makes a probs file, for the file's metadata.

    Args:
        model: folder of the judge, or of several judges.
        output: the probs file.

    Returns:
        `model`, as it was given, or its id and commit on the Hub; `model_from_here`, its path relative to the file's
        folder; and `judge`, its hash, None if several judges make the file.
    """
    folder = Path(model).resolve()
    hashed = judge_hash(folder) if (folder / FILE).is_file() else None
    here = os.path.relpath(folder, Path(output).resolve().parent)
    return {"model": name_of(model), "model_from_here": here, "judge": hashed}


def find_judge(metadata: dict, file: Path | None) -> Path | None:
    """
    Find the folder of the judge that made a probs file.

    Args:
        metadata: metadata of the file.
        file: path of the file; None for probs that were never written.

    Returns:
        The folder, or None if neither of the file's two paths leads to a judge with the recorded hash.
    """
    wanted = metadata.get("judge")
    return next((folder for folder in _named_folders(metadata, file) if judge_hash(folder) == wanted), None)


def _named_folders(metadata: dict, file: Path | None) -> list[Path]:
    """
    Return the existing judge folders that a probs file names; none if the file has no hash to recognise the judge.
    """
    if not metadata.get("judge"):
        return []
    beside = [] if file is None else [Path(file).resolve().parent / metadata["model_from_here"]]
    folders = [*beside, *_folder_of(metadata["model"])]
    return [folder for folder in folders if os.access(folder / FILE, os.R_OK)]  # skip folders that are not readable


def _folder_of(model: str) -> list[Path]:
    """
    Return the folder that a probs file names, or the cached folder of a Hub id and commit, in a list of at most one.
    """
    if "@" not in model or Path(model).is_dir():
        return [Path(model)]
    from sft_judge.modeling.hub import judge_folder  # imports huggingface_hub, which few files need

    try:
        return [Path(judge_folder(model, offline=True))]
    except InputError:
        return []


def calibrate_probs(probs: Probs, raw: bool = False) -> Calibrated:
    """
    Average the orders, and apply the calibration that belongs to the file.

    Args:
        probs: contents of a probs file.
        raw: apply no calibration.
    """
    ids, averaged, orders = average_orders(probs)
    calibration, reason = (None, "raw, as requested") if raw else _calibration_of(probs)
    judged = orders > 0
    averaged[judged] = apply_calibration(averaged[judged], calibration, languages_of(probs, ids)[judged])
    return Calibrated(ids, averaged, calibration, reason, orders)


def languages_of(probs: Probs, ids: np.ndarray) -> np.ndarray:
    """
    Return the language that the file gives for each id [N], or None.

    Args:
        probs: contents of a probs file.
        ids: ids [N] in the file.
    """
    if probs.languages is None:
        return np.full(len(ids), None, dtype=object)
    language_of = dict(zip(probs.ids, probs.languages, strict=True))
    return np.array([language_of[id_] for id_ in ids], dtype=object)


def _calibration_of(probs: Probs) -> tuple[dict | None, str]:
    """
    Return the calibration that belongs to a probs file, and a description of its origin.

    Raises:
        InputError: the judge's folder now holds another judge, and the file stores no calibration.
    """
    metadata, own = probs.metadata, probs.metadata.get("calibration")
    check_calibration(probs.path, own)
    if not metadata:
        return None, "raw: the file has no metadata, so its judge is unknown"
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
            f"{probs.path}: predicted by {model}, but {others[0]} is another judge now, retrained or changed since. "
            "Predict again, or use the raw probabilities: --uncalibrated."
        )
    if probs.metadata.get("judge"):
        logger.warning(
            f"{probs.path}: its judge {model} was not found. A calibration fitted since then is not applied. "
            "`sft-judge calibrate --model DIR --probs HELD_OUT --battles BATTLES --apply F --output COPY` fits one "
            "and writes a copy of the file with it."
        )
    if model and "judge" not in probs.metadata:
        return None, f"raw: the file has no hash of {model}, so no calibration can be matched to it; predict again"
    return None, "raw: no calibration in the probs file"


def folds_seen(probs: Probs) -> list[int]:
    """Return the folds that the judge of a probs file was trained on; empty if the file was predicted out of fold."""
    folder = None if probs.metadata.get("folds") else find_judge(probs.metadata, probs.path)
    return (read_spec(folder).training.get("folds_seen") or []) if folder else []


def judge_files(paths: list[Path]) -> list[Path]:
    """Return the judge.json files that affect how these probs files are read, for a stage's `extra_inputs`."""
    files = []
    for path in paths:
        try:
            metadata = read_metadata(path, (pq.read_schema(path).metadata or {}).get(METADATA_KEY, b"{}"))
        except (OSError, pa.ArrowException, ValueError):  # does not exist yet, or is a CSV, which names no judge
            continue
        folder = find_judge(metadata, path)
        if folder is not None and folder / FILE not in files:
            files.append(folder / FILE)
    return files
