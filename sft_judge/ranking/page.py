"""A ranking for people: the table on the terminal, the page with its pictures, and the CSV."""

import csv
from pathlib import Path

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from sft_judge.audit_page import visible
from sft_judge.evaluate.plots import COLOURS, GREY, svg
from sft_judge.evaluate.tables import number, percent
from sft_judge.files import whole_file
from sft_judge.page import Section, Table, render_page

MOST_RATINGS, MOST_CELLS, MOST_NUMBERS = 100, 30, 14  # models in a picture: ratings, a matrix, one with numbers
_BATTLE_COLOURS = LinearSegmentedColormap.from_list("battles", [COLOURS[1], "#e4e4e4", COLOURS[0]])
_CSV_COLUMNS = (
    *("rank", "rank_high", "model", "rating", "rating_low", "rating_high"),
    *("win_rate", "win_rate_low", "win_rate_high", "battles", "wins", "losses", "ties"),
)


def render_ranking(name: str, ranking: dict) -> tuple[list[Table], str]:
    """The tables to print, and the page. `ranking` as in ranking.json."""
    tables = [ranking_table(ranking), *([controls_table(ranking["controls"])] if ranking["controls"] else [])]
    rows, matrix = ranking["models"], ranking["matrix"]
    names = [visible(row["model"], 30) for row in rows[:MOST_CELLS]]
    pictures = [score_matrix(kind, names, matrix[kind]) for kind in ("observed", "predicted")]
    cut = f" The first {MOST_CELLS} of {len(rows)}; ranking.json has all." if len(rows) > MOST_CELLS else ""
    sections = [
        Section("", [ratings(rows[:MOST_RATINGS])], tables[:1]),
        Section("Held equal", tables=tables[1:]),
        Section(
            "Who beats whom",
            pictures,
            note="What the model of the row gets of a battle with that of the column, in %; a tie is half. Where two "
            f"never met, nothing was observed.{cut}",
        ),
    ]
    title = f"Ranking by {visible(name)}"
    return tables, render_page(title, title, [*ranking["notes"], *ranking["caveats"]], sections)


def ranking_table(ranking: dict) -> Table:
    """A row a model, best first."""
    columns = ["", "rank", "rating", "wins against the others", "battles"]
    rows = [
        [
            visible(row["model"]),
            _range(row["rank"], row["rank_high"]),
            number(row["rating"], 0),
            percent(row["win_rate"]),
            f"{row['battles']:,.0f}",
        ]
        for row in ranking["models"]
    ]
    note = (
        "rank: one more than the models that are significantly better, to as many as are not significantly worse. "
        "wins: predicted against all others, each as often; a tie is half"
    )
    return Table("Ranking", columns, rows, note)


def _range(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low}–{high}"


def controls_table(controls: list[dict]) -> Table:
    """What more of each thing that is held equal is worth."""
    rows = [[control["name"], number(control["coefficient"], 3)] for control in controls]
    note = (
        "log-odds of winning for one standard deviation of (a - b) / (a + b), models alike; above 0: more of it wins"
    )
    return Table("Held equal", ["", "worth"], rows, note)


def ratings(rows: list[dict]) -> str:
    """The rating of each model with its interval, best first."""

    def draw(axes):
        found = [row["rating"] for row in rows]
        values = [rating["value"] for rating in found]
        ends = [[rating[end] for rating in found] for end in ("low", "high")]
        spread = None if found[0]["low"] is None else np.abs(np.array(ends) - values)
        axes.errorbar(values, range(len(rows)), xerr=spread, fmt="o", markersize=4, color=COLOURS[0])
        axes.set_yticks(range(len(rows)), [visible(row["model"], 30) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(axis="x", color=GREY, alpha=0.25, linewidth=0.6)
        axes.set_xlabel("rating, with its 95 % interval")

    return svg("ratings", draw, 0.9 + 0.26 * len(rows))


def score_matrix(kind: str, names: list[str], scores: list[list]) -> str:
    """A matrix of scores as colours, of the first models; blue where the row's model is ahead."""
    size = len(names)
    values = np.array([[np.nan if cell is None else cell for cell in row[:size]] for row in scores[:size]])

    def draw(axes):
        axes.pcolormesh(np.ma.masked_invalid(100 * values), cmap=_BATTLE_COLOURS, vmin=0, vmax=100)
        if size <= MOST_NUMBERS:
            for row, column in zip(*np.nonzero(~np.isnan(values)), strict=True):
                text = f"{100 * values[row, column]:.0f}"
                axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color="#202020", fontsize=9)
        axes.set_xticks(np.arange(size) + 0.5, names, rotation=90)
        axes.set_yticks(np.arange(size) + 0.5, names)
        axes.invert_yaxis()
        axes.tick_params(length=0)
        axes.set_title(kind, fontsize=10)

    return svg(f"{kind} scores", draw, 1.8 + 0.24 * size)


def write_csv(path: Path, ranking: dict) -> None:
    """A row a model, best first."""
    with whole_file(path) as aside, open(aside, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _CSV_COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for row in ranking["models"]:
            spread = {
                f"{name}{'' if end == 'value' else '_' + end}": value
                for name in ("rating", "win_rate")
                for end, value in row[name].items()
            }
            writer.writerow(row | spread)
