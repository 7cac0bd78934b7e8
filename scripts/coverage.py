"""
How often the 95 % intervals of `evaluate` hold the figure that they are of: `python scripts/coverage.py [repeats]`.

Synthetic battles without their text, 400 prompts of three rows each: the preference model says how likely each
verdict is; two judges of unlike quality err on whole prompts and on single rows. What a figure truly is is taken from
all repeats together (2.4 million rows with 2,000 repeats). ece is left out, as its bins and what noise adds to them
depend on the rows; a test holds its low end to zero for a judge that knows what it knows.
"""

import os
import sys
from concurrent.futures import ProcessPoolExecutor

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes of one thread each

import numpy as np

from sft_judge.data.synthetic.preference_model import (
    draw_frames,
    draw_qualities,
    fit_preference_model,
    preset_settings,
)
from sft_judge.evaluation.bootstrap import interval, resample
from sft_judge.evaluation.metrics import figures, row_columns

PROMPTS, ROWS_A_PROMPT = 400, 3
ERRORS = {"fair": (0.5, 0.5), "poor": (0.7, 0.9)}  # standard deviations of logits, by prompt and by row
SETTINGS = preset_settings("easy")
LAW = fit_preference_model(SETTINGS, "train")


def one_repeat(seed: int) -> tuple[dict, dict]:
    """The figures' intervals and, for their true values, the figures themselves."""
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(PROMPTS), ROWS_A_PROMPT)
    frames = [values[clusters] for values in draw_frames(rng, PROMPTS, SETTINGS)]
    truth = LAW.probabilities(draw_qualities(rng, *frames, SETTINGS))
    verdicts = (rng.random(len(truth))[:, None] > truth.cumsum(axis=1)).sum(axis=1).clip(max=2)
    draws = {name: figures(_judged(rng, truth, verdicts, clusters, seed, *spread)) for name, spread in ERRORS.items()}
    draws = {(name, key): values for name, found in draws.items() for key, values in found.items() if key != "ece"}
    for key in ("log_loss", "accuracy"):
        draws["fair - poor", key] = draws["fair", key] - draws["poor", key]
    return {name: interval(values) for name, values in draws.items()}, {name: v[0] for name, v in draws.items()}


def _judged(rng, truth, verdicts, clusters, seed, by_prompt, by_row) -> dict:
    shape = (2, *truth.shape)  # in each order
    noise = rng.normal(0, by_prompt, (PROMPTS, 3))[clusters] + rng.normal(0, by_row, shape)
    logits = np.log(truth) + noise + np.array([[0.2, 0, 0], [0, 0.2, 0]])[:, None]  # who stands first gains a little
    orders = np.exp(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)).swapaxes(0, 1)
    return resample(row_columns(orders.mean(axis=1), verdicts, orders), clusters, seed=seed)


def main(repeats: int = 2000) -> None:
    with ProcessPoolExecutor(2) as pool:
        found = list(pool.map(one_repeat, range(repeats), chunksize=20))
    print(f"{repeats} repeats of {PROMPTS} prompts x {ROWS_A_PROMPT} rows; coverage of the 95 % intervals, in percent")
    for name in found[0][0]:
        true = np.mean([values[name] for _, values in found])
        covered = np.mean([ends[name]["low"] <= true <= ends[name]["high"] for ends, _ in found])
        print(f"  {name[0]:12} {name[1]:24} {100 * covered:5.1f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
