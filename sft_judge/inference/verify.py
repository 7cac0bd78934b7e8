"""`sft-judge verify`: compare one judge on several engines, or two forms of a judge, on the same prompts."""

import logging
from math import ceil
from pathlib import Path

import numpy as np

from sft_judge.core.choices import LOG_LOSS_TOLERANCE
from sft_judge.core.errors import InputError
from sft_judge.core.swap_orders import average_over_orders
from sft_judge.data.ties import label_shares
from sft_judge.inference.engines import open_engine
from sft_judge.inference.parity import (
    TOLERANCES,
    Rise,
    check_log_loss_rise,
    check_parity,
    compare_scores,
    log_loss_rise,
)
from sft_judge.inference.scoring import labelled_scores, orders_of
from sft_judge.modeling.judge_spec import read_spec
from sft_judge.modeling.loading import dtype_of, load_tokenizer
from sft_judge.prompts.prompt import JudgePrompt

logger = logging.getLogger(__name__)

FIRST_ROWS = 256  # rows used to estimate how many are needed
HEADROOM = 1.2  # factor of the estimate


def score(model: str, rows: list[dict], engine_name: str, dtype: str = "auto", onto: str = "trained"):
    """
    Score battles with a judge on an engine.

    Args:
        model: the judge's folder.
        rows: the battles.
        engine_name: of ENGINES.
        dtype: of DTYPES.
        onto: see `open_engine`.

    Returns:
        Log-probabilities [rows * orders, K], and a label of each row.
    """
    spec = read_spec(model)
    prompt = JudgePrompt.of(load_tokenizer(model), spec)
    with open_engine(engine_name, model, spec, dtype, onto) as engine:
        return labelled_scores(engine, prompt, rows, orders_of(spec.swap))


def verify_engines(model: str, rows: list[dict], engines: list[str], dtype: str) -> tuple[np.ndarray, dict]:
    """
    Compare each engine with the first one, and log the results.

    Args:
        model: the judge's folder.
        rows: the battles.
        engines: names of the engines.
        dtype: of DTYPES.

    Returns:
        The scores of the first engine, and facts for the manifest.

    Raises:
        GateError: a difference is above the tolerance.
    """
    precision = dtype_of(model, dtype)
    reference, labels = score(model, rows, engines[0], dtype)
    result = {"dtype": precision}
    for engine in engines[1:]:
        name = f"{model}, {engines[0]} against {engine}"
        seen, _ = score(model, rows, engine, dtype)
        result[engine] = check_parity("engines", name, precision, reference, seen, labels).max_difference
        if len(rows) == len(_labels(rows, 3)) > 1:
            result["log_loss_rise"] = _log_rise(reference, seen, rows)[:3]
    return reference, result


def _labels(rows: list[dict], num_verdicts: int) -> list[list[float]]:
    """Return the labels of the labelled battles as shares of verdicts [K]."""
    return [shares for row in rows if (shares := label_shares(row, num_verdicts)) is not None]


def _log_rise(first: np.ndarray, second: np.ndarray, rows: list[dict]) -> Rise:
    """
    Compute and log the paired rise of the log loss between two scorings [rows * orders, K].

    Labels that K verdicts cannot express are skipped.
    """
    targets = np.array(_labels(rows, first.shape[1]))
    labelled = targets.any(axis=1)
    if labelled.sum() < 2:
        raise InputError(f"{labelled.sum()} of {len(rows)} battles have a label for these judges; give at least two.")
    averaged = [
        np.log(average_over_orders(np.exp(logp).reshape(len(rows), -1, first.shape[1])))[labelled]
        for logp in (first, second)
    ]
    rise = log_loss_rise(*averaged, targets[labelled])
    logger.info(f"log loss {rise}")
    return rise


