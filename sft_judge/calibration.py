"""
One temperature for a judge: fitted on rows it did not see, kept in judge.json, applied once by whoever reads probs.

Which calibration belongs to a probs file is decided here and nowhere else: that of the judge's folder as it is now
(a judge is calibrated after it predicted), else the one the file carries, else none.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.optimize import minimize_scalar

from sft_judge.metrics import log_clipped
from sft_judge.probs import METADATA_KEY, Probs, average_orders
from sft_judge.spec import FILE, apply_temperature, read_spec

TEMPERATURES = (0.05, 20.0)


@dataclass
class Calibrated:
    """
    `ids` [N], calibrated `probs` [N, 3] of averaged orders, the `calibration` applied (None: raw) and why.

    `orders` [N]: in how many a battle was judged; one in none has class frequencies, which no temperature touches.
    """

    ids: np.ndarray
    probs: np.ndarray
    calibration: dict | None
    reason: str
    orders: np.ndarray


def judge_file(metadata: dict) -> Path | None:
    """The judge.json of the folder that predicted, where it still stands."""
    model = metadata.get("model")
    file = Path(model) / FILE if isinstance(model, str) else None
    return file if file is not None and file.is_file() else None


def calibrated(probs: Probs, raw: bool = False) -> Calibrated:
    """Average the orders and apply the calibration that belongs to this file; with `raw`, none."""
    ids, averaged, orders = average_orders(probs)
    calibration, reason = (None, "raw, as asked") if raw else _calibration_of(probs.metadata)
    temperature = calibration["temperature"] if calibration else 1.0
    averaged[orders > 0] = apply_temperature(averaged[orders > 0], temperature)
    return Calibrated(ids, averaged, calibration, reason, orders)


def _calibration_of(metadata: dict) -> tuple[dict | None, str]:
    file = judge_file(metadata)
    calibration = read_spec(file.parent).calibration if file else metadata.get("calibration")
    where = str(file) if file else "the probs file"
    if calibration:
        return calibration, f"temperature {calibration['temperature']:.4g} from {where}"
    if not metadata:
        return None, "raw: the file has no metadata, so no judge is known"
    return None, f"raw: no calibration in {where}"


def judge_files(paths: list[Path]) -> list[Path]:
    """The judge.json files on which the reading of these probs files depends, for a stage's `extra_inputs`."""
    found = []
    for path in paths:
        try:
            metadata = json.loads((pq.read_schema(path).metadata or {}).get(METADATA_KEY, b"{}"))
        except (OSError, pa.ArrowException, ValueError):  # not there yet, or a CSV: it names no judge
            continue
        file = judge_file(metadata)
        if file is not None and file not in found:
            found.append(file)
    return found


def mean_log_loss(probs: np.ndarray, verdicts: np.ndarray, temperature: float = 1.0) -> float:
    """Mean log loss in nats of probabilities [N, K] against verdicts [N] at a temperature."""
    scaled = apply_temperature(probs, temperature)
    return float(-log_clipped(scaled[np.arange(len(verdicts)), verdicts]).mean())


def fit_temperature(probs: np.ndarray, verdicts: np.ndarray) -> float:
    """
    The temperature of least log loss on raw probabilities [N, K] of averaged orders (Guo et al. 2017, section 4.2).

    Within TEMPERATURES, and 1 where no other is better, so the fitted rows never get worse.
    """
    low, high = np.log(TEMPERATURES)
    best = minimize_scalar(
        lambda log_t: mean_log_loss(probs, verdicts, np.exp(log_t)),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-7},
    )
    temperature = float(np.exp(best.x))
    better = mean_log_loss(probs, verdicts, temperature) < mean_log_loss(probs, verdicts)
    return temperature if better else 1.0
