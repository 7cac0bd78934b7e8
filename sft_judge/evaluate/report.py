"""report.html: what the judges are worth, in pictures and tables. It holds text of battles only where asked."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from sft_judge.evaluate import plots
from sft_judge.evaluate.agreement import agreement_table
from sft_judge.evaluate.policies import policies_table
from sft_judge.evaluate.slices import text_lengths
from sft_judge.evaluate.tables import (
    bias_table,
    figures_table,
    pairs_table,
    slice_tables,
    stages_table,
    worth_table,
)
from sft_judge.page import Section, Table, Text, render_page


def render_report(
    metrics: dict, lengths: dict, logs: dict[str, list[dict]], worth_note: str, examples: list[Text] = ()
) -> str:
    """
    The page. `metrics` as in metrics.json, `lengths` from `length_histograms`, `logs` from `read_logs`.

    `examples` alone hold text of battles.
    """
    judges = metrics.get("judges") or {metrics["main"]: metrics}
    main = judges[metrics["main"]]
    sections = [
        Section("", tables=[replace(worth_table(metrics, worth_note), main=metrics["main"])]),
        Section("Policies", tables=[policies_table(metrics["policies"])] if "policies" in metrics else []),
        Section("Reliability", [plots.reliability(judges)], [_bins_table(metrics["main"], main)]),
        Section("Log loss by step", [plots.losses(logs)] if logs else []),
        Section("Lengths", [plots.lengths(**lengths)]),
        Section("Position bias", tables=[bias_table(judges)]),
        *(
            Section(f"Slices: {dimension}", [plots.slice_losses(dimension, judges)], [table])
            for dimension, table in zip(main["slices"], slice_tables(main["slices"]), strict=True)
        ),
        Section(
            "Agreement",
            tables=[agreement_table(metrics["agreement"], metrics["against_votes"], metrics["n"])],
            texts=list(examples),
        ),
        Section("Pairs", tables=[pairs_table(metrics["pairs"])] if "pairs" in metrics else []),
        Section("All figures", tables=[figures_table(judges)]),
        Section("Stages", tables=[stages_table(metrics["stages"])] if metrics.get("stages") else []),
        Section("Provenance", tables=[_provenance_table(metrics["provenance"])]),
    ]
    notes = [
        f"{metrics['n']} battles over {metrics['num_prompts']} prompts. In brackets: 95 % intervals, prompts "
        "resampled. Log loss in nats, lower is better.",
        *metrics["notes"],
    ]
    return render_page(f"sft_judge: {metrics['main']}", "What the judges are worth", notes, sections)


def _provenance_table(provenance: dict) -> Table:
    rows = [[key, str(value), ""] for key, value in provenance.items() if key != "judges"]
    for name, judge in provenance["judges"].items():
        rows += [[name if place == 0 else "", key, str(judge[key])] for place, key in enumerate(judge)]
    return Table("Provenance", [], rows, prose=True)


def _bins_table(name: str, judge: dict) -> Table:
    rows = [
        [str(point["n"]), f"{point['confidence']:.3f}", f"{point['accuracy']:.3f}"] for point in judge["reliability"]
    ]
    columns = ["rows", "mean probability of the chosen verdict", "how often right"]
    return Table(f"Bins of {name}", columns, rows, folded=True)


def length_histograms(battles: pa.Table, bins: int = 40) -> dict:
    """`{"counts": {field: [bins]}, "edges": [bins + 1]}` of characters; the longest hundredth is put in the last."""
    texts = {"prompt": ["prompt"], "response": ["response_a", "response_b"]}
    values = {name: np.concatenate([text_lengths(battles, part) for part in parts]) for name, parts in texts.items()}
    top = max(1.0, *(float(np.quantile(lengths, 0.99)) for lengths in values.values()))
    edges = np.linspace(0, top, bins + 1)
    counts = {name: np.histogram(np.minimum(lengths, top), edges)[0].tolist() for name, lengths in values.items()}
    return {"counts": counts, "edges": edges.tolist()}


def read_logs(folder: Path) -> dict[str, list[dict]]:
    """The `trainer_log.json` files below a folder by their own folder's name; those that are no logs are left out."""
    logs = {}
    for file in sorted(folder.rglob("trainer_log.json")):
        try:
            log = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(log, list) and log and all(isinstance(row, dict) for row in log):
            logs[file.parent.relative_to(folder).as_posix()] = log
    return logs
