"""Results of a sweep: one row per trial, paired with the reference, and a conclusion that the intervals support."""

import copy
import json
import math
from pathlib import Path

import numpy as np

from sft_judge.core.errors import InputError
from sft_judge.core.manifest import manifest_path
from sft_judge.data.battles import read_battles, rows_of_fold
from sft_judge.evaluation.align import align_judges, column
from sft_judge.evaluation.metrics import cross_entropy, one_hot, predicted_verdicts
from sft_judge.evaluation.reporting.html import Section, Table, render_page
from sft_judge.evaluation.reporting.plots import plot_differences
from sft_judge.evaluation.reporting.tables import number, percent
from sft_judge.inference.calibrated import find_judge
from sft_judge.modeling.judge_spec import read_spec
from sft_judge.pipelines.seed_statistics import Mean, crossed_mean, describe_difference
from sft_judge.pipelines.sweep import Run, Sweep

FEWEST_GROUPS = 4  # groups of prompts needed for two halves, because an interval needs two groups
COSTS = ("megabytes", "seconds_to_make", "rows_a_second")
Values = dict[tuple[str, int], np.ndarray]  # values [N] of each run, one per battle


class Scores:
    """Values of finished runs on the battles that all of them are scored on."""

    def __init__(self, measure: str):
        self.measure = measure
        self.values: Values = {}
        self.raw: Values = {}
        self.status: dict[tuple[str, int], str] = {}
        self.models: dict[tuple[str, int], Path] = {}
        self.costs: dict[tuple[str, int], dict[str, float]] = {}
        self.clusters = None

    def add(self, run: Run) -> None:
        """Read a finished run's probabilities, calibrated if the judge has a calibration, and also raw."""
        key, score = (run.trial, run.seed), run.score
        battles_file = Path(score["battles"])
        battles = read_battles(battles_file)
        keep = None
        if score.get("fold") is not None:
            fold_ids = set(rows_of_fold(battles, int(score["fold"]), battles_file)["id"].to_pylist())
            keep = np.array([name in fold_ids for name in column(battles, "id")])
        truth = Path(score["truth"]) if "truth" in score else None
        aligned = align_judges({run.trial: Path(score["probs"])}, battles, battles_file, keep, truth)
        judge = aligned.judges[run.trial]
        self.values[key] = _of_each(self.measure, aligned, judge.probs)
        self.raw[key] = _of_each(self.measure, aligned, np.nanmean(judge.orders, axis=1))  # NaN: an order not run
        self.clusters = aligned.clusters
        if not self.clusters.any():
            raise InputError(
                f"{battles_file}: all battles that are scored have one prompt, and a sweep's intervals are over "
                "prompts. Score on battles of several prompts."
            )
        model = find_judge(judge.source.metadata, judge.source.path)
        if model is not None:
            self.status[key] = read_spec(model).training.get("status", "finished")
            self.models[key] = model
            self.costs[key] = _costs(model, Path(score["probs"]))

    def on(self, rows: np.ndarray) -> "Scores":
        """Return the scores on some battles, given by a mask `[N]`."""
        part = copy.copy(self)
        part.values, part.raw = ({key: each[rows] for key, each in runs.items()} for runs in (self.values, self.raw))
        part.clusters = np.unique(self.clusters[rows], return_inverse=True)[1]
        return part

    def cost(self, trial: str, name: str) -> float:
        """
        Return the median of a cost over the trial's runs.

        Args:
            trial: name of the trial.
            name: one of COSTS.
        """
        return float(np.median([costs[name] for (own, _), costs in self.costs.items() if own == trial]))

    def mean(self, trial: str, seeds: list[int], raw: bool = False) -> Mean | None:
        """
        Compute the mean over the trial's finished runs, or return None if there is none.

        Args:
            trial: name of the trial.
            seeds: seeds to include.
            raw: use uncalibrated probabilities.
        """
        values = self.raw if raw else self.values
        scores = [values[trial, seed] for seed in seeds if (trial, seed) in values]
        return crossed_mean(np.stack(scores), self.clusters) if scores else None

    def difference(self, trial: str, other: str, seeds: list[int], confidence: float = 0.95) -> Mean | None:
        """
        Compute a trial minus another, paired by seed and battle, or return None if no seed has both.

        Args:
            trial: name of the trial.
            other: name of the other trial.
            seeds: seeds to include.
            confidence: coverage of the interval.
        """
        both = [seed for seed in seeds if (trial, seed) in self.values and (other, seed) in self.values]
        pairs = [self.values[trial, seed] - self.values[other, seed] for seed in both]
        return crossed_mean(np.stack(pairs), self.clusters, confidence) if pairs else None


