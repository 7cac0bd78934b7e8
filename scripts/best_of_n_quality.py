"""
Measure the quality of the candidates that each method of `sft-judge best-of-n` selects, as a table for LOG.md.

    OMP_NUM_THREADS=1 python scripts/best_of_n_quality.py 2000

The qualities of candidates are standard normal. For each battle, the judge sees the difference of two qualities with
normal noise of standard deviation 0.5, and predicts its logistic function (Bradley-Terry). Regret is the quality of
the best candidate minus that of the selected one.
"""

import argparse
from types import SimpleNamespace

import numpy as np

from sft_judge.inference.tournaments import Contest, num_battles

NOISE = 0.5


def pick(method: str, qualities: np.ndarray, rng: np.random.Generator) -> int:
    """
    Run a contest, and return the index of the selected candidate.

    Args:
        method: method of `best-of-n`.
        qualities: qualities of the candidates `[n]`.
        rng: generator of the judge's noise.
    """
    contest = Contest(len(qualities), method)
    while due := contest.due():
        for one, two in due:
            difference = qualities[one] - qualities[two] + NOISE * rng.normal()
            probability = 1 / (1 + np.exp(-difference))
            contest.judged[one, two] = SimpleNamespace(a=probability, b=1 - probability, tie=0.0)
    return contest.standing(list(range(len(qualities))))["best"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", type=int, help="number of prompts")
    prompts = parser.parse_args().prompts
    print("| candidates | method | battles | best one selected | mean regret |\n| --- | --- | --- | --- | --- |")
    for num in (4, 8, 9, 16, 17, 32):
        for method in ("round-robin", "knockout", "anchor"):
            rng = np.random.default_rng(num)
            qualities = rng.normal(size=(prompts, num))
            picks = np.array([pick(method, row, rng) for row in qualities])
            regret = qualities.max(axis=1) - qualities[np.arange(prompts), picks]
            cells = (
                num,
                method,
                num_battles(method, num),
                f"{100 * np.mean(regret == 0):.1f} %",
                f"{regret.mean():.3f}",
            )
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
