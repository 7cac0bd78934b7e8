"""
Figures of aligned judges: the contents of metrics.json except agreement, stages and provenance.

Every judge is resampled with the same prompts, so differences of judges and skill scores are paired comparisons. The
baselines and the best possible judge are measured like judges, with their frequencies and the true probabilities.
"""

import numpy as np

from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.probs import MIN_PROBABILITY
from sft_judge.data.share_interval import LEAST_PROMPTS
from sft_judge.evaluation import bias
from sft_judge.evaluation.align import Aligned, column
from sft_judge.evaluation.baselines import FREQUENCIES, baseline_probs, longer_response
from sft_judge.evaluation.bootstrap import MIN_ERRORS, MIN_PROMPTS, Draws, interval, resample, share
from sft_judge.evaluation.headline import compare_with_baselines
from sft_judge.evaluation.metrics import (
    cross_entropy,
    figure_intervals,
    name_choice,
    one_hot,
    row_columns,
    skill_score,
    without_probabilities,
)
from sft_judge.evaluation.pairs import compare, standings
from sft_judge.evaluation.slices import slice_columns, slice_figures, slices
from sft_judge.inference.calibrated import find_judge, folds_seen

BEST_POSSIBLE = "best possible"
WORST_BATTLES_LISTED = 20  # battles with the largest loss


def measure_judges(
    aligned: Aligned, frequencies: np.ndarray, longer_frequencies: np.ndarray, main: str, seed: int = 0
) -> dict:
    """
    Measure every judge, compare pairs of judges, and build the skill table.

    Args:
        aligned: judges and battles on the same rows.
        frequencies: class frequencies `[K]`, the prediction without reading a battle.
        longer_frequencies: how often the longer response wins, the shorter wins, and neither `[K]`.
        main: the judge whose figures are repeated at the top level.
        seed: seed of the bootstrap.
    """
    shared = Shared(aligned)
    baselines = baseline_probs(frequencies, longer_frequencies, shared.longer)
    best = {} if aligned.truth is None else {BEST_POSSIBLE: aligned.truth}
    draws = {}
    for name, probs in (baselines | best).items():
        draws[name] = resample(_row_figures(aligned, probs), aligned.clusters, seed=seed)
    for name in aligned.judges:
        draws[name] = resample(shared.columns(name), aligned.clusters, seed=seed)
    judges = {name: shared.figures(name, draws[name]) for name in aligned.judges}
    result = {**judges[main], "main": main, "num_prompts": int(aligned.clusters.max()) + 1}
    result["class_frequencies"], result["longer_frequencies"] = frequencies.tolist(), longer_frequencies.tolist()
    ordered = {name: draws[name] for name in (*baselines, *judges, *best)}
    result["worth"] = _skill_rows(ordered, aligned.truth is not None)
    measure = "log_loss" if aligned.judges[main].has_probs else "accuracy"
    result["against_baselines"] = compare_with_baselines(draws, main, list(baselines), measure)
    result["calibrated"] = [name for name, judge in aligned.judges.items() if judge.calibrated.calibration]
    result["worst"] = worst_battles(aligned, main)
    if len(judges) > 1:
        right = {name: shared.right(name) == 1 for name in judges}
        measure = "log_loss" if all(judge.has_probs for judge in aligned.judges.values()) else "accuracy"
        pairs = compare({name: draws[name] for name in judges}, right, aligned.clusters, measure)
        result |= {"judges": judges, "pairs": pairs, "standings": standings(judges, pairs, measure)}
        result["standings_by"] = measure
    return result


def caveats(metrics: dict) -> list[str]:
    """List what limits the figures: few prompts, a single verdict, few errors, clipped probabilities."""
    notes, prompts = [], metrics["num_prompts"]
    if prompts < LEAST_PROMPTS:
        notes.append(f"no intervals, which need {LEAST_PROMPTS} different prompts; these battles have {prompts}")
    elif prompts < MIN_PROMPTS:
        notes.append(f"{prompts} prompts are few: intervals over so few prompts are rough")
    present = [name for name, count in metrics["verdicts"].items() if count]
    if len(present) == 1:
        notes.append(f"every verdict is {present[0]}: kappa and much else cannot be measured")
    for name, judge in (metrics.get("judges") or {metrics["main"]: metrics}).items():
        if judge["log_loss"]["value"] is None:
            notes.append(f"{name} gives only verdicts: it has no log loss, Brier score or calibration error")
        elif judge["n"] * (1 - judge["accuracy"]["value"]) < MIN_ERRORS:
            notes.append(
                f"{name} errs on fewer than {MIN_ERRORS} battles: intervals of its log loss are too narrow, because "
                "errors make up most of a log loss"
            )
        if judge["clipped"]:
            notes.append(
                f"{name} gave {judge['clipped']} verdicts of people a probability below {MIN_PROBABILITY:g}, "
                "which is clipped to this value"
            )
        if judge["swap_agreement"]["value"] is None:
            notes.append(f"{name}: no battle is known in both orders, so its swap agreement is unknown")
    return notes


