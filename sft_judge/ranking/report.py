"""Reports of a ranking: the table on the terminal, the page with its plots, and the CSV."""

import csv
from pathlib import Path

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from sft_judge.core.files import whole_file
from sft_judge.data.style import FEWEST_SHOWING
from sft_judge.evaluation.bootstrap import MIN_PROMPTS
from sft_judge.evaluation.reporting.battle_text import visible
from sft_judge.evaluation.reporting.html import Section, Table, render_page
from sft_judge.evaluation.reporting.plots import COLOURS, GREY, svg
from sft_judge.evaluation.reporting.tables import number, percent
from sft_judge.ranking.bradley_terry import PRIOR
from sft_judge.ranking.comparisons import FEWEST_EACH_WAY
from sft_judge.ranking.ratings import FEWEST_PROMPTS

MOST_RATINGS, MOST_CELLS, MOST_NUMBERS = 100, 30, 14  # maximum models in a plot: ratings, a matrix, one with numbers
_BATTLE_COLOURS = LinearSegmentedColormap.from_list("battles", [COLOURS[1], "#e4e4e4", COLOURS[0]])
_CSV_COLUMNS = (
    *("rank", "rank_high", "model", "rating", "rating_low", "rating_high"),
    *("win_rate", "win_rate_low", "win_rate_high", "battles", "wins", "losses", "ties"),
)


def render_ranking(name: str, ranking: dict) -> tuple[list[Table], str]:
    """
    Build the tables to print and the HTML page.

    Args:
        name: name of the battles, for the title.
        ranking: contents of ranking.json.
    """
    tables = [ranking_table(ranking), *([controls_table(ranking["controls"])] if ranking["controls"] else [])]
    rows, matrix = ranking["models"], ranking["matrix"]
    rated = [row for row in rows if row["rating"]["value"] is not None]
    list_names = [visible(row["model"], 30) for row in rows[:MOST_CELLS]]
    pictures = [score_matrix(kind, list_names, matrix[kind]) for kind in ("observed", "predicted")]
    cut = f" The first {MOST_CELLS} of {len(rows)} models; ranking.json has all." if len(rows) > MOST_CELLS else ""
    sections = [
        Section("", [plot_ratings(rated[:MOST_RATINGS])] if rated else [], tables[:1]),
        Section("Held equal", tables=tables[1:]),
        Section(
            "Who beats whom",
            pictures,
            note="Mean score of the row's model against the column's model, in %; a tie counts half. Cells of models "
            f"that never met are empty under `observed`.{cut}",
        ),
    ]
    title = f"Ranking by {visible(name)}"
    return tables, render_page(title, title, [*ranking["notes"], *ranking["caveats"]], sections)


def ranking_table(ranking: dict) -> Table:
    """Build the table of the ranking, one row per model, best first."""
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
        "rank: from 1 plus the number of models that are significantly better, to the number that are not "
        "significantly worse. wins: predicted mean score against all other models with a rating; a tie counts half"
    )
    return Table("Ranking", columns, rows, note)


def _range(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low}–{high}"


def controls_table(controls: list[dict]) -> Table:
    """Build the table of the effects of the features that are controlled for."""
    rows = [[control["name"], number(control["coefficient"], 3)] for control in controls]
    note = "log-odds of winning for one standard deviation of (a - b) / (a + b), models equal; above 0: more wins"
    return Table("Held equal", ["", "effect"], rows, note)


