"""
Search for the smallest quantisation of a judge without loss of quality: a sweep over settings, and its choice.

"Without loss" is a statement of non-inferiority: the whole 95 % interval of the paired difference from the unquantised
judge must lie within a margin. An interval that merely contains zero is not enough.
"""

from sft_judge.core.errors import GateError
from sft_judge.pipelines.sweep import Sweep
from sft_judge.pipelines.sweep_report import Scores


def is_no_worse(scores: Scores, trial: str, reference: str, seeds: list[int], margin: float) -> bool:
    """
    Return True if the interval of the trial's difference from the reference is no worse than `margin`.

    Args:
        scores: scores of the sweep.
        trial: name of the trial.
        reference: name of the reference.
        seeds: seeds to compare on.
        margin: allowed loss, in units of the sweep's measure.
    """
    difference = scores.difference(trial, reference, seeds)
    if difference is None:
        return False
    return difference.low >= -margin if scores.measure == "accuracy" else difference.high <= margin


def find_cheapest(sweep: Sweep, scores: Scores, margin: float) -> str:
    """
    Return the smallest trial that is no worse than the reference; among equally small trials, the fastest to make.

    Args:
        sweep: the sweep.
        scores: its scores.
        margin: allowed loss, in units of the sweep's measure.

    Raises:
        GateError: no trial is certainly no worse.
    """
    (reference,) = sweep.references
    trials = [trial for trial in sweep.trials if trial != reference and (trial, sweep.seeds[0]) in scores.costs]
    able = [trial for trial in trials if is_no_worse(scores, trial, reference, sweep.seeds, margin)]
    if not able:
        raise GateError(
            f"None of {len(trials)} settings is certainly no worse than {reference} by {margin}. Use more battles or "
            "more seeds, or a setting with more bits. The table is next to the output."
        )
    return min(able, key=lambda trial: (scores.cost(trial, "megabytes"), scores.cost(trial, "seconds_to_make")))
