"""
Write the tables of results on MT-Bench's votes, from the files of scripts/mtbench.py.

The whole table and the paired comparisons go into docs/results/mtbench.md, a short table into README.md.

    SFT_JUDGE_DATA=DIR python scripts/mtbench_table.py

Metrics of an arm are means over its seeds, on the battles of the 14 held-out questions, with bootstrap intervals over
questions and with the standard deviation of the seeds. Differences are paired by battle and seed, and their intervals
include the variance of both (pipelines/seed_statistics.py). A difference is unresolved if it is within two standard
deviations of the seeds, or if its interval contains zero.
"""

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mtbench import (
    ARMS,
    HELD_OUT,
    QUANTIZED,
    RESULTS,
    RIVALS,
    ROOT,
    TRAINED,
    as_battle,
    folds_of,
)
from results import markdown, replaced
from sklearn.linear_model import LogisticRegression

from sft_judge.core.swap_orders import ORDERS
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.battles import battle_table
from sft_judge.data.style import text_lengths
from sft_judge.evaluation.baselines import class_frequencies
from sft_judge.evaluation.bootstrap import interval, resample
from sft_judge.evaluation.calibration_fit import HeldOut, fit_vector
from sft_judge.evaluation.metrics import cross_entropy, figures, one_hot, predicted_verdicts, row_columns
from sft_judge.modeling.temperature_scaling import apply_calibration
from sft_judge.pipelines.seed_statistics import Mean, crossed_mean, describe_difference

PAGE, README = ROOT / "docs" / "results" / "mtbench.md", ROOT / "README.md"
FIGURES = ("log_loss", "accuracy", "accuracy_without_ties", "ece", "swap_agreement")
FREQUENCIES, LENGTH, GPT4 = "class frequencies", "logistic regression on the lengths", "GPT-4's published verdicts"
ZERO_SHOT, ZERO_SHOT_THERE = "zero-shot", "zero-shot, training questions"
CALIBRATED = "zero-shot, calibrated on the training questions"
IN_4_BITS, IN_8_BITS = QUANTIZED
BOTH, ONE = "hard labels, both orders", "hard labels, one order"
IN_README = (  # arms of the short table and their titles there
    (FREQUENCIES, "class frequencies"),
    (LENGTH, "logistic regression on the lengths"),
    (ZERO_SHOT, "SmolLM2 before training (zero-shot)"),
    ("plain TRL", "TRL `SFTTrainer` on completions A, B, tie"),
    (ONE, "**sft_judge, one order**"),
    (BOTH, "**sft_judge, both orders in a step**"),
    ("distilled from GPT-4's verdicts, one order", "**sft_judge, distilled from GPT-4's verdicts, one order**"),
    (IN_8_BITS, "**sft_judge, both orders, in 8 bits**"),
    (IN_4_BITS, "**sft_judge, both orders, in 4 bits**"),
    (GPT4, "GPT-4's published verdicts"),
)
ORDER = [FREQUENCIES, LENGTH, ZERO_SHOT, CALIBRATED, *ARMS, GPT4]  # order of rows in the table
QUESTIONS = {  # question: pairs of an arm and its reference
    "Does training beat what needs none?": [(BOTH, other) for other in (FREQUENCIES, LENGTH, ZERO_SHOT, CALIBRATED)],
    "Is the loss on the verdict alone better than TRL's on the completion?": [(ONE, "plain TRL")],
    "Is it better than pairjudge?": [(ONE, "pairjudge 0.3")],
    "What do 8 and 4 bits cost?": [(IN_8_BITS, BOTH), (IN_4_BITS, BOTH)],
    "Do both orders in one step beat one order?": [(BOTH, ONE), (BOTH, "hard labels, one order, two passes")],
    "Does distilling beat hard labels and label smoothing, at equal compute?": [
        ("distilled from GPT-4's verdicts, one order", ONE),
        ("distilled from GPT-4's verdicts, one order", "label smoothing, one order"),
        ("distilled from two teachers, one order", ONE),
        ("distilled from two teachers, one order", "label smoothing, one order"),
        ("label smoothing, one order", ONE),
    ],
}


@dataclass
class Arm:
    """Store probabilities `[N, 3]` by seed, those of each order `[N, 2, 3]` if known, and minutes of training."""

    probs: dict[int, np.ndarray]
    orders: dict[int, np.ndarray] | None = None
    minutes: float | None = None


