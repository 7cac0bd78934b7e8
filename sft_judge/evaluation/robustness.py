"""How much a response gains by talking to the judge: the same battles judged with and without an attack."""

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
    `{kind | "all": {"n", "gain", "won", "lost"}}` of a judge's probs on the attacked battles in `path`.

    `gain`: what the response that tries gains in probability; `won`: the battles whose verdict goes to it that did not
    before; `lost`: those that leave it. Raises `InputError` where battles are missing, or where another judge said it
    or in other orders, as then not all of the difference is the attack's.
    """
    attacked, judge = read_probs(path), aligned.judges[name]
    if judge.says_verdicts:
        raise InputError(
            f"{path}: --attacked compares probabilities, and {name} gives verdicts alone. Name a judge of --probs by "
            "--main."
        )
    result = calibrate_probs(attacked, raw)
    ids = aligned.battles["id"].to_pylist()
    remedy = "`sft-judge attack` the same battles and predict them."
    places = result.rows_of(path, ids, f"battles that {name} is evaluated on", remedy)
    hashes, models = ([probs.metadata.get(key) for probs in (attacked, judge.source)] for key in ("judge", "model"))
    told = hashes if all(hashes) else [Path(model).resolve() for model in models if model]
    if len(set(told)) > 1:
        raise InputError(
            f"{path}: made by {models[0]}, but {name} is {models[1]}. Predict the attacked battles with it."
        )
    differ = int((result.orders[places] != (~np.isnan(judge.orders[:, :, 0])).sum(axis=1)).sum())
    if differ:
        raise InputError(
            f"{path}: {differ} battles were judged in more or fewer orders than by {name} without attack."
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
    """A row a kind of attack."""
    rows = [
        [kind, str(one["n"]), points(one["gain"]), percent(one["won"]), percent(one["lost"])]
        for kind, one in metrics.items()
    ]
    columns = ["", "battles", "probability it gains", "verdicts it wins", "verdicts it loses"]
    note = "of the response whose end talks to the judge; percentage points, and shares of the battles"
    return Table(f"Attacks on {name}", columns, rows, note)
