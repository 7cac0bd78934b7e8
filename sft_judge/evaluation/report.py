"""The evaluation report report.html: plots and tables of the judges; text of battles only on request."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from sft_judge.core.model_files import TRAINING_LOG
from sft_judge.data.probs import clip_log
from sft_judge.data.style import text_lengths
from sft_judge.evaluation.agreement import agreement_table
from sft_judge.evaluation.benchmarks import benchmark_table
from sft_judge.evaluation.headline import headline
from sft_judge.evaluation.policy_wins import policies_table
from sft_judge.evaluation.reporting import plots, tables
from sft_judge.evaluation.reporting.html import Section, Table, Text, render_page
from sft_judge.evaluation.robustness import robustness_table

_LOSSES = ("loss", "eval_log_loss")  # keys of a training log: training rows, held-out rows


def render_report(metrics: dict, examples: dict[str, list[Text]]) -> str:
    """
    Render report.html.

    Args:
        metrics: contents of metrics.json, which holds every figure on the page.
        examples: text of battles: `against` lists battles that contradict the votes, `worst` the largest losses.
    """
    lengths, logs = metrics["lengths"], metrics["logs"]
    judges = metrics.get("judges") or {metrics["main"]: metrics}
    name, main = metrics["main"], judges[metrics["main"]]
    judges = {name: main, **judges}  # the main judge comes first in every table and plot
    sections = [
        Section("", [_skill_plot(metrics, judges)], [replace(tables.skill_table(metrics), main=name)]),
        Section("Benchmark", tables=[benchmark_table(metrics["benchmark"])] if "benchmark" in metrics else []),
        Section("Policies", tables=[policies_table(metrics["policies"])] if "policies" in metrics else []),
        _reliability(judges, name),
        *(
            Section(
                f"Slices: {dimension}",
                [plots.plot_slice_losses(dimension, _select_judges(judges, dimension))],
                [table],
                note=f"The table has the figures of {name}." if len(judges) > 1 else "",
            )
            for dimension, table in zip(main["slices"], tables.slice_tables(main["slices"]), strict=True)
        ),
        Section("Position bias", tables=[tables.bias_table(judges)]),
        Section(
            "Style, length and family",
            [plots.plot_styles(main["style"])] if main["style"] else [],
            [tables.style_table(name, main)] if main["style"] or "own_family" in main else [],
        ),
        Section("Attacks", tables=[robustness_table(name, metrics["attacks"])] if "attacks" in metrics else []),
        *_comparison(metrics, judges),
        Section(
            "Preferred responses",
            [plots.plot_preferred(**metrics["preferred"])] if (metrics["preferred"] or {}).get("better") else [],
        ),
        Section(
            "Agreement",
            tables=[agreement_table(metrics["agreement"], metrics["against_votes"], metrics["n"])],
            texts=examples["against"],
        ),
        Section(
            "Worst battles",
            tables=[tables.worst_table(metrics["worst"], name)] if metrics["worst"] else [],
            texts=examples["worst"],
        ),
        Section("All figures", tables=[tables.figures_table(judges)]),
        Section("Lengths", [plots.plot_lengths(**lengths)], [_lengths_table(**lengths)]),
        Section("What was cut", tables=[tables.cut_table(metrics["cut"])] if metrics.get("cut") else []),
        Section(
            "Losses by step",
            [
                plots.plot_losses(logs, key)
                for key in _LOSSES
                if any(key in row for log in logs.values() for row in log)
            ],
            [_logs_table(logs)] if logs else [],
            note="The training loss is what a run minimises. With soft labels or other terms it is not a log loss, so "
            "runs with different settings cannot be compared by it.",
        ),
        Section("Cost", tables=[tables.stages_table(metrics["stages"])] if metrics.get("stages") else []),
        Section("Provenance", tables=_provenance_tables(metrics["provenance"])),
    ]
    notes = [
        f"{metrics['n']:,} battles over {metrics['num_prompts']:,} prompts; similar prompts and follow-ups count as "
        "one. In brackets: 95 % intervals over prompts. Log loss is in nats; lower is better.",
        *metrics["notes"],
    ]
    lead = headline(metrics, judges)
    return render_page(f"sft_judge: {name}", "How good the judges are", notes, sections, lead)


def _skill_plot(metrics: dict, judges: dict) -> str:
    key = "expected_log_loss" if "expected_log_loss" in metrics["worth"][0] else "log_loss"
    if any(row[key]["value"] is None for row in metrics["worth"]):
        key = "accuracy"
    rows = [row | {"judge": row["name"] in judges} for row in metrics["worth"]]
    return plots.plot_skill(rows, key, metrics["main"])


def _reliability(judges: dict, main: str) -> Section:
    told = {name: figures for name, figures in judges.items() if figures["reliability"]}
    tables_shown = [_bins_table(main, judges[main])] if main in told else []
    return Section("Reliability", [plots.plot_reliability(told)] if told else [], tables_shown)


def _select_judges(judges: dict, dimension: str) -> dict:
    return {name: figures for name, figures in judges.items() if dimension in figures["slices"]}


def _comparison(metrics: dict, judges: dict) -> list[Section]:
    if "pairs" not in metrics:
        return []
    return [
        Section(
            "Comparison",
            tables=[
                tables.standings_table(metrics["standings"], judges, metrics["standings_by"]),
                tables.pairs_table(metrics["pairs"]),
            ],
        )
    ]


def _provenance_tables(provenance: dict) -> list[Table]:
    """Build the tables of what the figures come from: of all, of each judge, and of the versions of the libraries."""
    judges = provenance["judges"]
    rows = [[key, str(value)] for key, value in provenance.items() if key != "judges"]
    keys = list(dict.fromkeys(key for judge in judges.values() for key in judge if key != "versions"))
    of_judges = [[key, *(_shown(judge.get(key)) for judge in judges.values())] for key in keys]
    versions = {name: judge.get("versions") or {} for name, judge in judges.items()}
    packages = list(dict.fromkeys(package for known in versions.values() for package in known))
    of_versions = [[package, *(known.get(package, "") for known in versions.values())] for package in packages]
    tables = [Table("Provenance", ["", "value"], rows, prose=True)]
    tables += [Table("Probs files", ["", *judges], of_judges, prose=True)] if of_judges else []
    return tables + ([Table("Versions", ["", *judges], of_versions, folded=True)] if of_versions else [])


def _shown(value) -> str:
    """Return a value of the provenance as text; a table of folds as `fold-0: 1 2 3`."""
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_shown(part)}" for key, part in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


def _bins_table(name: str, judge: dict) -> Table:
    rows = [[str(one["n"]), f"{one['confidence']:.3f}", f"{one['accuracy']:.3f}"] for one in judge["reliability"]]
    columns = ["rows", "mean probability of the chosen verdict", "how often right"]
    return Table(f"Bins of {name}", columns, rows, folded=True)


def _lengths_table(counts: dict[str, list[int]], edges: list[float]) -> Table:
    rows = [[f"{edge:.0f}", *map(str, values)] for edge, *values in zip(edges[:-1], *counts.values(), strict=True)]
    return Table("Texts by length", ["characters from", *counts], rows, folded=True)


def _logs_table(logs: dict[str, list[dict]]) -> Table:
    rows = []
    for name, log in logs.items():
        for row in log:
            rows.append([name, str(row["step"]), *(f"{row[key]:.4f}" if key in row else "" for key in _LOSSES)])
    return Table("Losses", ["", "step", "training", "held out"], rows, folded=True)


def preferred_scores(probs: np.ndarray, verdicts: np.ndarray, seed: int = 0, most: int = 1000) -> dict:
    """
    Return the scores of the response that people prefer and of the other, for a scatter plot.

    A score is the log of a judge's probability. The plot follows the scatter of "better" and "worse" rewards in
    align-anything's reward model homework.

    Args:
        probs: a judge's probabilities `[N, 3]`.
        verdicts: people's verdicts `[N]`; ties express no preference and are left out.
        seed: seed of the sample if there are more than `most` battles.
        most: maximum number of battles to draw.

    Returns:
        `{"better": [M], "worse": [M], "of": number of battles the sample is drawn from}`.
    """
    decided = np.flatnonzero(verdicts < 2)
    if len(decided) > most:
        shown = np.sort(np.random.default_rng(seed).choice(decided, most, replace=False))
    else:
        shown = decided
    logs = clip_log(probs[shown]).round(4)
    rows = np.arange(len(shown))
    better, worse = logs[rows, verdicts[shown]], logs[rows, 1 - verdicts[shown]]
    return {"better": better.tolist(), "worse": worse.tolist(), "of": len(decided)}


def length_histograms(battles: pa.Table, bins: int = 40) -> dict:
    """
    Count texts by length in characters; lengths above the 99th percentile are put in the last bin.

    Args:
        battles: the battles.
        bins: number of bins.

    Returns:
        `{"counts": {field: [bins]}, "edges": [bins + 1]}`.
    """
    texts = {"prompt": ["prompt"], "response": ["response_a", "response_b"]}
    values = {name: np.concatenate([text_lengths(battles, part) for part in parts]) for name, parts in texts.items()}
    top = max(1.0, *(float(np.quantile(lengths, 0.99)) for lengths in values.values()))
    edges = np.linspace(0, top, bins + 1)
    counts = {name: np.histogram(np.minimum(lengths, top), edges)[0].tolist() for name, lengths in values.items()}
    return {"counts": counts, "edges": edges.tolist()}


def read_logs(folder: Path) -> dict[str, list[dict]]:
    """
    Read steps and losses of the `trainer_log.json` files below a folder, by the name of their subfolder.

    Files that are not logs and losses that are not finite are skipped.
    """
    logs = {}
    for file in sorted(folder.rglob(TRAINING_LOG)):
        try:
            log = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(log, list) and log and all(isinstance(row, dict) for row in log):
            rows = ({key: row[key] for key in ("step", *_LOSSES) if np.isfinite(row.get(key, np.nan))} for row in log)
            logs[file.parent.relative_to(folder).as_posix()] = [row for row in rows if len(row) > 1 and "step" in row]
    return logs
