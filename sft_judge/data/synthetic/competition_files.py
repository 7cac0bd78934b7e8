"""Synthetic battles in the file formats of a competition."""

import csv
import json
from pathlib import Path

HEADER = ("id", "model_a", "model_b", "prompt", "response_a", "response_b")


WINNERS = ("winner_model_a", "winner_model_b", "winner_tie")  # in the order of VERDICTS


def _write_csv(path: Path, header, rows) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def write_competition_csv(path: Path, rows: list[dict], labelled: bool) -> None:
    """
    Write battles in the LMSYS format: turns as JSON lists, one-hot winners.

    Args:
        path: CSV file to write.
        rows: the battles.
        labelled: write models and winners; otherwise leave both out.
    """
    from sft_judge.core.verdicts import VERDICTS

    header = (*HEADER, *WINNERS) if labelled else [name for name in HEADER if not name.startswith("model")]

    def cell(row: dict, name: str):
        if name in WINNERS:
            return int(row["verdict"] == VERDICTS[WINNERS.index(name)])
        value = row[name]
        return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value

    _write_csv(path, header, ([cell(row, name) for name in header] for row in rows))


def write_sample(path: Path, rows: list[dict], num_verdicts: int) -> None:
    """
    Write sample_submission.csv with equal probabilities for the verdicts in use.

    Args:
        path: CSV file to write.
        rows: the battles.
        num_verdicts: number of verdicts K, 2 or 3.
    """
    values = [1 / num_verdicts if column < num_verdicts else 0.0 for column in range(3)]
    _write_csv(path, ("id", *WINNERS), ([row["id"], *values] for row in rows))
