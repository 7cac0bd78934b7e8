"""
Probs files as they are to be read: orders averaged, and the calibration that belongs to a file applied, once.

Which one that is is decided here and nowhere else: that of the judge's folder as it is now (a judge is calibrated
after it predicted), else the one the file carries, else none.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sft_judge.core.errors import InputError
from sft_judge.data.probs import METADATA_KEY, Probs, average_orders
from sft_judge.modeling.judge_spec import FILE, read_spec
from sft_judge.modeling.temperature_scaling import apply_calibration, describe_calibration


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


def judge_file(metadata: dict) -> Path | None:
    """The judge.json of the folder that predicted, where it still stands."""
    model = metadata.get("model")
    file = Path(model) / FILE if isinstance(model, str) else None
    return file if file is not None and file.is_file() else None


def calibrate_probs(probs: Probs, raw: bool = False) -> Calibrated:
    """Average the orders and apply the calibration that belongs to this file; with `raw`, none."""
    ids, averaged, orders = average_orders(probs)
    calibration, reason = (None, "raw, as asked") if raw else _calibration_of(probs.metadata)
    judged = orders > 0
    averaged[judged] = apply_calibration(averaged[judged], calibration, languages_of(probs, ids)[judged])
    return Calibrated(ids, averaged, calibration, reason, orders)


def languages_of(probs: Probs, ids: np.ndarray) -> np.ndarray:
    """The language [N] of each of these ids that the file states, None where it states none."""
    if probs.languages is None:
        return np.full(len(ids), None, dtype=object)
    language_of = dict(zip(probs.ids, probs.languages, strict=True))
    return np.array([language_of[id_] for id_ in ids], dtype=object)


def _calibration_of(metadata: dict) -> tuple[dict | None, str]:
    file = judge_file(metadata)
    calibration = read_spec(file.parent).calibration if file else metadata.get("calibration")
    where = str(file) if file else "the probs file"
    if calibration:
        return calibration, f"{describe_calibration(calibration)} from {where}"
    if not metadata:
        return None, "raw: the file has no metadata, so no judge is known"
    return None, f"raw: no calibration in {where}"


def folds_seen(metadata: dict) -> list[int]:
    """The folds that the judge of a probs file was trained on; none where each row's judge did not see its fold."""
    file = None if metadata.get("folds") else judge_file(metadata)
    return (read_spec(file.parent).training.get("folds_seen") or []) if file else []


def judge_files(paths: list[Path]) -> list[Path]:
    """The judge.json files on which the reading of these probs files depends, for a stage's `extra_inputs`."""
    files = []
    for path in paths:
        try:
            metadata = json.loads((pq.read_schema(path).metadata or {}).get(METADATA_KEY, b"{}"))
        except (OSError, pa.ArrowException, ValueError):  # not there yet, or a CSV: it names no judge
            continue
        file = judge_file(metadata)
        if file is not None and file not in files:
            files.append(file)
    return files
