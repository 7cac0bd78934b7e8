"""
Measure how often the 95 % intervals of `sft-judge rank` contain the true strengths, on simulated votes.

    python scripts/rank_coverage.py 400
    python scripts/rank_coverage.py 20 sparse
    python scripts/rank_coverage.py 1000 style

Votes on six models are drawn from Davidson's model; the intervals are those of differences from the models' mean. If
votes on one prompt are correlated, the strength of each model on a prompt has a normal deviate of standard deviation
0.8, and the true strengths are those of a fit over very many prompts.

`sparse`: many models with few battles each; the shares of ratings and intervals that are shown, with and without
control of length (differences from the mean weighted by battles, as `rank` takes it for draws). `style`: a feature in
some of 500 prompts with an effect of 0.3, per standard deviation (as `rank` prints it) or between a response with all
of it and a response with none.
"""

import argparse
import itertools

import numpy as np

from sft_judge.data.style import standardise
from sft_judge.data.synthetic.preference_model import davidson
from sft_judge.ranking.bradley_terry import design_matrix, fit
from sft_judge.ranking.comparisons import Contests
from sft_judge.ranking.rating_draws import parameter_draws
from sft_judge.ranking.ratings import ELO, rate_models, split_off

STRENGTHS, SLOPE = np.array([1.0, 0.6, 0.2, -0.2, -0.6, -1.0]), 0.5
CASES = {  # battles, battles per prompt, spread of a model over prompts, tie parameter, fit a slope
    "1,200 battles": (1200, 1, 0.0, 0.7, False),
    "120 battles": (120, 1, 0.0, 0.7, False),
    "no ties": (1200, 1, 0.0, 0.0, False),
    "15 votes a prompt": (1200, 15, 0.8, 0.7, False),
    "length held equal": (1200, 1, 0.0, 0.7, True),
}


def draw(rng: np.random.Generator, rows: int, a_prompt: int, spread: float, nu: float, slope: bool) -> Contests:
    """
    Draw contests from Davidson's model.

    Args:
        rng: random generator.
        rows: number of battles.
        a_prompt: battles per prompt.
        spread: standard deviation of a model's strength over prompts.
        nu: tie parameter.
        slope: add a feature with a slope.
    """
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
    """Return the strengths `[D, 6]` in `parameters`, minus their mean."""
    strengths = parameters[:, : len(STRENGTHS)]
    return strengths - strengths.mean(axis=1, keepdims=True)


def vote(rng: np.random.Generator, strengths: np.ndarray, features: np.ndarray, effect: float) -> Contests:
    """
    Draw contests with one battle per prompt.

    Args:
        rng: random generator.
        strengths: strengths of the models.
        features: features of the battles `[N, F]`.
        effect: coefficient of each feature.
    """
    rows, size = len(features), len(strengths)
    first = rng.integers(size, size=rows)
    sides = np.stack([first, (first + rng.integers(1, size, size=rows)) % size], axis=1)
    utilities = strengths[sides]
    utilities[:, 0] += effect * features.sum(axis=1)
    verdicts = np.minimum((rng.random((rows, 1)) > davidson(utilities, 0.7).cumsum(axis=1)).sum(axis=1), 2)
    names = [f"{place}" for place in range(size)]
    controls = ["feature"] * features.shape[1]
    return Contests(names, sides, np.eye(3)[verdicts], np.arange(rows), standardise(features), controls)


def print_sparse(num: int) -> None:
    """Print per case the numbers of ratings and intervals, and the coverage of the intervals, over `num` draws."""
    for (size, rows), slope in itertools.product(((100, 150), (20, 60), (6, 30)), (0, 1)):
        ranked, held = 0, []
        for seed in range(num):
            rng = np.random.default_rng(seed)
            strengths = rng.normal(scale=0.7, size=size)
            contests = split_off(vote(rng, strengths, rng.uniform(-1, 1, size=(rows, slope)), SLOPE))[0]
            found = rate_models(contests, "davidson", seed=seed)["models"]
            truth = ELO * np.array([strengths[int(row["model"])] for row in found])
            known = np.array([row["rating"]["low"] is not None for row in found])
            values = np.array([row["rating"]["value"] for row in found])[known].astype(float)
            weights = np.array([row["battles"] for row in found])[known]
            truth[known] += np.average(values - truth[known], weights=weights)
            ends = [(found[place]["rating"]["low"], found[place]["rating"]["high"]) for place in np.flatnonzero(known)]
            held += [low <= one <= high for (low, high), one in zip(ends, truth[known], strict=True)]
            ranked += len(found)
        print(
            f"{size:>3} models, {rows:>3} battles, {'length held equal' if slope else '':<17} of {num * size} models "
            f"{ranked} are ranked, {len(held)} with an interval; {100 * np.mean(held):.1f} % of these hold the truth",
            flush=True,
        )


def print_style(num: int) -> None:
    """Print per share of prompts how often an effect is shown, and the coverage of its interval, over `num` draws."""
    for unit in ("a standard deviation", "all against none"):
        for share in (0.01, 0.02, 0.05, 0.2, 1.0):
            held = []
            for seed in range(num):
                rng = np.random.default_rng(seed)
                features = np.zeros((500, 1))
                shown = rng.choice(500, round(500 * share), replace=False)
                features[shown, 0] = rng.choice([-1, 1], len(shown)) * rng.uniform(0.2, 1, len(shown))
                scale = 1.0 if unit == "all against none" else 1 / np.sqrt((features**2).mean())
                contests = split_off(vote(rng, STRENGTHS, features, 0.3 * scale))[0]
                found = rate_models(contests, "davidson", seed=seed)["controls"][0]["coefficient"]
                truth = 0.3 * scale * np.sqrt((features**2).mean())
                held += [found["low"] <= truth <= found["high"]] if found["value"] is not None else []
            told = f"{100 * np.mean(held):.1f} % of these hold it" if held else "–"
            print(
                f"0.3 {unit:<20} in {100 * share:>3.0f} % of 500 prompts: shown {len(held):>4} of {num}; {told}",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("simulations", type=int, help="number of draws per case")
    parser.add_argument(
        "table", nargs="?", choices=("ratings", "sparse", "style"), default="ratings", help="table to print (ratings)"
    )
    args = parser.parse_args()
    {"ratings": print_ratings, "sparse": print_sparse, "style": print_style}[args.table](args.simulations)


def print_ratings(num: int) -> None:
    """Print the coverage of each of CASES over `num` draws."""
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
