"""`sft-judge verify`: one judge on several engines, or two forms of a judge, on the same prompts."""

import logging
from pathlib import Path

import numpy as np

from sft_judge.core.errors import InputError
from sft_judge.core.swap_orders import average_over_orders
from sft_judge.core.verdicts import verdict_names
from sft_judge.data.battles import read_battles
from sft_judge.inference.engines import open_engine
from sft_judge.inference.parity import check_log_loss_rise, check_parity, compare_scores, log_loss_rise
from sft_judge.inference.scoring import labelled_scores, orders_of
from sft_judge.modeling.judge_spec import read_spec
from sft_judge.modeling.loading import dtype_of, load_tokenizer
from sft_judge.prompts.prompt import JudgePrompt

logger = logging.getLogger(__name__)


def score(model: str, rows: list[dict], engine_name: str, dtype: str = "auto", onto: str = "trained"):
    """
    What a judge says of battles on an engine: log-probabilities [rows * orders, K] and a label for each.

    `onto` as in `open_engine`.
    """
    spec = read_spec(model)
    prompt = JudgePrompt.of(load_tokenizer(model), spec)
    with open_engine(engine_name, model, spec, dtype, onto) as engine:
        return labelled_scores(engine, prompt, rows, orders_of(spec.swap))


def verify_engines(model: str, rows: list[dict], engines: list[str], dtype: str) -> tuple[np.ndarray, dict]:
    """Hold engines to the first. Returns its scores, and facts. Logs; raises `GateError` beyond the tolerance."""
    precision = dtype_of(model, dtype)
    reference, labels = score(model, rows, engines[0], dtype)
    result = {"dtype": precision}
    for engine in engines[1:]:
        name = f"{model}, {engines[0]} against {engine}"
        seen, _ = score(model, rows, engine, dtype)
        result[engine] = check_parity("engines", name, precision, reference, seen, labels).max_difference
        if all(row["verdict"] for row in rows):
            result["log_loss_rise"] = _log_rise(reference, seen, rows)
    return reference, result


def _log_rise(first: np.ndarray, second: np.ndarray, rows: list[dict]) -> tuple[float, float, float]:
    """The paired rise of the log loss from one scoring [rows * orders, K] to the other, of verdicts that K has."""
    names = verdict_names(first.shape[1])
    labelled = [place for place, row in enumerate(rows) if row["verdict"] in names]
    averaged = [
        np.log(average_over_orders(np.exp(logp).reshape(len(rows), -1, len(names))))[labelled]
        for logp in (first, second)
    ]
    rise = log_loss_rise(*averaged, np.array([names.index(rows[place]["verdict"]) for place in labelled]))
    logger.info(f"log loss {rise[0]:+.4f} [{rise[1]:+.4f}, {rise[2]:+.4f}] on {len(labelled)} battles")
    return rise


def verify_forms(model: str, other: str, rows: list[dict], engines: list[str], dtype: str) -> dict:
    """
    Hold a second form of a judge (quantised, say) to the first by its paired rise of the log loss on labelled battles.

    Both are compared on the first engine named; the second form is held to itself on the others. Logs; raises
    `GateError`.
    """
    unlabelled = sum(row["verdict"] is None for row in rows)
    if unlabelled:
        raise InputError(
            f"{unlabelled} of {len(rows)} battles have no verdict; give labelled ones, for their log loss."
        )
    second, result = verify_engines(other, rows, engines, dtype)
    first, labels = score(model, rows, engines[0], dtype)
    logger.info(str(compare_scores(f"{model} against {other}", first, second, labels)))
    rise = _log_rise(first, second, rows)
    check_log_loss_rise(other, rise)
    return {**result, "log_loss_rise": rise, "rows": len(rows)}


def verify_merged(model: str, merged: Path, battles: Path, num_rows: int, onto: str = "trained") -> dict:
    """
    Hold an adapter to its merged form in transformers. Logs; raises `GateError` beyond the tolerance.

    `onto` as in merge.py: the adapter stands on its base in 4 bits where it was trained on one.
    """
    rows = read_battles(battles, num_rows).to_pylist()
    four_bit = read_spec(model).training.get("loaded_in_4bit") if onto == "trained" else None
    dtype = four_bit["dtype"] if four_bit else dtype_of(str(merged))
    before, labels = score(model, rows, "transformers", dtype, onto)
    after, _ = score(str(merged), rows, "transformers", dtype)
    parity = check_parity("merged", "adapter against merged", dtype, before, after, labels)
    return {"max_difference": parity.max_difference, "rows": parity.rows}


def verify_exported(model: str, exported: Path, rows: list[dict]) -> dict:
    """Hold a classifier to the judge that it was made of. Logs; raises `GateError` beyond the tolerance."""
    dtype = dtype_of(model)
    (expected, labels), (seen, _) = (score(str(form), rows, "transformers") for form in (model, exported))
    parity = check_parity("merged", "judge against classifier", dtype, expected, seen, labels)
    return {"max_difference": parity.max_difference, "rows": parity.rows}