class Votes:
    """Hold the held-out battles `[N]`, their verdicts, their questions as clusters, and the training battles."""

    def __init__(self, file: Path):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        folds = folds_of(rows)
        apart = [folds[row["meta"]["question_id"]] == HELD_OUT for row in rows]
        self.rows = [row for row, held in zip(rows, apart, strict=True) if held]
        self.train = [row for row, held in zip(rows, apart, strict=True) if not held]
        self.verdicts, self.trained_on = (
            np.array([VERDICTS.index(row["winner"]) for row in part]) for part in (self.rows, self.train)
        )
        self.clusters, self.train_clusters = (
            np.unique([row["meta"]["question_id"] for row in part], return_inverse=True)[1]
            for part in (self.rows, self.train)
        )

    def baselines(self) -> dict[str, Arm]:
        """Return class frequencies of the training questions, and a logistic regression on lengths."""
        frequencies = class_frequencies(self.trained_on, 3)
        model = LogisticRegression(C=1e6, max_iter=1000)
        there, here = (_length_features(rows) for rows in (self.train, self.rows))
        exchanged = np.array([1, 0, 2])[self.trained_on]  # exchanged responses, for symmetry
        model.fit(np.concatenate([there, there * [-1, 1]]), np.concatenate([self.trained_on, exchanged]))
        constant = np.tile(frequencies, (len(self.rows), 1))
        return {FREQUENCIES: Arm({0: constant}), LENGTH: Arm({0: model.predict_proba(here)})}

    def arms(self) -> dict[str, Arm]:
        """Return the arms that have results, with means over both orders."""
        found = {}
        for file in sorted(RESULTS.glob("*.json")):
            result = json.loads(file.read_text())
            rows = self.train if result["arm"] == ZERO_SHOT_THERE else self.rows
            orders = np.array([[result["probabilities"][row["id"]][order] for order in ORDERS] for row in rows])
            orders = np.maximum(orders, 1e-6)  # the stored probabilities are rounded
            orders /= orders.sum(axis=2, keepdims=True)
            arm = found.setdefault(result["arm"], Arm({}, {}))
            arm.probs[result["seed"]], arm.orders[result["seed"]] = orders.mean(axis=1), orders
            if result["arm"] in (*TRAINED, *RIVALS, *QUANTIZED):
                arm.minutes = result["seconds"]["train"] / 60
        if there := found.pop(ZERO_SHOT_THERE, None):
            nobody = np.full(len(self.train), None)
            held = HeldOut(there.probs[0], self.trained_on, self.train_clusters, nobody)
            calibration, languages = fit_vector(held), np.full(len(self.rows), None)
            scaled = apply_calibration(found[ZERO_SHOT].probs[0], calibration, languages)
            found[CALIBRATED] = Arm({0: scaled}, None)
        return found

    def losses(self, probs: np.ndarray) -> np.ndarray:
        """Return the log loss `[N]` of probabilities `[N, 3]`."""
        return cross_entropy(one_hot(self.verdicts, 3), probs)

    def right(self, probs: np.ndarray) -> np.ndarray:
        """Return for each battle `[N]` whether the most probable verdict is that of the votes."""
        return predicted_verdicts(probs)[np.arange(len(probs)), self.verdicts]

    def figures(self, arm: Arm) -> dict[str, dict]:
        """Return the mean of each of FIGURES over seeds, with an interval over questions and the seeds' deviation."""
        drawn = []
        for seed, probs in arm.probs.items():
            orders = arm.orders[seed] if arm.orders else None
            drawn.append(figures(resample(row_columns(probs, self.verdicts, orders), self.clusters)))
        found = {}
        for name in FIGURES:
            values = np.array([each[name] for each in drawn])  # [seeds, 1 + repeats]
            spread = float(values[:, 0].std(ddof=1)) if len(values) > 1 else None
            found[name] = interval(values.mean(axis=0), np.bincount(self.clusters)) | {"spread": spread}
        return found

    def gpt4(self) -> Arm:
        """Return GPT-4's verdicts as probabilities of 0 and 1, for which only the accuracy is meaningful."""
        return Arm({0: one_hot(np.array([VERDICTS.index(row["meta"]["judge_gpt4"]) for row in self.rows]), 3)})

    def difference(self, arm: Arm, reference: Arm, measure) -> Mean:
        """
        Return the mean difference of two arms over their common seeds.

        Args:
            arm: the arm.
            reference: the arm to subtract.
            measure: function from probabilities `[N, 3]` to values `[N]`.
        """
        seeds = [set(one.probs) for one in (arm, reference) if one.minutes] or [{0}]
        every = range(1 + max(map(max, seeds)))  # an arm without training is the same for every seed
        ours, theirs = (one.probs if one.minutes else dict.fromkeys(every, one.probs[0]) for one in (arm, reference))
        differences = [measure(ours[seed]) - measure(theirs[seed]) for seed in sorted(set.intersection(*seeds))]
        return crossed_mean(np.array(differences), self.clusters)


def _length_features(rows: list[dict]) -> np.ndarray:
    """Return features `[N, 2]`: the log ratio of the responses' lengths, and its absolute value."""
    table = battle_table([as_battle(row, 0) for row in rows])
    a, b = (text_lengths(table, name) for name in ("response_a", "response_b"))
    ratio = np.log((b + 1) / (a + 1))
    return np.stack([ratio, np.abs(ratio)], axis=1)


