"""
Do judges agree, with one another and with the votes? What to look at before a student learns from them.

Where all of them give one verdict and people gave another, either people know something or the vote is noise: those
battles are listed, the surest first, for a person to look at.
"""

import csv
from itertools import combinations
from pathlib import Path

import numpy as np

from sft_judge.core.files import whole_file
from sft_judge.core.verdicts import VERDICTS
from sft_judge.evaluation.align import Aligned
from sft_judge.evaluation.bootstrap import interval, resample
from sft_judge.evaluation.metrics import agreement_and_kappa, one_hot, predicted_verdicts
from sft_judge.evaluation.reporting.battle_text import battle_text
from sft_judge.evaluation.reporting.html import Table, Text
from sft_judge.evaluation.reporting.tables import number, percent

VOTES = "the votes"


def agreement(aligned: Aligned, seed: int = 0) -> list[dict]:
    """Each pair of judges, and each with the votes: share of the same verdict, and Cohen's kappa, with intervals."""
    chosen = {name: predicted_verdicts(judge.probs) for name, judge in aligned.judges.items()}
    chosen[VOTES] = one_hot(aligned.verdicts, aligned.num_verdicts)
    comparisons = []
    for one, other in combinations(chosen, 2):
        table = chosen[one][:, :, None] * chosen[other][:, None, :]
        same, kappa = agreement_and_kappa(resample({"pairs": table}, aligned.clusters, seed=seed)["pairs"])
        comparisons.append({"a": one, "b": other, "same_verdict": interval(same), "kappa": interval(kappa)})
    return comparisons


def against_votes(aligned: Aligned) -> list[dict]:
    """The battles on which all judges give one verdict that is not the vote, the surest first."""
    chosen = np.stack([judge.probs.argmax(axis=1) for judge in aligned.judges.values()])
    mean = np.mean([judge.probs for judge in aligned.judges.values()], axis=0)
    rows = np.flatnonzero((chosen == chosen[0]).all(axis=0) & (chosen[0] != aligned.verdicts))
    rows = rows[np.argsort(-mean[rows, chosen[0, rows]], kind="stable")]
    ids = aligned.battles["id"].to_pylist()
    return [
        {
            "row": int(row),
            "id": ids[row],
            "vote": VERDICTS[aligned.verdicts[row]],
            "judged": VERDICTS[chosen[0, row]],
            "probability": round(float(mean[row, chosen[0, row]]), 4),
        }
        for row in rows
    ]


def write_against_votes(path: Path, rows: list[dict]) -> None:
    """The list as a CSV file, which holds no battle's text."""
    with whole_file(path) as aside, open(aside, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", "vote", "judged", "probability"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def agreement_table(pairs: list[dict], against: int, rows: int) -> Table:
    """A row a pair."""
    cells = [[f"{pair['a']}, {pair['b']}", percent(pair["same_verdict"]), number(pair["kappa"], 3)] for pair in pairs]
    note = f"all judges agree against the vote on {against} of {rows} battles: against_votes.csv, the surest first"
    return Table("Agreement", ["", "same verdict", "kappa"], cells, note)


def example_texts(aligned: Aligned, rows: list[dict], count: int) -> list[Text]:
    """The first `count` battles of a list of such entries, with their text."""
    return [
        battle_text(
            f"judged {one['judged']} against {one['vote']}", aligned.battles.slice(one["row"], 1).to_pylist()[0]
        )
        for one in rows[:count]
    ]