def plot_ratings(rows: list[dict]) -> str:
    """Plot the rating of each model with its interval, best first."""

    def draw(axes):
        ratings = [row["rating"] for row in rows]
        values = [rating["value"] for rating in ratings]
        ends = [[rating[end] for rating in ratings] for end in ("low", "high")]
        spread = None if any(rating["low"] is None for rating in ratings) else np.abs(np.array(ends) - values)
        axes.errorbar(values, range(len(rows)), xerr=spread, fmt="o", markersize=4, color=COLOURS[0])
        axes.set_yticks(range(len(rows)), [visible(row["model"], 30) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(axis="x", color=GREY, alpha=0.25, linewidth=0.6)
        axes.set_xlabel("rating, with its 95 % interval")

    return svg("ratings", draw, 0.9 + 0.26 * len(rows))


def score_matrix(kind: str, names: list[str], scores: list[list]) -> str:
    """
    Plot a matrix of scores as colours, blue if the row's model is ahead.

    Args:
        kind: title, "observed" or "predicted".
        names: names of the first models.
        scores: scores of the row's model against the column's, None if unknown.
    """
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
    """
    Write the ranking as CSV, one row per model, best first.

    Args:
        path: CSV file to write.
        ranking: contents of ranking.json.
    """
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


MOST_NAMES = 10
SOURCES = {"votes": "the votes", "judge": "a judge's probabilities", "both": "the votes and a judge's probabilities"}
MODEL_DESCRIPTION = {
    "bradley-terry": "Bradley-Terry model, in which a tie is half a win for each",
    "davidson": "Davidson's model, in which a tie is a separate verdict and 400 points are odds of ten to one without "
    "ties",
}


def notes(ranking: dict, anchor: tuple[str, float] | None, judge_notes: list[str]) -> list[str]:
    """
    List how the ranking was made.

    Args:
        ranking: contents of ranking.json.
        anchor: model with a fixed rating, and its rating.
        judge_notes: notes on the judges' calibration.
    """
    skipped = ", ".join(f"{count:,} {why}" for why, count in ranking["skipped"].items() if count)
    prompts = "one prompt" if ranking["prompts"] == 1 else f"{ranking['prompts']:,} prompts"
    counted = f"{ranking['battles']:,} of {ranking['rows']:,} battles over {prompts}"
    fixed = f"{visible(anchor[0])} is fixed at {anchor[1]:g}" if anchor else "the mean is 1000"
    notes = [
        f"{counted}; skipped: {skipped}." if skipped else f"{counted}.",
        f"By {SOURCES[ranking['from']]}. {MODEL_DESCRIPTION[ranking['method']]}. Elo's scale, {fixed}. In "
        "brackets: 95 % intervals, "
        "a bootstrap over prompts.",
        f"The prior is {PRIOR} evenly decided battles of each model against a model of average strength, so that "
        "every rating is finite.",
        *judge_notes,
    ]
    if held := _control_names(ranking, held=True):
        notes.append(
            f"Held equal: {', '.join(held)}. Ratings and predictions are for responses that do not differ in these."
        )
    if ranking["from"] != "votes":
        notes.append("No interval covers a judge's bias for a model: compare the ranking with votes if there are any.")
    if ranking.get("reference", {}).get("spearman"):
        spearman, common = number(ranking["reference"]["spearman"], 3), ranking["reference"]["models"]
        notes.append(f"Spearman's correlation with the reference: {spearman}, over {common} models.")
    return notes


def caveats(ranking: dict) -> list[str]:
    """List what limits the ranking: models left out, unbounded ratings, few prompts, untold effects."""
    caveats = []
    if ranking["left_out"]:
        groups = [names(group) for group in ranking["left_out_groups"][:MOST_NAMES]]
        more = len(ranking["left_out_groups"]) - len(groups)
        caveats.append(
            f"left out, as no battle connects them with the others: {'; '.join(groups)}"
            + (f"; and {more} more groups" if more else "")
        )
    if ranking["unbounded"]:
        caveats.append(
            "won or lost all their battles with the others, so their ratings are unbounded: "
            + names(ranking["unbounded"])
        )
    if ranking["prompts"] < FEWEST_PROMPTS:
        few = "all battles have one prompt" if ranking["prompts"] == 1 else f"{ranking['prompts']} prompts are few"
        caveats.append(f"{few}, so there are no intervals, and no rank is certain")
    elif ranking["prompts"] < MIN_PROMPTS:
        caveats.append(f"{ranking['prompts']} prompts: intervals from so few are too narrow")
    if untold := _control_names(ranking, held=False):
        caveats.append(
            f"not held equal, because fewer than {FEWEST_SHOWING} prompts show the feature, or the response with more "
            f"of it won fewer than {FEWEST_EACH_WAY} prompts or fewer lost: {', '.join(untold)}"
        )
    if ranking.get("reference", {}).get("missing"):
        caveats.append(f"not in the reference: {names(ranking['reference']['missing'])}")
    return caveats


def _control_names(ranking: dict, held: bool) -> list[str]:
    return [
        control["name"] for control in ranking["controls"] if (control["coefficient"]["value"] is not None) == held
    ]


def names(models: list[str]) -> str:
    """Join the first MOST_NAMES names for a sentence."""
    more = f" and {len(models) - MOST_NAMES} more" if len(models) > MOST_NAMES else ""
    return ", ".join(visible(name) for name in sorted(models)[:MOST_NAMES]) + more
