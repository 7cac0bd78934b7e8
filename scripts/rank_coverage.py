"""
How often the 95 % intervals of `sft-judge rank` hold the strengths that votes were drawn from.

    python scripts/rank_coverage.py 400

Six models, Davidson's law; the intervals are those of the differences from the models' mean. Where votes on one prompt
agree more than others do, each model is better or worse on a prompt by a normal deviate of standard deviation 0.8, and
the truth is what the fit comes to over very many prompts.
"""

import argparse

import numpy as np

from sft_judge.data.synthetic.preference_model import davidson
from sft_judge.ranking.bradley_terry import design_matrix, fit
from sft_judge.ranking.comparisons import Contests
from sft_judge.ranking.rating_draws import parameter_draws

STRENGTHS, SLOPE = np.array([1.0, 0.6, 0.2, -0.2, -0.6, -1.0]), 0.5
CASES = {  # battles, battles a prompt, spread of a model over prompts, tie parameter, whether a slope is fitted
    "1,200 battles": (1200, 1, 0.0, 0.7, False),
    "120 battles": (120, 1, 0.0, 0.7, False),
    "no ties": (1200, 1, 0.0, 0.0, False),
    "15 votes a prompt": (1200, 15, 0.8, 0.7, False),
    "length held equal": (1200, 1, 0.0, 0.7, True),
}


def draw(rng: np.random.Generator, rows: int, a_prompt: int, spread: float, nu: float, slope: bool) -> Contests:
    """Contests whose verdicts follow the law."""
    size = len(STRENGTHS)
    first = rng.integers(size, size=rows)
    sides = np.stack([first, (first + rng.integers(1, size, size=rows)) % size], axis=1)
    clusters = np.arange(rows) // a_prompt
    of_prompt = STRENGTHS + spread * rng.normal(size=(clusters[-1] + 1, size))
    utilities = of_prompt[clusters[:, None], sides]
    features = rng.normal(size=(rows, int(slope)))
    utilities[:, 0] += SLOPE * features.sum(axis=1)
    verdicts = np.minimum((rng.random((rows, 1)) > davidson(utilities, nu).cumsum(axis=1)).sum(axis=1), 2)
    return Contests([*"ABCDEF"], sides, np.eye(3)[verdicts], clusters, features, ["length"] * int(slope))


def centred(parameters: np.ndarray) -> np.ndarray:
    """Strengths [D, 6] of parameters, less their mean."""
    strengths = parameters[:, : len(STRENGTHS)]
    return strengths - strengths.mean(axis=1, keepdims=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("simulations", type=int)
    num = parser.parse_args().simulations
    for name, (rows, a_prompt, spread, nu, slope) in CASES.items():
        large = draw(np.random.default_rng(0), 1_000_000, a_prompt, spread, nu, slope)
        whole = fit(design_matrix(large.sides, len(STRENGTHS), large.features), large.counts[None], nu > 0)
        truth = centred(whole)[0] if spread else STRENGTHS
        held, naive = [], []
        for seed in range(1, num + 1):
            contests = draw(np.random.default_rng(seed), rows, a_prompt, spread, nu, slope)
            taken = [(held, contests.clusters)] + ([(naive, np.arange(rows))] if a_prompt > 1 else [])
            for found, clusters in taken:
                contests.clusters = clusters
                draws = centred(parameter_draws(contests, nu > 0, repeats=400, seed=seed))[1:]
                low, high = np.percentile(draws, [2.5, 97.5], axis=0)
                found.append((low <= truth) & (truth <= high))
        line = f"{name:<20} {100 * np.mean(held):.1f} % of {num} x {len(truth)} intervals"
        print(
            line + (f" (votes taken for independent: {100 * np.mean(naive):.1f} %)" if a_prompt > 1 else ""),
            flush=True,
        )


if __name__ == "__main__":
    main()