class Shared:
    """Slices, styles and longer responses, computed once for all judges of `aligned`."""

    def __init__(self, aligned: Aligned):
        self.aligned, self.masks = aligned, slices(aligned.battles)
        self.longer, self.styles = longer_response(aligned.battles), bias.style_features(aligned.battles)
        num = aligned.num_verdicts
        self.people = bias.lead(np.eye(3)[aligned.verdicts][:, :num] if aligned.truth is None else aligned.truth)

    def columns(self, name: str) -> dict[str, np.ndarray]:
        """Compute every row column of one judge."""
        aligned, judge = self.aligned, self.aligned.judges[name]
        orders = judge.orders if judge.orders_differ else None
        columns = _row_figures(aligned, judge.probs, orders, judge.chosen)
        columns = columns if judge.has_probs else without_probabilities(columns)
        columns |= bias.longer_columns(self.longer, judge.chosen, aligned.verdicts)
        columns |= bias.style_columns(self.styles, self.people, bias.lead(judge.probs))
        columns |= bias.own_columns(aligned.battles, self._family(name), judge.probs, self.people)
        return columns | slice_columns(self._masks(name), columns["log_loss"], self.right(name))

    def right(self, name: str) -> np.ndarray:
        """
        Return 1 for each row `[N]` on which the judge chooses people's verdict, and 0 otherwise.

        The value is a fraction if several verdicts are equally probable.
        """
        return self.aligned.judges[name].chosen[np.arange(len(self.people)), self.aligned.verdicts]

    def figures(self, name: str, draws: Draws) -> dict:
        """
        Compute a judge's entry in metrics.json from its resampled columns.

        Args:
            name: the judge.
            draws: its resampled `columns`.
        """
        aligned, judge = self.aligned, self.aligned.judges[name]
        probs, clipped = judge.probs, judge.probs[np.arange(len(judge.probs)), self.aligned.verdicts] < MIN_PROBABILITY
        losses = cross_entropy(one_hot(aligned.verdicts, aligned.num_verdicts), probs)
        result = {"n": len(probs), **figure_intervals(draws)}
        if "expected" in draws:
            result["expected_log_loss"] = interval(draws["expected"] / draws["n"], draws.of_prompts["n"])
        result |= {
            "verdicts": dict(zip(VERDICTS, np.bincount(aligned.verdicts, minlength=3).tolist(), strict=True)),
            "clipped": int(clipped.sum()) if judge.has_probs else 0,
            "longer_response_rate": {who: share(draws, f"longer {who}", 0, 1) for who in ("judge", "people")},
            "style": bias.style_effects(draws, self.styles),
            "reliability": reliability(draws),
            "slices": slice_figures(draws, self._masks(name), losses, aligned.clusters),
        }
        return result | ({"own_family": bias.own_family(draws, self._family(name))} if "own" in draws else {})

    def _family(self, name: str) -> str | None:
        source = self.aligned.judges[name].source
        return bias.family_of(find_judge(source.metadata, source.path) or source.metadata.get("model"))

    def _masks(self, name: str) -> dict:
        """
        Return the slices, plus the slice `training` if the judge saw some of the rows in training.

        This slice shows what the judge gains on rows that it saw.
        """
        folds = set(folds_seen(self.aligned.judges[name].source))
        seen = np.array([fold in folds for fold in column(self.aligned.battles, "fold")])
        if not seen.any() or seen.all():
            return self.masks
        return self.masks | {"training": {"seen in training": seen, "kept from training": ~seen}}


def reliability(draws: Draws) -> list[dict]:
    """
    Compute the accuracy in bins of confidence, with intervals over prompts.

    Args:
        draws: resampled columns of a judge; `bins` are sums of rows, confidence and right verdicts by bin.

    Returns:
        `{"n", "confidence", "accuracy", "low", "high"}` of each bin that is not empty.
    """
    found = []
    for place in np.flatnonzero(draws["bins"][0, 0] > 0):
        counts, confidences, hits = (draws["bins"][:, row, place] for row in range(3))
        under, _, over = draws.of_prompts["bins"][:, :, place].T
        with np.errstate(invalid="ignore", divide="ignore"):
            accuracy = interval(hits / counts, under, over)
        facts = {"n": int(counts[0]), "confidence": float(confidences[0] / counts[0])}
        found.append(facts | {"accuracy": accuracy["value"], "low": accuracy["low"], "high": accuracy["high"]})
    return found


def worst_battles(aligned: Aligned, name: str) -> list[dict]:
    """
    List the battles with the largest loss.

    Args:
        aligned: judges and battles on the same rows.
        name: the judge.

    Returns:
        `{"row", "id", "vote", "judged", "probability"}` each; `probability` is the judge's probability of the vote.
    """
    if not aligned.judges[name].has_probs:
        return []
    probs = aligned.judges[name].probs
    of_vote = probs[np.arange(len(probs)), aligned.verdicts]
    ids = aligned.battles["id"]
    return [
        {
            "row": int(row),
            "id": ids[row].as_py(),
            "vote": VERDICTS[aligned.verdicts[row]],
            "judged": name_choice(probs[row]),
            "probability": float(of_vote[row]),
        }
        for row in np.argsort(of_vote, kind="stable")[:WORST_BATTLES_LISTED].tolist()
    ]


def _row_figures(aligned: Aligned, probs, orders=None, chosen=None) -> dict[str, np.ndarray]:
    columns = row_columns(probs, aligned.verdicts, orders, chosen)
    return columns if aligned.truth is None else columns | {"expected": cross_entropy(aligned.truth, probs)}


def _skill_rows(draws: dict, with_truth: bool) -> list[dict]:
    rows = []
    for name, sums in draws.items():
        row = {"name": name}
        if with_truth:
            expected = {who: draws[who]["expected"] / draws[who]["n"] for who in (name, FREQUENCIES, BEST_POSSIBLE)}
            skill = skill_score(expected[name], expected[FREQUENCIES], expected[BEST_POSSIBLE])
            row["expected_log_loss"] = interval(expected[name], sums.of_prompts["n"])
            row["gap_share"] = interval(skill, sums.of_prompts["n"])
        rows.append(row | figure_intervals(sums, ("log_loss", "accuracy")))
    return rows
