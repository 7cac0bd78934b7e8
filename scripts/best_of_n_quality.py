"""
How good the candidate is that `sft-judge best-of-n` picks, by method: a table for LOG.md.

    OMP_NUM_THREADS=1 python scripts/best_of_n_quality.py 2000

Candidates' qualities are standard normal. The judge sees the difference of two with normal noise of standard deviation
0.5 for each battle, and says the logistic function of that (Bradley-Terry). Regret is what the pick's quality lacks of
the best one's.
"""

import argparse
from types import SimpleNamespace

import numpy as np

from sft_judge.ranking.tournaments import Contest, num_battles

NOISE = 0.5


def pick(method: str, qualities: np.ndarray, rng: np.random.Generator) -> int:
    """The candidate that a contest among these qualities [n] finds."""
    contest = Contest(len(qualities), method)
    while due := contest.due():
        for one, two in due:
            difference = qualities[one] - qualities[two] + NOISE * rng.normal()
            probability = 1 / (1 + np.exp(-difference))
            contest.judged[one, two] = SimpleNamespace(a=probability, b=1 - probability, tie=0.0)
    return contest.standing(list(range(len(qualities))))["best"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", type=int)
    prompts = parser.parse_args().prompts
    print("| candidates | method | battles | best one picked | mean regret |\n| --- | --- | --- | --- | --- |")
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