def _costs(model: Path, probs: Path) -> dict[str, float]:
    """Return a model's size on disk, the time to make it, and its predicted rows per second including the start."""
    size = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    made = json.loads(manifest_path(model).read_text()) if manifest_path(model).is_file() else {}
    # a manifest is next to its stage's first output, so search all manifests of the folder
    beside = (json.loads(file.read_text()) for file in probs.parent.glob("*.manifest.json"))
    predicted = next((each for each in beside if str(probs) in each["outputs"]), None)
    rate = predicted["rows"] / predicted["seconds"] if predicted else np.nan
    return {"megabytes": size / 2**20, "seconds_to_make": made.get("seconds", 0.0), "rows_a_second": rate}


def _of_each(measure: str, aligned, probs: np.ndarray) -> np.ndarray:
    if measure == "accuracy":
        return predicted_verdicts(probs)[np.arange(len(probs)), aligned.verdicts]
    target = aligned.truth if measure == "expected_log_loss" else one_hot(aligned.verdicts, probs.shape[1])
    return cross_entropy(target, probs)


def split_battles(sweep: Sweep, scores: Scores) -> tuple[Scores, Scores | None]:
    """
    Split the scores into a part that selects the best trial and a part that confirms it.

    With fresh seeds the parts are halves of the prompt groups, because an advantage on the battles that selected a
    trial is biased on the same battles, whatever the seeds. Without fresh seeds both parts are all battles.

    Args:
        sweep: the sweep.
        scores: its scores.

    Returns:
        Both parts; the second is None if there are too few groups for two halves.
    """
    if not sweep.confirm:
        return scores, scores
    num_groups = int(scores.clusters.max()) + 1
    if num_groups < FEWEST_GROUPS:
        return scores, None
    first = np.random.default_rng(0).permutation(num_groups)[: num_groups // 2]
    chosen_by = np.isin(scores.clusters, first)
    return scores.on(chosen_by), scores.on(~chosen_by)


def choose_trials(sweep: Sweep, scores: Scores) -> tuple[str | None, str | None]:
    """
    Return the best trial and the best reference on the selection seeds and battles; None if none has finished.

    Args:
        sweep: the sweep.
        scores: its scores.
    """
    others = [trial for trial in sweep.trials if trial not in sweep.references]
    choosing = split_battles(sweep, scores)[0] if scores.values else scores
    return best_of(choosing, others, sweep.seeds), best_of(choosing, sweep.references, sweep.seeds)


def best_of(scores: Scores, trials: list[str], seeds: list[int]) -> str | None:
    """
    Return the trial with the best mean over the given seeds, or None if none has finished.

    Args:
        scores: the scores.
        trials: names of the trials.
        seeds: seeds to include.
    """
    means = {trial: mean.value for trial in trials if (mean := scores.mean(trial, seeds))}
    choose = max if scores.measure == "accuracy" else min
    return choose(means, key=means.get) if means else None


def summary(sweep: Sweep, scores: Scores, chosen: tuple[str | None, str | None]) -> dict:
    """
    Build the contents of the sweep's JSON file, best trial first.

    The figures of trials are on the battles that selected the best trial.

    Args:
        sweep: the sweep.
        scores: its scores.
        chosen: the best trial and the best reference, see `choose_trials`.
    """
    best, reference = chosen
    whole, (scores, confirming) = scores, split_battles(sweep, scores)
    trials = {}
    for name, settings in sweep.trials.items():
        mean, raw = (scores.mean(name, sweep.seeds, raw) for raw in (False, True))
        paired = scores.difference(name, reference, sweep.seeds) if reference and name != reference else None
        statuses = [scores.status[name, seed] for seed in sweep.seeds if (name, seed) in scores.status]
        trials[name] = {
            "settings": settings,
            "value": mean and mean.as_dict(),
            "raw": raw and raw.as_dict(),
            "difference": paired and paired.as_dict(),
            "stopped_or_collapsed": sum(status != "finished" for status in statuses),
            "costs": {each: scores.cost(name, each) for each in COSTS}
            if (name, sweep.seeds[0]) in scores.costs
            else {},
        }
    sign = -1 if sweep.measure == "accuracy" else 1  # best first, trials without a finished run last
    order = sorted(trials, key=lambda key: sign * trials[key]["value"]["value"] if trials[key]["value"] else math.inf)
    trials = {name: trials[name] for name in order}
    result = {"measure": sweep.measure, "battles": len(scores.clusters), "seeds": sweep.seeds, "cells": trials}
    result |= {"reference": reference, "best": best, "confirm": sweep.confirm}
    result["confirm_battles"] = len(confirming.clusters) if sweep.confirm and confirming else 0
    return result | confirm_winner(sweep, whole, best, reference)


def confirm_winner(sweep: Sweep, scores: Scores, best: str | None, reference: str | None) -> dict:
    """
    Test whether the best trial beats the best reference.

    The test is on fresh seeds and battles, or, without fresh seeds, corrected for the number of trials (Bonferroni).

    Args:
        sweep: the sweep.
        scores: its scores.
        best: the best trial.
        reference: the best reference.
    """
    if best is None or reference is None or best == reference:
        return {"confirmed": None, "verdict": "nothing to compare: no reference or no other trial has a finished run"}
    tried = len(sweep.trials) - len(sweep.references)
    scores = split_battles(sweep, scores)[1]
    if scores is None:
        few = f"not confirmed: prompts of fewer than {FEWEST_GROUPS} groups cannot be halved"
        return {"confirmed": None, "verdict": f"{best} is {few} to choose and to confirm by"}
    if sweep.confirm:
        paired = scores.difference(best, reference, sweep.confirm)
        where = f"on fresh seeds {_range(sweep.confirm)} and battles that did not choose"
    else:
        paired = scores.difference(best, reference, sweep.seeds, 1 - 0.05 / max(1, tried))
        where = f"allowing for {tried} trials looked at (Bonferroni)"
    if paired is None:
        return {"confirmed": None, "verdict": f"{best} is not confirmed yet: no fresh seed has finished"}
    difference = describe_difference(paired, sweep.measure == "accuracy")
    winner = {"better": f"{best} is better than {reference}", "worse": f"{best} is worse than {reference}"}
    words = winner.get(difference, f"no winner: no difference seen between {best} and {reference}")
    line = f"{words}: {_format_signed(paired)} {where}, {len(scores.clusters)} battles x {paired.seeds} seeds"
    return {"confirmed": paired.as_dict(), "verdict": line}


def _format_signed(mean: Mean) -> str:
    return f"{mean.value:+.4f} [{mean.low:+.4f}, {mean.high:+.4f}]"


def _range(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds))


