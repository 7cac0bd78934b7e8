"""
report.html: one file that a person opens anywhere, offline, and that holds no text of any battle.

Names (judges, languages, sources) come from people's files and are escaped; the page's policy forbids scripts and
requests besides.
"""

import json
from importlib.resources import files
from pathlib import Path

import jinja2
import numpy as np
import pyarrow as pa
from markupsafe import Markup

from sft_judge.evaluate import plots
from sft_judge.evaluate.slices import text_lengths
from sft_judge.evaluate.tables import (
    Table,
    bias_table,
    figures_table,
    pairs_table,
    slice_tables,
    stages_table,
    worth_table,
)


def render_report(metrics: dict, lengths: dict, logs: dict[str, list[dict]], worth_note: str) -> str:
    """The page. `metrics` as in metrics.json, `lengths` from `length_histograms`, `logs` from `read_logs`."""
    judges = metrics.get("judges") or {metrics["main"]: metrics}
    main = judges[metrics["main"]]
    sections = [
        _section("Reliability", [plots.reliability(judges)], [_bins_table(metrics["main"], main)]),
        _section("Log loss by step", [plots.losses(logs)] if logs else [], []),
        _section("Lengths", [plots.lengths(**lengths)], []),
        _section("Position bias", [], [bias_table(judges)]),
        *(
            _section(f"Slices: {dimension}", [plots.slice_losses(dimension, judges)], [table])
            for dimension, table in zip(main["slices"], slice_tables(main["slices"]), strict=True)
        ),
        _section("Pairs", [], [pairs_table(metrics["pairs"])] if "pairs" in metrics else []),
        _section("All figures", [], [figures_table(judges)]),
        _section("Stages", [], [stages_table(metrics["stages"])] if metrics.get("stages") else []),
    ]
    template = files("sft_judge.evaluate").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(
        metrics=metrics,
        worth=worth_table(metrics, worth_note),
        sections=[section for section in sections if section["pictures"] or section["tables"]],
        provenance=metrics["provenance"],
    )


def _section(title: str, pictures: list[str], tables: list[Table]) -> dict:
    return {"title": title, "pictures": [Markup(picture) for picture in pictures], "tables": tables}


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
