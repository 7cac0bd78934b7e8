"""
Measure how often a sweep reports a winner if no trial is better than the reference: nominally 2.5 % (one-sided).

    OMP_NUM_THREADS=1 python scripts/sweep_false_winners.py 1000

The log loss of a trial, seed and battle is a sum of normal deviates: of the battle (standard deviation 0.5), of trial
and battle, shared by all seeds (0.15), of trial and seed (the column `SD of seeds`), and of all three (0.05). There is
one battle per prompt and three seeds, and three more seeds for `fresh seeds`.
"""

import argparse
from pathlib import Path

import numpy as np

from sft_judge.pipelines.sweep import Sweep
from sft_judge.pipelines.sweep_report import Scores, choose_trials, confirm_winner

SEEDS, FRESH = [1, 2, 3], [4, 5, 6]


def draw_scores(rng: np.random.Generator, trials: list[str], num_battles: int, spread: float) -> Scores:
    """
    Draw scores of equally good trials.

    Args:
        rng: random generator.
        trials: names of the trials.
        num_battles: number of battles.
        spread: standard deviation of trial and seed.
    """
    scores = Scores("log_loss")
    scores.clusters = np.arange(num_battles)
    battle = 0.7 + 0.5 * rng.normal(size=num_battles)
    for trial in trials:
        of_trial = battle + 0.15 * rng.normal(size=num_battles)
        for seed in SEEDS + FRESH:
            noise = spread * rng.normal() + 0.05 * rng.normal(size=num_battles)
            scores.values[trial, seed] = of_trial + noise
    return scores


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("simulations", type=int, help="number of draws per line")
    num = parser.parse_args().simulations
    print("| trials | battles | SD of seeds | fresh seeds | looked at (Bonferroni) |\n| --- | --- | --- | --- | --- |")
    for num_trials, num_battles in ((1, 400), (4, 400), (16, 400), (16, 2000)):
        for spread in (0.0, 0.002, 0.01):
            trials = ["reference", *(f"trial {place}" for place in range(num_trials))]
            won = []
            for seed in range(num):
                scores = draw_scores(np.random.default_rng(seed), trials, num_battles, spread)
                won.append([])
                for confirm in (FRESH, []):
                    settings = dict.fromkeys(trials, {})
                    sweep = Sweep(Path("sweep.yaml"), {}, settings, trials[:1], SEEDS, confirm, "log_loss", {})
                    verdict = confirm_winner(sweep, scores, *choose_trials(sweep, scores))["verdict"]
                    won[-1].append("is better than" in verdict)
            rates = (f"{100 * rate:.1f} %" for rate in np.mean(won, axis=0))
            print(f"| {num_trials} | {num_battles} | {spread} | {' | '.join(rates)} |", flush=True)


if __name__ == "__main__":
    main()
