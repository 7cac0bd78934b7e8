"""
What calibrating costs a judge that is right and gains one that is not: two Markdown tables, in a few minutes.

    python scripts/calibration_simulation.py [--draws 100] [--rows 10 30 100] [--seed 0]

A judge's logits are normal, of a scale that makes its most probable verdict right as often as wanted; verdicts are
drawn from its probabilities. The log loss is that expected of fresh rows by the true probabilities, after calibrating
less before, averaged over draws of the held-out battles; a draw without a calibration counts as 0. Judges that are not
right have logits that are scaled, or an offset of the tie's, such that undoing it gains GAIN nats.
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
GAIN = 0.05  # nats, of the judges that are not right
GAIN_ROWS = 200  # that it is looked for on
FRESH_ROWS = 8000
MISTAKES = {"too bold": (-6, 0), "too meek": (0, 6), "ties too rare": (0, 9), "ties too frequent": (-9, 0)}


@dataclass
class Judge:
    """A judge of K verdicts; what is wrong with it is undone by the temperature exp(x), or by the tie's offset x."""

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
        """What the judge says where `truth` [N, K] are the probabilities of the verdicts."""
        size = self.size if size is None else size
        if (self.mistake or "").startswith("ties"):
            return apply_scaling(truth, 1.0, 1.0, -size)
        return apply_scaling(truth, np.exp(size))

    def draw(self, rng, rows: int, rows_a_prompt: int = 1, languages: int = 1) -> HeldOut:
        """Held-out rows. One number draws all verdicts of a prompt, so that its errors come together."""
        truth = softmax(self.scale * rng.normal(size=(rows, self.num)), axis=1)
        clusters, order = np.arange(rows) // rows_a_prompt, np.argsort(-truth, axis=1)
        below = rng.random(clusters[-1] + 1)[clusters, None] > np.take_along_axis(truth, order, axis=1).cumsum(axis=1)
        verdicts = order[np.arange(rows), below.sum(axis=1).clip(max=self.num - 1)]
        return HeldOut(self.says(truth), verdicts, clusters, language_names(rows, languages))

    def rise(self, calibration: dict | None, languages: int = 1) -> float:
        """The log loss that is expected of fresh rows, calibrated less raw."""
        raw = self.says(self.fresh)
        after = apply_calibration(raw, calibration, language_names(len(raw), languages))
        return float((cross_entropy(self.fresh, after) - cross_entropy(self.fresh, raw)).mean())


def language_names(rows: int, languages: int) -> np.ndarray:
    """The languages of rows [N] in turns; None where there is but one."""
    return np.array([f"language {row % languages}" if languages > 1 else None for row in range(rows)], dtype=object)


def rises(judge: Judge, rows: int, form: str | None, draws: int, seed: int, **more) -> np.ndarray:
    """The rise of the log loss by calibrating on each draw of `rows` held-out battles [draws]; NaN: none is kept."""
    found = np.full(draws, np.nan)
    for draw in range(draws):
        calibration = fit_best(judge.draw(np.random.default_rng([seed, draw]), rows, **more), form)[0]
        if calibration:
            found[draw] = judge.rise(calibration, more.get("languages", 1))
    return found


def mean_rise(found: np.ndarray) -> float:
    """The mean over draws; one without a calibration counts as 0."""
    return float(np.nan_to_num(found).mean())


def settings(num: int) -> dict[str, tuple[dict, int]]:
    """How held-out battles are drawn and fitted, by the name of a line of the table, and from how many battles on."""
    forms = {"automatic": None, "temperature": "temperature"} | ({"vector": "vector"} if num == 3 else {})
    lines = {name: ({"form": form}, 0) for name, form in forms.items()}
    for name in ("automatic", [*forms][-1]):
        lines[f"{name}, 5 dependent rows a prompt"] = {"form": forms[name], "rows_a_prompt": 5}, 150
    return lines | {"automatic, 2 languages": ({"form": None, "languages": 2}, 400)}


def print_harm(args) -> None:
    """Print the rise of the log loss of judges that are right."""
    print(f"Judges that are right: rise of the log loss in 1/1000 nats (share of {args.draws} draws kept)\n")
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
    """Print what is gained of GAIN nats by judges that are not right."""
    print(
        f"\nJudges whose mistake costs {GAIN} nats: gain on {GAIN_ROWS} battles (share of {args.draws} draws kept)\n"
    )
    print("| verdicts | accuracy | mistake | automatic |\n| --- | --- | --- | --- |")
    for num in (2, 3):
        for accuracy in ACCURACIES:
            for mistake in [*MISTAKES][: 4 if num == 3 else 2]:
                try:
                    judge = Judge(num, accuracy, mistake)
                except ValueError:  # brentq: equal probabilities are no further from the right ones than that
                    print(f"| {num} | {accuracy:.0%} | {mistake} | cannot cost as much |")
                    continue
                found = rises(judge, GAIN_ROWS, None, args.draws, args.seed)
                cell = f"{-mean_rise(found):.4f} ({np.isfinite(found).mean():.0%})"
                print(f"| {num} | {accuracy:.0%} | {mistake} | {cell} |", flush=True)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=100, help="of the held-out battles (100)")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="held-out battles")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(words)
    print_harm(args)
    print_gains(args)


if __name__ == "__main__":
    main()
