"""
Win rates of one policy against another, by judges and by votes if there are any.

Only battles between the two policies count, whichever of them is model_a. Verdicts are not needed: a judge's choice is
its most probable verdict. If a and b have exactly the same probability the choice is a tie, so that neither order is
favoured.
"""

import numpy as np
import pyarrow as pa

from sft_judge.core.errors import InputError, nearest
from sft_judge.core.swap_orders import swap
from sft_judge.data.preparing.prompt_groups import group_prompts
from sft_judge.evaluation.align import VERDICT_INDEX, column
from sft_judge.evaluation.bootstrap import interval, resample
from sft_judge.evaluation.reporting.html import Table
from sft_judge.evaluation.reporting.tables import number, percent
from sft_judge.inference.calibrated import Calibrated

VOTES = "the votes"
TIE = VERDICT_INDEX["tie"]


def policy_wins(
    battles: pa.Table, judges: dict[str, Calibrated], policies: tuple[str, str], path, seed: int = 0, without_probs=()
) -> dict:
    """
    Compute the win rates of the first policy over the second.

    Args:
        battles: the battles, with model_a and model_b.
        judges: calibrated probabilities of each judge, by name.
        policies: names of the two policies.
        path: file of the battles, for messages.
        seed: seed of the bootstrap.
        without_probs: names of judges that give only verdicts, as people do; they get no `mean_probability`.

    Returns:
        `{"policies", "battles", "prompts", "by": {judge or VOTES: figures}}`.

    Raises:
        InputError: there is no battle between the two policies, or a judge judged none of them.
    """
    one, other = policies
    models = np.array([column(battles, name) for name in ("model_a", "model_b")], dtype=object)  # [2, N]
    first = (models[0] == one) & (models[1] == other)
    theirs = first | ((models[0] == other) & (models[1] == one))
    if one == other or not theirs.any():
        known_models = sorted({name for name in models.ravel() if name is not None})
        unknown = next((name for name in policies if name not in known_models), None)
        hint = nearest(unknown, known_models) if unknown else ""
        raise InputError(
            f"{path}: no battle between {one!r} and {other!r}.{hint} Its models are "
            f"{', '.join(map(str, known_models[:20])) or 'not named: battles need model_a and model_b'}."
        )
    battles, first = battles.filter(pa.array(theirs)), first[theirs]
    clusters, ids = group_prompts(battles), battles["id"].to_pylist()
    by = {}
    for name, judge in judges.items():
        rows = np.array([judge.row_of.get(id_, -1) for id_ in ids])
        is_judged = (rows >= 0) & (judge.orders[rows] > 0)  # battles that a deadline left out were not judged
        if not is_judged.any():
            raise InputError(f"{path}: {name} judged none of the {len(ids)} battles between {one!r} and {other!r}.")
        by[name] = win_figures(judge.probs[rows], is_judged, first, clusters, seed, name not in without_probs)
    votes = np.array([VERDICT_INDEX.get(name, -1) for name in column(battles, "verdict")])
    if (votes >= 0).any():
        by[VOTES] = win_figures(np.eye(3)[votes], votes >= 0, first, clusters, seed, has_probs=False)
    return {"policies": list(policies), "battles": len(ids), "prompts": int(clusters.max()) + 1, "by": by}


def win_figures(
    probs: np.ndarray,
    judged: np.ndarray,
    first: np.ndarray,
    clusters: np.ndarray,
    seed: int = 0,
    has_probs: bool = True,
) -> dict:
    """
    Compute counts and rates of a policy's wins, with intervals over `clusters`.

    Args:
        probs: probabilities `[N, 3]`.
        judged: mask of the judged battles `[N]`.
        first: mask of the battles in which the policy is model_a `[N]`.
        clusters: prompt of each row `[N]`.
        seed: seed of the bootstrap.
        has_probs: add `mean_probability`, the mean probability to win plus half that of a tie.

    Returns:
        `n`, `won`, `lost`, `tied`; `win_rate`, in which a tie counts half; `win_rate_decided`, without ties.
    """
    probs = np.where(first[:, None], probs, swap(probs)) * judged[:, None]
    chosen = probs.argmax(axis=1)
    chosen[(probs[:, 0] == probs[:, 1]) & (chosen < TIE)] = TIE
    columns = {"chosen": np.eye(3)[chosen] * judged[:, None], "probs": probs, "n": judged.astype(float)}
    sums = resample(columns, clusters, seed=seed)
    values, parts = _rates(sums), _rates(sums.of_prompts)
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = {
            name: interval(over / under, parts[name][1], None if name == "mean_probability" else parts[name][0])
            for name, (over, under) in values.items()
            if has_probs or name != "mean_probability"
        }
    counts = dict(zip(("won", "lost", "tied"), sums["chosen"][0].astype(int).tolist(), strict=True))
    return {"n": int(sums["n"][0]), **counts, **rates}


def _rates(sums: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return each rate's numerator and denominator `[...]`."""
    won, lost, tied = np.moveaxis(sums["chosen"], -1, 0)
    probability = sums["probs"][:, 0] + sums["probs"][:, TIE] / 2
    return {
        "win_rate": (won + tied / 2, sums["n"]),
        "win_rate_decided": (won, won + lost),
        "mean_probability": (probability, sums["n"]),
    }


def policies_table(result: dict) -> Table:
    """Build the table of win rates, one row per judge and one for the votes."""
    columns = ["", "won, a tie as half", "won of the decided", "mean probability", "won", "lost", "tied", "battles"]
    rows = [
        [
            name,
            *(percent(figures[key]) for key in ("win_rate", "win_rate_decided")),
            number(figures.get("mean_probability"), 3),
            *(f"{figures[key]:,}" for key in ("won", "lost", "tied", "n")),
        ]
        for name, figures in result["by"].items()
    ]
    one, other = result["policies"]
    note = (
        f"{one} against {other}, as model_a or model_b: {result['battles']:,} battles, {result['prompts']:,} prompts"
    )
    return Table("Policies", columns, rows, note)
