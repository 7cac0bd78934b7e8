"""
Contests between models: pairings, prompts and outcomes of battles, by the votes or by a judge.

Only what is needed of a battle is kept: its models, an integer for its prompt, and, if requested, some style counts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from sft_judge.core.errors import InputError
from sft_judge.core.swap_orders import swap, widen
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.battles import BattleFile
from sft_judge.data.columns import SOFT
from sft_judge.data.preparing.prompt_groups import PromptIndex
from sft_judge.data.style import FEWEST_SHOWING, standardise, style_counts, style_differences
from sft_judge.inference.calibrated import Calibrated
from sft_judge.inference.ensemble import combine

NAMES = ("model_a", "model_b")
FEWEST_EACH_WAY = 5  # minimum prompts in which the response with more of a feature won, and in which it lost
MOST_WEIGHT = 1_000_000  # maximum weight of a battle; with more, the prior would be lost to rounding


@dataclass
class Predictions:
    """Judges' probabilities `[U, 3]` of the U battles that were judged, and the row of each battle's id."""

    probs: np.ndarray
    row_of: dict[str, int]


@dataclass
class Contests:
    """
    N battles among M models.

    Attributes:
        models: names of the models.
        sides: indices into `models` of responses a and b `[N, 2]`.
        counts: evidence for each of VERDICTS `[N, 3]`.
        clusters: group of prompts of each battle `[N]`, integers from 0.
        features: feature differences, a minus b `[N, F]`.
        controls: names of the features.
        skipped: number of battles left out, by reason.
    """

    models: list[str]
    sides: np.ndarray
    counts: np.ndarray
    clusters: np.ndarray
    features: np.ndarray
    controls: list[str]
    skipped: dict[str, int] = field(default_factory=dict)

    def keep(self, models: np.ndarray) -> "Contests":
        """Select the models of the mask `[M]`, and the battles among them."""
        rows = models[self.sides].all(axis=1)
        return replace(
            self,
            models=[name for name, there in zip(self.models, models, strict=True) if there],
            sides=(np.cumsum(models) - 1)[self.sides[rows]],
            counts=self.counts[rows],
            clusters=np.unique(self.clusters[rows], return_inverse=True)[1],
            features=self.features[rows],
        )


def average_predictions(judges: list[Calibrated]) -> Predictions:
    """
    Average several judges' calibrated probabilities of each battle over the judges that judged it.

    If one judge has no tie verdict, the average has none. Battles that no judge judged (after a deadline) are left
    out.
    """
    ids = list(dict.fromkeys(name for judge in judges for name in judge.ids[judge.orders > 0]))
    row_of = {name: row for row, name in enumerate(ids)}
    members, judged = [], np.zeros((len(ids), len(judges)), dtype=bool)
    for place, judge in enumerate(judges):
        there = np.flatnonzero(judge.orders > 0)
        rows = [row_of[name] for name in judge.ids[there]]
        probs = np.full((len(ids), 3), 1 / 3)
        probs[rows], judged[rows, place] = judge.probs[there], True
        members.append(probs)
    num = 3 if all(judge.probs[:, 2].any() for judge in judges) else 2
    mean = combine(members, np.ones(len(judges)), num, judged=judged)
    return Predictions(widen(mean), row_of)


def read_contests(
    file: BattleFile,
    votes: bool = True,
    predictions: Predictions | None = None,
    controls: Sequence[str] = (),
    progress: Callable[[int], None] = lambda rows: None,
) -> Contests:
    """
    Read the contests of a battles file.

    Args:
        file: the battles.
        votes: count people's votes.
        predictions: count these probabilities of a judge, in addition to the votes if `votes`.
        controls: style features to control for.
        progress: function called with the number of rows after each batch.

    Raises:
        InputError: no model is named, no battle has evidence, or a weight or label is out of range.
    """
    missing = [name for name in NAMES if name not in file.columns]
    if missing:
        raise InputError(
            f"{file.path}: no {missing[0]} in any battle, so the models of the responses are unknown. "
            "`sft-judge import` keeps model_a and model_b if the source names them."
        )
    models, prompts, parts = {}, PromptIndex(), []
    columns = ["id", "prompt", *NAMES, "verdict", *SOFT, "weight", *(("response_a", "response_b") if controls else ())]
    for battles in file.batches(columns):
        sides = np.stack([number_values(battles[name].combine_chunks(), models) for name in NAMES], axis=1)
        prompts.add(battles["prompt"].to_pylist())
        parts.append((sides, count_evidence(battles, votes, predictions), _features(battles, controls)))
        progress(battles.num_rows)
    sides, counts, features = (np.concatenate(part) for part in zip(*parts, strict=True))
    wrong = np.flatnonzero(~((counts >= 0) & (counts <= MOST_WEIGHT)).all(axis=1))  # a NaN is wrong too
    if len(wrong):
        raise InputError(
            f"{file.path} row {wrong[0] + 1}: counts as {counts[wrong[0]].tolist()} for {', '.join(VERDICTS)}; "
            f"weights and soft labels must be numbers from 0 to {MOST_WEIGHT:,}."
        )
    source = "verdict" if predictions is None else "verdict or probabilities" if votes else "probabilities"
    used, skipped = find_usable(sides, counts, source)
    if not used.any():
        why = ", ".join(f"{count} {reason}" for reason, count in skipped.items() if count)
        raise InputError(f"{file.path}: nothing to rank by in {file.num_rows} battles ({why}).")
    return Contests(
        models=list(models),
        sides=sides[used],
        counts=counts[used],
        clusters=np.unique(prompts.row_groups()[used], return_inverse=True)[1],
        features=standardise(features[used]),
        controls=controls,
        skipped=skipped,
    )


def split_controls(contests: Contests) -> tuple[Contests, list[str]]:
    """
    Remove the controls whose effect the contests do not determine.

    A control is kept if FEWEST_SHOWING prompts show the feature (their responses differ in it), and the response with
    more of it won in FEWEST_EACH_WAY prompts and lost in as many. If there are hardly any wins or losses, the effect
    is bounded only by the prior. A tie is half a win and half a loss, and a prompt with several such battles counts by
    their mean. The limits are those above which intervals have their nominal coverage: `python
    scripts/rank_coverage.py 500 style`.

    Returns:
        The contests without these controls, and the names of the removed controls.
    """
    ahead = (contests.counts[:, 0] - contests.counts[:, 1]) / contests.counts.sum(axis=1)
    told = np.zeros(len(contests.controls), dtype=bool)
    for place, column in enumerate(contests.features.T):
        shown = np.flatnonzero(column)
        prompts, of_row = np.unique(contests.clusters[shown], return_inverse=True)
        won = np.bincount(of_row, (1 + np.sign(column[shown]) * ahead[shown]) / 2) / np.bincount(of_row)
        each_way = min(won.sum(), len(prompts) - won.sum())
        told[place] = len(prompts) >= FEWEST_SHOWING and each_way >= FEWEST_EACH_WAY
    held = [name for name, there in zip(contests.controls, told, strict=True) if there]
    untold = [name for name in contests.controls if name not in held]
    return replace(contests, features=contests.features[:, told], controls=held), untold


def find_usable(sides: np.ndarray, counts: np.ndarray, source: str) -> tuple[np.ndarray, dict[str, int]]:
    """
    Find the battles that have two different models and evidence.

    Args:
        sides: models of each battle `[N, 2]`, -1 for a missing name.
        counts: evidence for each verdict `[N, 3]`.
        source: name of the evidence, for the reasons.

    Returns:
        A mask `[N]`, and the number of other battles by reason.
    """
    named, has_evidence, other = (sides >= 0).all(axis=1), counts.sum(axis=1) > 0, sides[:, 0] != sides[:, 1]
    skipped = {
        "without both models' names": ~named,
        "of a model against itself": named & ~other,
        f"without {source}": named & other & ~has_evidence,
    }
    return named & other & has_evidence, {why: int(rows.sum()) for why, rows in skipped.items()}


def number_values(column: pa.Array, numbers: dict) -> np.ndarray:
    """
    Return an integer for each distinct value of a column `[N]`, by first appearance in all batches; -1 for null.

    Args:
        column: the column.
        numbers: integers of the values so far, extended in place.
    """
    encoded = column.dictionary_encode()
    of_value = [numbers.setdefault(name, len(numbers)) for name in encoded.dictionary.to_pylist()]
    return np.array([*of_value, -1])[pc.fill_null(encoded.indices, len(of_value)).to_numpy()]


def count_evidence(battles: pa.Table, votes: bool, predictions: Predictions | None) -> np.ndarray:
    """
    Count the evidence for each verdict `[N, 3]`: votes or their shares plus a judge's probabilities, times the weight.

    Args:
        battles: the battles.
        votes: count people's votes.
        predictions: count these probabilities.
    """
    rows, there = battles.num_rows, battles.column_names
    counts = np.zeros((rows, 3))
    if votes:
        place = pc.fill_null(pc.index_in(battles["verdict"], pa.array(VERDICTS)), -1).to_numpy()
        counts += np.eye(4)[place][:, :3]
        if set(SOFT) <= set(there):
            shares = np.stack([battles[name].to_numpy() for name in SOFT], axis=1)
            counts = np.where(np.isnan(shares).any(axis=1, keepdims=True), counts, shares)
    if predictions is not None:
        rows_judged = [predictions.row_of.get(name, -1) for name in battles["id"].to_pylist()]
        counts += np.concatenate([predictions.probs, np.zeros((1, 3))])[rows_judged]
    if "weight" in there:
        weight = battles["weight"].to_numpy()
        with np.errstate(invalid="ignore"):  # infinite weight times zero evidence is NaN, which the caller rejects
            counts *= np.where(np.isnan(weight), 1.0, weight)[:, None]
    return counts


def _features(battles: pa.Table, controls: list[str]) -> np.ndarray:
    if not controls:
        return np.zeros((battles.num_rows, 0))
    return style_differences(*(style_counts(battles[name], controls) for name in ("response_a", "response_b")))


def pair_counts(contests: Contests) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Aggregate battles by pair of models.

    Returns:
        The P pairs that met `[P, 2]`, smaller index first; the pair of each battle `[N]`; and the evidence of each
        battle `[N, 3]`, with the pair's first model as a.
    """
    size, turned = len(contests.models), (contests.sides[:, 0] > contests.sides[:, 1])[:, None]
    cells, place = np.unique(np.sort(contests.sides, axis=1) @ [size, 1], return_inverse=True)
    return (np.stack(np.divmod(cells, size), axis=1), place, np.where(turned, swap(contests.counts), contests.counts))