def table(votes: Votes, arms: dict[str, Arm]) -> list[str]:
    """Return the whole table, with a row per arm."""
    columns = ["", "seeds", "minutes", "log loss", "accuracy, %", "without ties, %", "ECE, %", "both orders agree, %"]
    rows = []
    for name, arm in arms.items():
        found = votes.figures(arm)
        cells = [cell(found["log_loss"], 3), *(cell(found[name], 1, 100) for name in FIGURES[1:])]
        if name == GPT4:
            cells[0] = cells[3] = "–"
        minutes = "–" if not arm.minutes else f"{arm.minutes:.0f}"
        rows.append([name, str(len(arm.probs)), minutes, *cells])
    return markdown(columns, rows)


def all_arms(votes: Votes) -> dict[str, Arm]:
    """Return the baselines, the arms whose results are stored, and GPT-4's verdicts, in the order of the table."""
    arms = votes.baselines() | votes.arms() | {GPT4: votes.gpt4()}
    return {name: arms[name] for name in sorted(arms, key=ORDER.index)}


def short_table(votes: Votes, arms: dict[str, Arm]) -> list[str]:
    """Return the table of the README: the arms of IN_README that have results."""
    rows = []
    for name, title in IN_README:
        if name in arms:
            found = votes.figures(arms[name])
            loss = "–" if name == GPT4 else cell(found["log_loss"], 3)
            accuracies = [cell(found[figure], 1, 100) for figure in ("accuracy", "accuracy_without_ties")]
            rows.append([title, str(len(arms[name].probs)) if arms[name].minutes else "–", loss, *accuracies])
    return markdown(["", "seeds", "log loss", "accuracy, %", "without ties, %"], rows)


def cell(figure: dict, digits: int, times: int = 1) -> str:
    """
    Format a metric as `1.076 [1.050, 1.107] ± 0.004`, or as a dash.

    Args:
        figure: value, interval and spread.
        digits: decimals to show.
        times: factor, such as 100 for percent.
    """
    if figure["value"] is None:
        return "–"
    shown = [f"{times * figure[name]:.{digits}f}" for name in ("value", "low", "high") if figure[name] is not None]
    spread = "" if figure["spread"] is None else f" ± {times * figure['spread']:.{digits}f}"
    return shown[0] + (f" [{shown[1]}, {shown[2]}]" if len(shown) == 3 else "") + spread


def answers(votes: Votes, arms: dict[str, Arm]) -> list[str]:
    """
    Return the questions with the paired differences that answer them.

    Args:
        votes: the battles.
        arms: the arms that have results.
    """
    lines = []
    for question, pairs in QUESTIONS.items():
        there = [(arm, reference) for arm, reference in pairs if arm in arms and reference in arms]
        if not there:
            continue
        rows = []
        for arm, reference in there:
            cells = [f"{arm} minus {reference}"]
            for measure, times, lower in ((votes.losses, 1, True), (votes.right, 100, False)):
                difference = votes.difference(arms[arm], arms[reference], measure)
                cells += [described(difference, times), verdict(difference, lower)]
            rows.append(cells)
        lines += [f"**{question}**", "", *markdown(["", "log loss", "", "accuracy, points", ""], rows), ""]
    return lines


def described(difference: Mean, times: int) -> str:
    """
    Format a difference as `-0.0123 [-0.0300, 0.0054], 3 seeds ± 0.0040`.

    Args:
        difference: the difference.
        times: factor, such as 100 for points.
    """
    digits = 4 if times == 1 else 1
    value, low, high = (f"{times * part:+.{digits}f}" for part in (difference.value, difference.low, difference.high))
    seeds = "" if difference.spread is None else f", {difference.seeds} seeds ± {times * difference.spread:.{digits}f}"
    return f"{value} [{low}, {high}]{seeds}"


def verdict(difference: Mean, lower_is_better: bool) -> str:
    """
    Return "better", "worse" or "unresolved".

    Args:
        difference: the difference.
        lower_is_better: True for a loss.
    """
    if abs(difference.value) < 2 * (difference.spread or 0):
        return "unresolved"
    seen = describe_difference(difference, not lower_is_better)
    return "unresolved" if seen == "no difference seen" else seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--votes", type=Path, help="file of the votes (mtbench_majority_q1to7.jsonl in SFT_JUDGE_DATA)"
    )
    options = parser.parse_args()
    file = options.votes or Path(os.environ.get("SFT_JUDGE_DATA", "")) / "mtbench_majority_q1to7.jsonl"
    if not file.is_file():
        parser.error(f"{file}: no such file of votes; give --votes or set SFT_JUDGE_DATA")
    votes = Votes(file)
    arms = all_arms(votes)
    blocks = (
        (PAGE, "table", table(votes, arms)),
        (PAGE, "answers", answers(votes, arms)),
        (README, "real votes", short_table(votes, arms)),
    )
    for page, name, lines in blocks:
        print(*lines, sep="\n")
        text = replaced(page.read_text(encoding="utf-8"), name, "\n".join([*lines, ""]))[0]
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
