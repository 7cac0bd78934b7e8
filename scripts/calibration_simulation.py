"""
Simulate what calibration costs a calibrated judge and gains a miscalibrated one: two Markdown tables, in minutes.

    python scripts/calibration_simulation.py [--draws 100] [--rows 10 30 100] [--seed 0]

A judge's logits are normal, with a scale that gives the desired accuracy. Verdicts are drawn from its probabilities.
The result is the expected log loss on new rows under the true probabilities, after calibration minus before, averaged
over draws of the held-out battles; a draw without a calibration counts as 0. Miscalibrated judges have scaled logits,
or an offset of the tie's logit, so that the right calibration gains GAIN nats.
"""

import argparse
import os
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.optimize import brentq
from scipy.special import softmax

from sft_judge.evaluation.calibration_fit import HeldOut, fit_best
from sft_judge.evaluation.metrics import cross_entropy
from sft_judge.modeling.temperature_scaling import apply_calibration, apply_scaling

ACCURACIES = (0.6, 0.8, 0.95, 0.99)
ROWS = (10, 30, 60, 100, 200, 500)
GAIN = 0.05  # nats, of miscalibrated judges
GAIN_ROWS = 200  # battles on which it is measured
FRESH_ROWS = 8000
MISTAKES = {"too bold": (-6, 0), "too meek": (0, 6), "ties too rare": (0, 9), "ties too frequent": (-9, 0)}


@dataclass
class Judge:
    """Represent a judge of K verdicts, whose mistake is undone by the temperature exp(x) or by the tie's offset x."""

    num: int
    accuracy: float
    mistake: str | None = None

    def __post_init__(self):
        self.scale = brentq(lambda scale: self._logits(scale).max(axis=1).mean() - self.accuracy, 1e-3, 1e3)
        self.fresh = self._logits(self.scale)
        self.size = 0.0
        if self.mistake:
            self.size = brentq(lambda x: self._gain(x) - GAIN, *MISTAKES[self.mistake])

    def _logits(self, scale: float) -> np.ndarray:
        return softmax(scale * np.random.default_rng(0).normal(size=(FRESH_ROWS, self.num)), axis=1)

    def _gain(self, size: float) -> float:
        said = self.says(self.fresh, size)
        return (cross_entropy(self.fresh, said) - cross_entropy(self.fresh, self.fresh)).mean()

    def says(self, truth: np.ndarray, size: float | None = None) -> np.ndarray:
        """
        Return the judge's probabilities `[N, K]`.

        Args:
            truth: true probabilities of the verdicts `[N, K]`.
            size: size of its mistake; by default that of the judge.
        """
        size = self.size if size is None else size
        if (self.mistake or "").startswith("ties"):
            return apply_scaling(truth, 1.0, 1.0, -size)
        return apply_scaling(truth, np.exp(size))

    def draw(self, rng, rows: int, rows_a_prompt: int = 1, languages: int = 1) -> HeldOut:
        """
        Draw held-out rows. One random number draws all verdicts of a prompt, so that its errors are correlated.

        Args:
            rng: random generator.
            rows: number of rows.
            rows_a_prompt: rows per prompt.
            languages: number of languages.
        """
        truth = softmax(self.scale * rng.normal(size=(rows, self.num)), axis=1)
        clusters, order = np.arange(rows) // rows_a_prompt, np.argsort(-truth, axis=1)
        below = rng.random(clusters[-1] + 1)[clusters, None] > np.take_along_axis(truth, order, axis=1).cumsum(axis=1)
        verdicts = order[np.arange(rows), below.sum(axis=1).clip(max=self.num - 1)]
        return HeldOut(self.says(truth), verdicts, clusters, language_names(rows, languages))

    def rise(self, calibration: dict | None, languages: int = 1) -> float:
        """
        Return the expected log loss on new rows, calibrated minus raw, in nats.

        Args:
            calibration: the calibration, or None for none.
            languages: number of languages.
        """
        raw = self.says(self.fresh)
        after = apply_calibration(raw, calibration, language_names(len(raw), languages))
        return float((cross_entropy(self.fresh, after) - cross_entropy(self.fresh, raw)).mean())


