"""
The tables of figures, which stand both on the terminal and in the report.

What a number looks like is decided here: four places for log loss, one for percent, the interval in brackets.
"""

import json
import sys
from pathlib import Path

from sft_judge.page import Table


def number(figure: dict | None, digits: int = 4) -> str:
    """`0.9012 [0.8900, 0.9134]`, or a dash where there is nothing to measure."""
    return _spread(figure, lambda value: f"{value:.{digits}f}")


def percent(figure: dict | None) -> str:
    """`61.2 % [58.0, 64.1]`."""
    return _spread(figure, lambda value: f"{100 * value:.1f}", " %")


def _spread(figure, form, unit="") -> str:
    if figure is None or figure["value"] is None:
        return "–"
    if figure["low"] is None:
        return form(figure["value"]) + unit
    return f"{form(figure['value'])}{unit} [{form(figure['low'])}, {form(figure['high'])}]"


def worth_table(metrics: dict, note: str) -> Table:
    """What each judge is worth between class frequencies and, with a truth, the best possible."""
    with_truth = "gap_share" in metrics["worth"][0]
    columns = ["", *(["expected log loss", "share of the gap"] if with_truth else []), "log loss", "accuracy"]
    rows = [
        [
            row["name"],
            *([number(row["expected_log_loss"]), percent(row["gap_share"])] if with_truth else []),
            number(row["log_loss"]),
            percent(row["accuracy"]),
        ]
        for row in metrics["worth"]
    ]
    return Table("Worth", columns, rows, note)


def figures_table(judges: dict) -> Table:
    """The other figures of contracts.md, a row a judge."""
    columns = ["", "Brier", "ECE", "tie recall", "macro F1", "kappa", "clipped"]
    rows = [
        [
            name,
            *(number(figures[key], 3) for key in ("brier", "ece")),
            *(percent(figures["tie_recall"]), number(figures["macro_f1"], 3), number(figures["kappa"], 3)),
            str(figures["clipped"]),
        ]
        for name, figures in judges.items()
    ]
    return Table("Figures", columns, rows, "clipped: rows whose verdict the judge gave less than 1e-15")


def bias_table(judges: dict) -> Table:
    """Whether order or length sways a judge."""
    rows = [
        [
            name,
            percent(figures["swap_agreement"]),
            percent(figures["first_position_rate"]),
            percent(figures["longer_response_rate"]["judge"]),
            percent(figures["longer_response_rate"]["people"]),
        ]
        for name, figures in judges.items()
    ]
    columns = ["", "same verdict in both orders", "chooses the first shown", "chooses the longer", "people choose it"]
    return Table("Position and length", columns, rows, "of the choices of a response; ties are no choice")


def pairs_table(pairs: list[dict]) -> Table:
    """Paired differences on the same rows."""
    keys = [key for key in ("delta_expected_log_loss", "delta_log_loss", "delta_accuracy") if key in pairs[0]]
    rows = [
        [
            f"{pair['a']} − {pair['b']}",
            *((percent if key == "delta_accuracy" else number)(pair[key]) for key in keys),
        ]
        for pair in pairs
    ]
    columns = ["", *(key.removeprefix("delta_").replace("_", " ") for key in keys)]
    return Table("Pairs", columns, rows, "differences on the same rows; a log loss below zero: the first is better")


def slice_tables(slices: dict) -> list[Table]:
    """A table for each dimension of slices."""
    return [
        Table(
            dimension.capitalize(),
            ["", "rows", "log loss", "accuracy"],
            [
                [name, str(part["n"]), number(part["log_loss"]), percent(part["accuracy"])]
                for name, part in parts.items()
            ],
        )
        for dimension, parts in slices.items()
    ]


def read_stages(folder: Path, but: Path) -> list[dict]:
    """
    What the manifests below `folder` say of each stage, oldest first; `but` (that of this very evaluation) left out.

    `{"stage", "output", "seconds", "peak_memory_mb"}` each.
    """
    found = []
    for file in sorted(folder.rglob("*manifest.json"), key=lambda file: file.stat().st_mtime):
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if file.resolve() == but.resolve() or not isinstance(manifest, dict) or "peak_memory_mb" not in manifest:
            continue
        output = file.parent if file.name == "manifest.json" else file.with_name(file.name[: -len(".manifest.json")])
        row = {key: manifest.get(key) for key in ("stage", "seconds", "peak_memory_mb")}
        found.append({"output": output.relative_to(folder).as_posix(), **row})
    return found


def stages_table(stages: list[dict]) -> Table:
    """Time, peak memory and output of each stage, and their total."""
    rows = [[str(row["stage"]), row["output"], f"{row['seconds']:.1f}", str(row["peak_memory_mb"])] for row in stages]
    rows.append(
        [
            "all",
            f"{len(stages)} outputs",
            f"{sum(row['seconds'] for row in stages):.1f}",
            str(max(row["peak_memory_mb"] for row in stages)),
        ]
    )
    return Table("Stages", ["stage", "output", "seconds", "peak MB"], rows)


def print_table(table: Table) -> None:
    """Print on standard output: lines fitted to a terminal, plain and never cut on a pipe."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else 200, highlight=False)
    drawn = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD if terminal else box.ASCII2)
    for name in table.columns:
        drawn.add_column(Text(name), overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(cell) for cell in row))
    console.print(drawn)
    if table.note:
        print(table.note)
