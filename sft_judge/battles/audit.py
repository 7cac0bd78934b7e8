"""
What a set of battles is like, as numbers: no text of a battle leaves this module.

Win rates are of the labelled rows without ties, with Wilson's 95 % interval (scipy.stats.binomtest).
"""

from collections import Counter

import numpy as np
import pyarrow as pa

from sft_judge.battles.folds import normal_prompt
from sft_judge.battles.schema import FIELDS

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
HOSTILE_MARKS = ("<|im_", "<start_of_turn>", "<end_of_turn>", "</response_", "<|eot_id|>", "<|endoftext|>", "[/inst]")
BATCH = 5_000


class Tally:
    """What is counted while battles stream by; `facts` turns it into the audit."""

    def __init__(self, num_rows: int):
        self.by = {name: Counter() for name in ("source", "language", "verdict", "turns", "fold")}
        self.lengths = {name: np.zeros(num_rows, dtype=np.int64) for name in FIELDS}  # characters, turns together
        self.empty, self.hostile = Counter(), Counter()
        self.verdicts: list[str | None] = []
        self.identical = self.done = 0
        self.prompts: Counter[str] = Counter()
        self.rows: Counter[tuple] = Counter()

    def add(self, row: dict) -> None:
        """Count one battle."""
        for name in ("source", "language", "verdict", "fold"):
            self.by[name][_name(row.get(name))] += 1
        self.by["turns"][str(len(row["prompt"]))] += 1
        for name in FIELDS:
            text = "".join(row[name])
            self.lengths[name][self.done] = len(text)
            self.empty[name] += not text.strip()
            lowered = text.lower()
            self.hostile.update(mark for mark in HOSTILE_MARKS if mark in lowered)
        self.identical += row["response_a"] == row["response_b"]
        prompt = normal_prompt(row["prompt"])
        self.prompts[hash(prompt)] += 1
        self.rows[hash((prompt, *row["response_a"], "\0", *row["response_b"]))] += 1
        self.verdicts.append(row["verdict"])
        self.done += 1


def _name(value) -> str:
    return "none" if value is None else str(value)


def audit_battles(table: pa.Table, progress=None) -> dict:
    """The audit of N battles as a JSON-able dict; `progress(n)` is told of every n rows."""
    tally = Tally(table.num_rows)
    for batch in table.to_batches(BATCH):
        for row in batch.to_pylist():
            tally.add(row)
        if progress:
            progress(batch.num_rows)
    longer = np.sign(tally.lengths["response_a"] - tally.lengths["response_b"])
    decided = np.array([{"a": 1, "b": -1}.get(verdict, 0) for verdict in tally.verdicts])
    uneven = (decided != 0) & (longer != 0)
    return {
        "rows": table.num_rows,
        "rows_by": {name: dict(counter.most_common()) for name, counter in tally.by.items()},
        "characters": {name: _quantiles(values) for name, values in tally.lengths.items()},
        "empty": {name: tally.empty[name] for name in FIELDS},
        "identical_responses": tally.identical,
        "duplicates": {
            "different_prompts": len(tally.prompts),
            "rows_sharing_a_prompt": sum(count for count in tally.prompts.values() if count > 1),
            "rows_repeating_a_row": sum(count - 1 for count in tally.rows.values()),
        },
        "first_answer_wins": win_rate(int((decided == 1).sum()), int((decided != 0).sum())),
        "longer_answer_wins": win_rate(int((decided == longer)[uneven].sum()), int(uneven.sum())),
        "prompts_in_two_folds": fold_leaks(table),
        "hostile_text": {mark: tally.hostile[mark] for mark in HOSTILE_MARKS},
    }


def _quantiles(values: np.ndarray) -> dict[str, float]:
    return {f"{q:g}": float(value) for q, value in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)}


def win_rate(wins: int, battles: int) -> dict | None:
    """A share as {"value", "low", "high", "n"} with Wilson's 95 % interval; None of no battles."""
    from scipy.stats import binomtest

    if not battles:
        return None
    low, high = binomtest(wins, battles).proportion_ci(0.95, method="wilson")
    return {"value": wins / battles, "low": float(low), "high": float(high), "n": battles}


def fold_leaks(table: pa.Table) -> int | None:
    """
    How many first turns of prompts stand in more than one fold, None where there are no folds.

    Found by Arrow's own normalisation and group-by, not by the code that made the folds.
    """
    import pyarrow.compute as pc

    if "fold" not in table.column_names:
        return None
    text = pc.list_element(table["prompt"], 0)
    text = pc.utf8_trim_whitespace(pc.replace_substring_regex(pc.utf8_lower(text), r"\s+", " "))
    folds = pa.table({"text": text, "fold": table["fold"]}).group_by("text").aggregate([("fold", "count_distinct")])
    return int(pc.sum(pc.greater(folds["fold_count_distinct"], 1)).as_py())
