"""
Measure the coverage of the 95 % intervals of `evaluate`: `python scripts/coverage.py [repeats]`.

The first table is for accuracies from 0.5 to 0.99 on few prompts, whose rows are judged independently, in part
together, or all together: the minimum and the mean coverage over accuracies. The second is for every metric.

Battles are synthetic and without text, with 400 prompts of three rows each. The preference model gives the
probabilities of the verdicts. Two judges of different quality have errors per prompt and per row. The true value of a
metric is taken from all repeats together (2.4 million rows with 2,000 repeats). ece is excluded, as its bins and its
bias depend on the rows; a test checks that its lower end is zero for a calibrated judge.
"""

import os
import sys
from concurrent.futures import ProcessPoolExecutor

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes of one thread each

import numpy as np

from sft_judge.data.share_interval import share_interval
from sft_judge.data.synthetic.preference_model import (
    draw_frames,
    draw_qualities,
    fit_preference_model,
    preset_settings,
)
from sft_judge.evaluation.bootstrap import interval, resample
from sft_judge.evaluation.metrics import figure_intervals, figures, row_columns

PROMPTS, ROWS_A_PROMPT = 400, 3
ERRORS = {"fair": (0.5, 0.5), "poor": (0.7, 0.9)}  # standard deviations of logits, by prompt and by row
SETTINGS = preset_settings("easy")
ACCURACIES = (*np.arange(0.5, 0.95, 0.05).round(2), 0.95, 0.96, 0.97, 0.98, 0.99)
LAW = fit_preference_model(SETTINGS, "train")


def one_repeat(seed: int) -> tuple[dict, dict]:
    """Return the intervals of all metrics in one repeat, and the metrics themselves, for the true values."""
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(PROMPTS), ROWS_A_PROMPT)
    frames = [values[clusters] for values in draw_frames(rng, PROMPTS, SETTINGS)]
    truth = LAW.probabilities(draw_qualities(rng, *frames, SETTINGS))
    verdicts = (rng.random(len(truth))[:, None] > truth.cumsum(axis=1)).sum(axis=1).clip(max=2)
    drawn = {name: _judged(rng, truth, verdicts, clusters, seed, *spread) for name, spread in ERRORS.items()}
    ends = {
        (name, key): found
        for name, draws in drawn.items()
        for key, found in figure_intervals(draws).items()
        if key != "ece"
    }
    values = {name: found["value"] for name, found in ends.items()}
    both = [figures(draws) for draws in drawn.values()]
    of_prompts = [figures(draws.of_prompts)["accuracy"] for draws in drawn.values()]
    rows = drawn["fair"].of_prompts["n"]
    over = {"log_loss": None, "accuracy": (of_prompts[0] - of_prompts[1]) * rows}
    for key, difference in over.items():
        delta = interval(both[0][key] - both[1][key], rows, difference, difference=True)
        ends["fair - poor", key], values["fair - poor", key] = delta, delta["value"]
    return ends, values


def accuracy_coverage(prompts: int, rows: int, together: float, repeats: int) -> list[float]:
    """
    Return the coverage of an accuracy's interval at each of ACCURACIES.

    Args:
        prompts: number of prompts.
        rows: rows per prompt.
        together: share of prompts whose rows are all right or all wrong.
        repeats: draws at each accuracy.
    """
    rng, found = np.random.default_rng(0), []
    for accuracy in ACCURACIES:
        as_one = rng.random((repeats, prompts)) < together
        one = rows * (rng.random((repeats, prompts)) < accuracy)
        right = np.where(as_one, one, rng.binomial(rows, accuracy, (repeats, prompts))).astype(float)
        ends = np.array([share_interval(each, np.full(prompts, float(rows))) for each in right])
        found.append(float(np.mean((ends[:, 0] <= accuracy) & (accuracy <= ends[:, 1]))))
    return found


def _judged(rng, truth, verdicts, clusters, seed, by_prompt, by_row) -> dict:
    shape = (2, *truth.shape)  # in each order
    noise = rng.normal(0, by_prompt, (PROMPTS, 3))[clusters] + rng.normal(0, by_row, shape)
    logits = np.log(truth) + noise + np.array([[0.2, 0, 0], [0, 0.2, 0]])[:, None]  # favours the first response
    orders = np.exp(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)).swapaxes(0, 1)
    return resample(row_columns(orders.mean(axis=1), verdicts, orders), clusters, seed=seed)


def main(repeats: int = 2000) -> None:
    print("accuracies of 0.5 to 0.99: coverage in percent, minimum and mean")
    for prompts in (50, 100, 200):
        for rows, together in ((1, 0.0), (4, 0.0), (4, 0.3), (4, 1.0)):
            found = accuracy_coverage(prompts, rows, together, repeats)
            about = f"{prompts} prompts x {rows} rows, {100 * together:.0f} % of the prompts judged together"
            print(f"  {about:48} {100 * min(found):5.1f} {100 * np.mean(found):5.1f}", flush=True)
    with ProcessPoolExecutor(2) as pool:
        found = list(pool.map(one_repeat, range(repeats), chunksize=20))
    print(f"{repeats} repeats of {PROMPTS} prompts x {ROWS_A_PROMPT} rows; coverage of the 95 % intervals, in percent")
    for name in found[0][0]:
        true = np.mean([values[name] for _, values in found])
        covered = np.mean([ends[name]["low"] <= true <= ends[name]["high"] for ends, _ in found])
        print(f"  {name[0]:12} {name[1]:24} {100 * covered:5.1f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
