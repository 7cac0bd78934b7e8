"""
The cheapest way to quantise a judge that costs it nothing: a sweep over settings, and the choice that it supports.

"Costs nothing" is a statement of non-inferiority: the whole 95 % interval of the paired difference from the
unquantised judge lies within a margin, not merely over zero.
"""

from sft_judge.core.errors import GateError
from sft_judge.pipelines.sweep import Sweep
from sft_judge.pipelines.sweep_report import Scores


def is_no_worse(scores: Scores, trial: str, reference: str, seeds: list[int], margin: float) -> bool:
    """Whether the trial's difference from the reference is certainly no worse than `margin`, allowing for chance."""
    difference = scores.difference(trial, reference, seeds)
    if difference is None:
        return False
    return difference.low >= -margin if scores.measure == "accuracy" else difference.high <= margin


def find_cheapest(sweep: Sweep, scores: Scores, margin: float) -> str:
    """The trial that is no worse and smallest; of those as small, the quickest made. Raises `GateError` for none."""
    (reference,) = sweep.references
    trials = [trial for trial in sweep.trials if trial != reference and (trial, sweep.seeds[0]) in scores.costs]
    able = [trial for trial in trials if is_no_worse(scores, trial, reference, sweep.seeds, margin)]
    if not able:
        raise GateError(
            f"None of {len(trials)} settings is certainly no worse than {reference} by {margin}: more battles or more "
            "seeds may tell, or a heavier setting helps. The table stands beside the output."
        )
    return min(able, key=lambda trial: (scores.cost(trial, "megabytes"), scores.cost(trial, "seconds_to_make")))
