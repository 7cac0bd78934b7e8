"""
Agreement of judges with each other and with people's votes.

If all judges give one verdict and people gave another, either people know something or the vote is noise. These
battles are listed, the most confident first, for a person to inspect before a student learns from them.
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
    """
    Compare each pair of judges, and each judge with the votes.

    Args:
        aligned: judges and battles on the same rows.
        seed: seed of the bootstrap.

    Returns:
        For each pair its names `a` and `b`, the share of equal verdicts `same_verdict` and Cohen's `kappa`, with
        intervals.
    """
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
    """List the battles on which all judges agree on a verdict other than the vote, the most confident first."""
    shares = np.stack([judge.chosen for judge in aligned.judges.values()])
    agreed = shares.min(axis=0)  # 1 if every judge chooses this verdict and no other is as probable
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
    """
    Write the entries of `against_votes` as a CSV file, without the battles' text.

    Args:
        path: CSV file to write.
        rows: entries of `against_votes`.
    """
    with whole_file(path) as aside, open(aside, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", "vote", "judged", "probability"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def agreement_table(pairs: list[dict], against: int, rows: int) -> Table:
    """
    Build the agreement table, one row per pair.

    Args:
        pairs: entries of `agreement`.
        against: number of battles on which all judges agree against the vote.
        rows: number of battles.
    """
    cells = [[f"{pair['a']}, {pair['b']}", percent(pair["same_verdict"]), number(pair["kappa"], 3)] for pair in pairs]
    note = f"all judges agree against the vote on {against} of {rows} battles: against_votes.csv, the surest first"
    return Table("Agreement", ["", "same verdict", "kappa"], cells, note)


def example_texts(aligned: Aligned, rows: list[dict], count: int) -> list[Text]:
    """
    Return the text of the first `count` battles of a list.

    Args:
        aligned: judges and battles on the same rows.
        rows: entries with `row`, `vote` and `judged`, as of `against_votes`.
        count: maximum number of battles.
    """
    return [
        battle_text(
            f"judged {one['judged']} against {one['vote']}", aligned.battles.slice(one["row"], 1).to_pylist()[0]
        )
        for one in rows[:count]
    ]