def verify_forms(
    model: str, other: str, rows: list[dict], engines: list[str], dtype: str, tolerance: float = LOG_LOSS_TOLERANCE
) -> dict:
    """
    Compare a second form of a judge, such as a quantised one, with the first by the rise of the log loss.

    Both forms are compared on the first engine. The second form is also compared with itself on the other engines.

    Args:
        model: folder of the first form.
        other: folder of the second form.
        rows: labelled battles.
        engines: names of the engines.
        dtype: of DTYPES.
        tolerance: accepted rise of the log loss in nats.

    Raises:
        GateError: a difference is above its tolerance.
    """
    unlabelled = len(rows) - len(_labels(rows, 3))
    if unlabelled:
        raise InputError(f"{unlabelled} of {len(rows)} battles have no label, but the log loss needs labels.")
    second, result = verify_engines(other, rows, engines, dtype)
    first, labels = score(model, rows, engines[0], dtype)
    return result | _check_forms(model, other, first, second, labels, _log_rise(first, second, rows), tolerance)


def verify_copy(model: str, copy: str, rows: list[dict], tolerance: float) -> dict:
    """
    Compare a copy of a judge with the original in transformers, on enough rows to detect a rise of `tolerance`.

    The standard error on the first FIRST_ROWS estimates how many rows are needed.

    Args:
        model: the judge's folder.
        copy: folder of the copy.
        rows: labelled battles.
        tolerance: accepted rise of the log loss in nats.

    Raises:
        GateError: the rise is above the tolerance.
    """
    first, second, labels, used, wanted = [], [], [], 0, min(FIRST_ROWS, len(rows))
    while used < wanted:
        more = rows[used:wanted]
        scores, names = score(model, more, "transformers")
        first, second, labels = [*first, *scores], [*second, *score(copy, more, "transformers")[0]], [*labels, *names]
        used = wanted
        rise = _log_rise(np.array(first), np.array(second), rows[:used])
        if rise.visible() > tolerance:
            wanted = min(len(rows), ceil(HEADROOM * rise.rows_to_see(tolerance)))
    return _check_forms(model, copy, np.array(first), np.array(second), labels, rise, tolerance)


def _check_forms(model: str, other: str, first, second, labels: list[str], rise: Rise, tolerance: float) -> dict:
    logger.info(str(compare_scores(f"{model} against {other}", first, second, labels)))
    check_log_loss_rise(other, rise, tolerance)
    return {"log_loss_rise": rise[:3], "rows": rise.rows, "tolerance": tolerance}


def verify_merged(
    model: str, merged: Path, rows: list[dict], onto: str = "trained", rounding: float | None = None
) -> dict:
    """
    Compare an adapter with its merged form in transformers.

    Args:
        model: folder of the adapter.
        merged: folder of the merged judge.
        rows: the battles.
        onto: as in merge.py: an adapter trained on a base in 4 bits is loaded on a base in 4 bits.
        rounding: tolerance in half precision, in which weights are rounded once more when they are merged; by default
            that of `parity.TOLERANCES`. A difference above the latter is logged.

    Raises:
        GateError: the difference is above the tolerance.
    """
    four_bit = read_spec(model).training.get("loaded_in_4bit") if onto == "trained" else None
    dtype = four_bit["dtype"] if four_bit else dtype_of(str(merged))
    before, labels = score(model, rows, "transformers", dtype, onto)
    after, _ = score(str(merged), rows, "transformers", dtype)
    usual = TOLERANCES["merged", dtype]
    tolerance = rounding if rounding and dtype != "float32" else usual
    parity = check_parity("merged", "adapter against merged", dtype, before, after, labels, tolerance)
    if parity.max_difference > usual:
        logger.warning(
            f"Rounding the merged weights to {dtype} changes probabilities by up to {parity.max_difference:.2g}, "
            f"{parity.mean_difference:.2g} on average. Evaluate the merged judge, or predict with the adapter."
        )
    return {"max_difference": parity.max_difference, "rows": parity.rows}


def verify_exported(model: str, exported: Path, rows: list[dict]) -> dict:
    """
    Compare a classifier with the judge it was exported from.

    Args:
        model: the judge's folder.
        exported: the classifier's folder.
        rows: the battles.

    Raises:
        GateError: the difference is above the tolerance.
    """
    dtype = dtype_of(model)
    (expected, labels), (seen, _) = (score(str(form), rows, "transformers") for form in (model, exported))
    parity = check_parity("merged", "judge against classifier", dtype, expected, seen, labels)
    return {"max_difference": parity.max_difference, "rows": parity.rows}