def language_names(rows: int, languages: int) -> np.ndarray:
    """
    Return the languages of rows `[N]`, in turns; None for each row if there is one language.

    Args:
        rows: number of rows.
        languages: number of languages.
    """
    return np.array([f"language {row % languages}" if languages > 1 else None for row in range(rows)], dtype=object)


def rises(judge: Judge, rows: int, form: str | None, draws: int, seed: int, **more) -> np.ndarray:
    """
    Return the rise of the log loss by calibration for each draw of held-out battles `[draws]`.

    Args:
        judge: the judge.
        rows: number of held-out battles.
        form: form of the calibration, or None to select it.
        draws: number of draws.
        seed: seed of the draws.

    Returns:
        The rises in nats; NaN if no calibration is kept.
    """
    found = np.full(draws, np.nan)
    for draw in range(draws):
        calibration = fit_best(judge.draw(np.random.default_rng([seed, draw]), rows, **more), form)[0]
        if calibration:
            found[draw] = judge.rise(calibration, more.get("languages", 1))
    return found


def mean_rise(found: np.ndarray) -> float:
    """Return the mean rise over draws; a draw without a calibration (NaN) counts as 0."""
    return float(np.nan_to_num(found).mean())


def settings(num: int) -> dict[str, tuple[dict, int]]:
    """Return for each line of the table how battles are drawn and fitted, and the smallest number of battles."""
    forms = {"automatic": None, "temperature": "temperature"} | ({"vector": "vector"} if num == 3 else {})
    lines = {name: ({"form": form}, 0) for name, form in forms.items()}
    for name in ("automatic", [*forms][-1]):
        lines[f"{name}, 5 dependent rows a prompt"] = {"form": forms[name], "rows_a_prompt": 5}, 150
    return lines | {"automatic, 2 languages": ({"form": None, "languages": 2}, 400)}


def print_harm(args) -> None:
    """Print the rise of the log loss of calibrated judges."""
    print(f"Calibrated judges: rise of the log loss in 1/1000 nats (share of {args.draws} draws kept)\n")
    print("| verdicts | accuracy | form | " + " | ".join(f"n = {rows}" for rows in args.rows) + " |")
    print("| --- " * (3 + len(args.rows)) + "|")
    for num in (2, 3):
        for accuracy in ACCURACIES:
            judge = Judge(num, accuracy)
            for name, (setting, least_rows) in settings(num).items():
                cells = []
                for rows in args.rows:
                    found = rises(judge, rows, draws=args.draws * (rows >= least_rows), seed=args.seed, **setting)
                    cells.append(
                        f"{1000 * mean_rise(found):.1f} ({np.isfinite(found).mean():.0%})" if len(found) else ""
                    )
                print(f"| {num} | {accuracy:.0%} | {name} | " + " | ".join(cells) + " |", flush=True)


def print_gains(args) -> None:
    """Print how much of GAIN nats miscalibrated judges gain."""
    print(
        f"\nJudges whose mistake costs {GAIN} nats: gain on {GAIN_ROWS} battles (share of {args.draws} draws kept)\n"
    )
    print("| verdicts | accuracy | mistake | automatic |\n| --- | --- | --- | --- |")
    for num in (2, 3):
        for accuracy in ACCURACIES:
            for mistake in [*MISTAKES][: 4 if num == 3 else 2]:
                try:
                    judge = Judge(num, accuracy, mistake)
                except ValueError:  # brentq: even equal probabilities do not cost as much
                    print(f"| {num} | {accuracy:.0%} | {mistake} | cannot cost as much |")
                    continue
                found = rises(judge, GAIN_ROWS, None, args.draws, args.seed)
                cell = f"{-mean_rise(found):.4f} ({np.isfinite(found).mean():.0%})"
                print(f"| {num} | {accuracy:.0%} | {mistake} | {cell} |", flush=True)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=100, help="number of draws of the held-out battles (100)")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="numbers of held-out battles")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws (0)")
    args = parser.parse_args(words)
    print_harm(args)
    print_gains(args)


if __name__ == "__main__":
    main()