def components(contests: Contests) -> tuple[np.ndarray, np.ndarray]:
    """
    Find the groups of models that can be compared.

    Returns:
        The group of each model `[M]` in which all models met, directly or through others; and the group of each model
        `[M]` in which every model beat or tied every other, directly or through others. The likelihood bounds the
        distance of two models only within a group of the second kind (Ford 1957).
    """
    size = (len(contests.models),) * 2
    a, b = contests.sides.T
    not_lost, not_won = contests.counts[:, 0] + contests.counts[:, 2], contests.counts[:, 1] + contests.counts[:, 2]
    beaten = sparse.csr_array((np.concatenate([not_lost, not_won]), (np.r_[a, b], np.r_[b, a])), size)
    beaten.eliminate_zeros()
    weak, strong = (connected_components(beaten, connection=kind)[1] for kind in ("weak", "strong"))
    return weak, strong


def largest_group(groups: np.ndarray, contests: Contests) -> np.ndarray:
    """
    Return a mask `[M]` of the group with the most battles within it, or of no model if no group has a battle.

    Of groups with equally many battles, the one with more models is taken, then the one with the first name, so that
    the result does not depend on the order of rows.

    Args:
        groups: group of each model `[M]`.
        contests: the contests.
    """
    one, other = groups[contests.sides].T
    battles, sizes = np.bincount(one[one == other], minlength=groups.max() + 1), np.bincount(groups)
    if not battles.any():
        return np.zeros(len(groups), dtype=bool)
    best = min(zip(-battles[groups], -sizes[groups], contests.models, groups, strict=True))[-1]
    return groups == best