def table_of(result: dict) -> Table:
    """Build the table of the trials, one row per trial."""
    reference = result["reference"]
    show = percent if result["measure"] == "accuracy" else number
    what = result["measure"].replace("_", " ")
    trials = [(name, trial) for name, trial in result["cells"].items() if trial["value"]]
    sized = len({round(trial["costs"].get("megabytes", 0), 1) for _, trial in trials}) > 1
    collapsed = any(trial["stopped_or_collapsed"] for _, trial in trials)
    rows = [
        [
            name,
            str(trial["value"]["seeds"]),
            show(trial["value"]),
            "–" if trial["value"]["spread"] is None else f"{trial['value']['spread']:.4f}",
            show({"value": trial["raw"]["value"]}),
            "reference" if name == reference else number(trial["difference"]),
            "" if name == reference or not trial["difference"] else f"{trial['difference']['p']:.3f}",
            *([str(trial["stopped_or_collapsed"] or "")] if collapsed else []),
            *([f"{trial['costs'].get(each, math.nan):.1f}" for each in COSTS] if sized else []),
        ]
        for name, trial in trials
    ]
    columns = ["", "seeds", what, "SD of seeds", "uncalibrated", f"minus {reference}", "p"]
    columns += ["collapsed"] if collapsed else []
    columns += ["MB", "s to make", "rows/s, start included"] if sized else []
    left_out = [name for name, trial in result["cells"].items() if not trial["value"]]
    kept = f" to choose by, {result['confirm_battles']} held out to confirm by" if result["confirm_battles"] else ""
    note = f"{result['battles']} battles{kept}; 95 % intervals over seeds and prompts, differences paired by both"
    note += f"; no run finished of: {', '.join(left_out)}" if left_out else ""
    return Table("Sweep", columns, rows, note)


def render_sweep(title: str, result: dict) -> str:
    """
    Render the sweep's HTML page.

    Args:
        title: title of the page.
        result: contents of the sweep's JSON file.
    """
    section = Section("Trials", [plot_differences(result)], [table_of(result)])
    return render_page(title, title, [result["verdict"]], [section])
