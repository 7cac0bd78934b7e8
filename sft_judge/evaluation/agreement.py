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
from sft_judge.evaluation.metrics import agreement_and_kappa, one_hot
from sft_judge.evaluation.reporting.battle_text import battle_text
from sft_judge.evaluation.reporting.html import Table, Text
from sft_judge.evaluation.reporting.tables import number, percent

VOTES = "the votes"


def agreement(aligned: Aligned, seed: int = 0) -> list[dict]:
    """Each pair of judges, and each with the votes: share of the same verdict, and Cohen's kappa, with intervals."""
    chosen = {name: judge.chosen for name, judge in aligned.judges.items()}
    chosen[VOTES] = one_hot(aligned.verdicts, aligned.num_verdicts)
    comparisons = []
    for one, other in combinations(chosen, 2):
        table = chosen[one][:, :, None] * chosen[other][:, None, :]
        draws = resample({"pairs": table}, aligned.clusters, seed=seed)
        same, kappa = agreement_and_kappa(draws["pairs"])
        rows = draws.of_prompts["pairs"].sum(axis=(1, 2))
        alike = np.trace(draws.of_prompts["pairs"], axis1=1, axis2=2)
        comparisons.append({"a": one, "b": other})
        comparisons[-1] |= {"same_verdict": interval(same, rows, alike), "kappa": interval(kappa, rows)}
    return comparisons


def against_votes(aligned: Aligned) -> list[dict]:
    """The battles on which all judges give one verdict that is not the vote, the surest first."""
    shares = np.stack([judge.chosen for judge in aligned.judges.values()])
    agreed = shares.min(axis=0)  # one where all choose this verdict and none other is as probable
    chosen, mean = agreed.argmax(axis=1), np.mean([judge.probs for judge in aligned.judges.values()], axis=0)
    rows = np.flatnonzero((agreed.max(axis=1) == 1) & (chosen != aligned.verdicts))
    rows = rows[np.argsort(-mean[rows, chosen[rows]], kind="stable")]
    ids = aligned.battles["id"].to_pylist()
    return [
        {
            "row": int(row),
            "id": ids[row],
            "vote": VERDICTS[aligned.verdicts[row]],
            "judged": VERDICTS[chosen[row]],
            "probability": round(float(mean[row, chosen[row]]), 4),
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
