"""
The cheapest way to quantise a judge that costs it nothing: a sweep over settings, and the choice that it supports.

"Costs nothing" is a statement of non-inferiority: the whole 95 % interval of the paired difference from the
unquantised judge lies within a margin, not merely over zero.
"""

from sft_judge.core.errors import GateError
from sft_judge.pipelines.sweep import Sweep
from sft_judge.pipelines.sweep_report import Scores


def is_no_worse(scores: Scores, cell: str, reference: str, seeds: list[int], margin: float) -> bool:
    """Whether the cell's difference from the reference is certainly no worse than `margin`, allowing for chance."""
    difference = scores.difference(cell, reference, seeds)
    if difference is None:
        return False
    return difference.low >= -margin if scores.measure == "accuracy" else difference.high <= margin


def find_cheapest(sweep: Sweep, scores: Scores, margin: float) -> str:
    """The cell that is no worse and smallest; of those as small, the quickest made. Raises `GateError` for none."""
    (reference,) = sweep.references
    cells = [cell for cell in sweep.cells if cell != reference and (cell, sweep.seeds[0]) in scores.costs]
    able = [cell for cell in cells if is_no_worse(scores, cell, reference, sweep.seeds, margin)]
    if not able:
        raise GateError(
            f"None of {len(cells)} settings is certainly no worse than {reference} by {margin}: more battles or more "
            "seeds may tell, or a heavier setting helps. The table stands beside the output."
        )
    return min(able, key=lambda cell: (scores.cost(cell, "megabytes"), scores.cost(cell, "seconds_to_make")))
