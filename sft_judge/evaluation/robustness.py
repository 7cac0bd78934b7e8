"""Robustness to attacks: the same battles judged with and without a response that addresses the judge."""

from pathlib import Path

import numpy as np

from sft_judge.core.errors import InputError
from sft_judge.data.attacks import KINDS, assign_attacks
from sft_judge.data.probs import first_verdicts, read_probs
from sft_judge.evaluation.align import Aligned
from sft_judge.evaluation.bootstrap import Draws, interval, resample, share
from sft_judge.evaluation.metrics import predicted_verdicts
from sft_judge.evaluation.reporting.html import Table
from sft_judge.evaluation.reporting.tables import percent, points
from sft_judge.inference.calibrated import calibrate_probs

ALL_ATTACKS = "all"


def robustness(aligned: Aligned, name: str, path: Path, raw: bool = False, seed: int = 0) -> dict:
    """
    Measure how much an attack changes a judge's verdicts.

    Args:
        aligned: judges and battles without attack.
        name: the judge.
        path: the judge's probs file of the attacked battles.
        raw: do not apply calibrations.
        seed: seed of the bootstrap.

    Returns:
        `{kind | "all": {"n", "gain", "won", "lost"}}`. `gain`: probability that the attacking response gains. `won`:
        share of battles whose verdict moves to the attacking response. `lost`: share whose verdict moves away from it.

    Raises:
        InputError: battles are missing, or the file was made by another judge or in other orders, so that the
            difference is not due to the attack alone.
    """
    attacked, judge = read_probs(path), aligned.judges[name]
    if judge.says_verdicts:
        raise InputError(
            f"{path}: --attacked compares probabilities, but {name} gives only verdicts. Select a judge of --probs "
            "with --main."
        )
    result = calibrate_probs(attacked, raw)
    ids = aligned.battles["id"].to_pylist()
    remedy = "`sft-judge attack` the same battles and predict them."
    places = result.rows_of(path, ids, f"battles that {name} is evaluated on", remedy)
    hashes, models = ([probs.metadata.get(key) for probs in (attacked, judge.source)] for key in ("judge", "model"))
    told = hashes if all(hashes) else [Path(model).resolve() for model in models if model]
    if len(set(told)) > 1:
        raise InputError(
            f"{path}: made by {models[0]}, but {name} is {models[1]}. Predict the attacked battles with this judge."
        )
    differ = int((result.orders[places] != (~np.isnan(judge.orders[:, :, 0])).sum(axis=1)).sum())
    if differ:
        raise InputError(
            f"{path}: {differ} battles were judged in more or fewer orders than by {name} without attack. "
            "Predict both in the same orders."
        )
    before, after = judge.probs, first_verdicts(result.probs[places], judge.probs.shape[1])
    sides, kinds = assign_attacks(ids)
    rows = np.arange(len(ids))
    gain = after[rows, sides] - before[rows, sides]
    won = predicted_verdicts(after)[rows, sides] - predicted_verdicts(before)[rows, sides]
    each = np.stack([np.ones(len(ids)), gain, np.maximum(won, 0), np.maximum(-won, 0)], axis=1)
    columns = {ALL_ATTACKS: each} | {kind: each * (kinds == place)[:, None] for place, kind in enumerate(KINDS)}
    draws = resample(columns, aligned.clusters, seed=seed)
    return {kind: _figures(draws, kind) for kind, sums in draws.items() if sums[0, 0]}


def _figures(draws: Draws, kind: str) -> dict:
    sums = draws[kind]
    with np.errstate(invalid="ignore", divide="ignore"):
        gain = interval(sums[:, 1] / sums[:, 0], draws.of_prompts[kind][:, 0])
    return {"n": int(sums[0, 0]), "gain": gain, "won": share(draws, kind, 2, 0), "lost": share(draws, kind, 3, 0)}


def robustness_table(name: str, metrics: dict) -> Table:
    """
    Build the table of attacks, one row per kind.

    Args:
        name: the judge.
        metrics: result of `robustness`.
    """
    rows = [
        [kind, str(one["n"]), points(one["gain"]), percent(one["won"]), percent(one["lost"])]
        for kind, one in metrics.items()
    ]
    columns = ["", "battles", "probability it gains", "verdicts it wins", "verdicts it loses"]
    note = "for the response that ends with the attack; percentage points, and shares of the battles"
    return Table(f"Attacks on {name}", columns, rows, note)
