"""
Plots of the report as inline SVG, transparent and in the page's own text colour, readable on light and dark pages.

They use figure objects instead of pyplot, so no global state is changed and no display is needed.
"""

import io
import re
import textwrap
import warnings

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

GREY = "#808080"
LOWEST_SCORE = -8.0  # of the scatter plot; lower scores are drawn at its edge
COLOURS = ("#4c8dd6", "#e08a3c", "#46a877", "#c9608f", "#9a7fd1", "#b59f3b", "#4fb0b8", "#8d6e63")
MARKS = "osD^vP*X"  # one for each colour, so that eight runs differ in both
WIDTH = 6.0  # inches; text stays legible when a phone shrinks the plot
PANEL = 2.3  # inches, the height of a row of panels
PANELS_A_ROW = 3
LEGEND_CHARACTERS = 84  # of a line of the legend
TITLE_CHARACTERS = 24  # of a line of a panel's title
LABEL_CHARACTERS = 28  # of a line of a label beside a plot
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a language called "$x$" is a name, not a formula
    "text.color": GREY,
    "axes.labelcolor": GREY,
    "axes.edgecolor": GREY,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "legend.frameon": False,
    "font.size": 10,
}


def svg(name: str, draw, height: float = 3.6, panels: int | None = None) -> str:
    """
    Draw a plot and return it as `<svg ...>`.

    Args:
        name: label of the plot, also the salt of its ids, so that plots on one page share no id.
        draw: function that draws on the axes, or on a list of axes if there are `panels`.
        height: height in inches.
        panels: number of panels that share their axes, in rows of PANELS_A_ROW; None for a single plot.
    """
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a glyph is missing in our font; the browser has its own font
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot() if panels is None else _panels(figure, panels))
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = text.replace(GREY, "currentColor")
    return text.replace("<svg ", f'<svg role="img" aria-label="{name}" ', 1)


def plot_skill(rows: list[dict], key: str, main: str) -> str:
    """
    Plot the log loss or accuracy of each row of the skill table with its interval; baselines are grey.

    Args:
        rows: rows of the skill table, with `judge` False for baselines.
        key: metric to plot.
        main: row to print in bold.
    """

    def draw(axes):
        places = range(len(rows))
        for place, row in zip(places, rows, strict=True):
            colour = COLOURS[0] if row["judge"] else GREY
            axes.errorbar(*_spans([row[key]], [place]), fmt="o", markersize=5, color=colour)
        axes.set_yticks(places, [_wrap(row["name"], LABEL_CHARACTERS) for row in rows])
        for label, row in zip(axes.get_yticklabels(), rows, strict=True):
            label.set_fontweight("bold" if row["name"] == main else "normal")
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(
            key.replace("_", " ") + ("; right is better" if key == "accuracy" else " in nats; left is better")
        )

    return svg("how good the judges are", draw, 0.9 + 0.34 * len(rows))


def plot_preferred(better: list[float], worse: list[float], of: int) -> str:
    """
    Plot the log probability of the response that people prefer against that of the other, one point per battle.

    Args:
        better: log probabilities of the preferred responses.
        worse: log probabilities of the other responses.
        of: number of battles that the points are drawn from.
    """
    low = max(min([*better, *worse]), LOWEST_SCORE)

    def draw(axes):
        axes.plot([low, 0], [low, 0], color=GREY, linewidth=0.8, linestyle=":")
        axes.scatter(np.maximum(better, low), np.maximum(worse, low), s=7, color=COLOURS[0], alpha=0.35, linewidth=0)
        axes.set(aspect="equal", ylabel="log probability of the other response")
        shown = f"{len(better):,} of {of:,}" if of > len(better) else f"{of:,}"
        axes.set_xlabel(f"log probability of the one people prefer; below the line the judge agrees ({shown} battles)")

    return svg("preferred and other response", draw, 4.2)


def plot_styles(figures: dict) -> str:
    """Plot the effect of each style on people and on the judge, with intervals."""
    names = list(figures)

    def draw(axes):
        for index, (who, colour) in enumerate((("people", GREY), ("judge", COLOURS[0]))):
            places = [row + 0.24 * (index - 0.5) for row in range(len(names))]
            spans = _spans([figures[name][who] for name in names], places, 100)
            axes.errorbar(*spans, fmt="o", markersize=4, color=colour, label=who)
        axes.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel("percentage points of lead for one standard deviation more")
        _legend(axes)

    return svg("effect of style on people and the judge", draw, 1.2 + 0.42 * len(names))


def plot_reliability(judges: dict) -> str:
    """
    Plot accuracy over confidence in equal-mass bins with intervals, one panel per judge.

    A calibrated judge is on the diagonal.

    Args:
        judges: figures of each judge, by name.
    """
    points = [point for figures in judges.values() for point in figures["reliability"]]
    keys = ("confidence", "accuracy", "low", "high")
    ends = [point[key] for point in points for key in keys if point[key] is not None]
    limits, rows = (min(ends) - 0.03, max(ends) + 0.03), -(-len(judges) // PANELS_A_ROW)

    def draw(panels):
        for axes, (name, figures) in zip(panels, judges.items(), strict=True):
            axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
            bins = figures["reliability"]
            values = [{"value": one["accuracy"], "low": one["low"], "high": one["high"]} for one in bins]
            y, x, _, spread = _spans(values, [one["confidence"] for one in bins])
            axes.errorbar(x, y, yerr=spread, fmt="o-", markersize=3.5, linewidth=1, elinewidth=0.8, color=COLOURS[0])
            axes.set(xlim=limits, ylim=limits)
            axes.set_title(_wrap(name, TITLE_CHARACTERS), fontsize=9, color=GREY)
        for axes in panels[::PANELS_A_ROW]:
            axes.set_ylabel("accuracy")
        for axes in panels[-PANELS_A_ROW:]:
            axes.set_xlabel("confidence")

    return svg("reliability", draw, 0.5 + PANEL * rows, len(judges))


def plot_losses(logs: dict[str, list[dict]], key: str) -> str:
    """
    Plot a loss of each run by step.

    Args:
        logs: steps and losses of each run, by name.
        key: `loss`, the training loss, or `eval_log_loss`, the log loss on held-out battles.
    """
    runs = {
        name: [(row["step"], row[key]) for row in log if key in row and "step" in row] for name, log in logs.items()
    }
    runs = {name: points for name, points in runs.items() if points}
    label = "training loss" if key == "loss" else "held-out log loss"

    def draw(axes):
        for (name, points), colour, mark in zip(runs.items(), _colours(runs), _marks(runs), strict=True):
            axes.plot(
                *zip(*points, strict=True),
                color=colour,
                marker=mark,
                markersize=4,
                markevery=0.1,
                linewidth=1,
                label=name,
            )
        axes.set(xlabel="step", ylabel=label)
        _legend(axes)

    return svg(f"{label} by step", draw, 3.2 + 0.12 * len(runs))


def plot_slice_losses(dimension: str, judges: dict) -> str:
    """
    Plot the log loss, or the accuracy if a judge has no log loss, of each part of a dimension, one colour per judge.

    Args:
        dimension: dimension of the slices.
        judges: figures of each judge, by name.
    """
    parts = list(next(iter(judges.values()))["slices"][dimension])
    shown = [part for figures in judges.values() for part in figures["slices"][dimension].values()]
    key = "log_loss" if all(part["log_loss"]["value"] is not None for part in shown) else "accuracy"

    def draw(axes):
        for index, (name, figures) in enumerate(judges.items()):
            colour, mark = _colours(judges)[index], _marks(judges)[index]
            ratings = [figures["slices"][dimension][part][key] for part in parts]
            shift = 0.5 * (index - (len(judges) - 1) / 2) / len(judges)
            places = [row + shift for row in range(len(parts))]
            axes.errorbar(*_spans(ratings, places), fmt=mark, markersize=4, color=colour, label=name)
        axes.set_yticks(range(len(parts)), [_wrap(part, LABEL_CHARACTERS) for part in parts])
        axes.invert_yaxis()
        axes.set_xlabel(key.replace("_", " "))
        _legend(axes)

    return svg(
        f"{key.replace('_', ' ')} by {dimension}",
        draw,
        1.2 + 0.12 * len(judges) + len(parts) * max(0.3, 0.14 * len(judges)),
    )


def plot_lengths(counts: dict[str, list[int]], edges: list[float]) -> str:
    """
    Plot the number of battles by length of prompt and response, in characters.

    Args:
        counts: counts per bin, by field.
        edges: edges of the bins.
    """

    def draw(axes):
        middles = [(low + high) / 2 for low, high in zip(edges, edges[1:], strict=False)]
        for (name, values), colour in zip(counts.items(), _colours(counts), strict=True):
            axes.step(middles, values, where="mid", color=colour, label=name)
        axes.set(xlabel="characters; the longest hundredth is in the last step", ylabel="battles")
        _legend(axes)

    return svg("lengths", draw, 3)


def plot_length_steps(histogram: dict, names: dict[str, str]) -> str:
    """
    Plot the number of battles by length of text on a logarithmic scale.

    Args:
        histogram: `{"counts": {field: [bins]}, "edges": [bins + 1]}`.
        names: display names of the fields.
    """

    def draw(axes):
        for (field, counts), colour in zip(histogram["counts"].items(), _colours(names), strict=True):
            axes.stairs(counts, histogram["edges"], color=colour, linewidth=1.2, label=names[field])
        _logarithmic(axes)
        axes.set(xlabel="characters", ylabel="battles")
        _legend(axes)

    return svg("lengths in characters", draw, 3)


def plot_longer_than(curves: dict[str, dict], budgets: list[int]) -> str:
    """
    Plot the share of battles above each number of tokens, one line per judge.

    Args:
        curves: `{"tokens", "share"}` of each judge, by name.
        budgets: token budgets, drawn as dotted lines.
    """

    def draw(axes):
        for (name, curve), colour in zip(curves.items(), _colours(curves), strict=True):
            axes.plot(curve["tokens"], [100 * share for share in curve["share"]], color=colour, label=name)
        for budget in budgets:
            axes.axvline(budget, color=GREY, linewidth=0.6, linestyle=":")
        _logarithmic(axes)
        axes.set(xlabel="tokens of the whole prompt", ylabel="% of battles that are longer")
        _legend(axes)

    return svg("lengths in tokens", draw, 3)


def plot_win_rates(models: list[dict]) -> str:
    """Plot the share of decided battles that each model won, with its interval; models with most battles first."""

    def draw(axes):
        places = range(len(models))
        spans = _spans([model["win_rate"] for model in models], places)
        axes.errorbar(*spans, fmt="o", markersize=4, color=COLOURS[0])
        axes.axvline(0.5, color=GREY, linewidth=0.8, linestyle=":")
        axes.set_yticks(places, [model["model"] for model in models])
        axes.invert_yaxis()
        axes.set_xlabel("share of the decided battles won")

    return svg("win rates", draw, 1 + 0.26 * len(models))


def plot_differences(result: dict) -> str:
    """
    Plot the difference of each trial of a sweep from the reference, with its interval.

    An interval that crosses the zero line shows no significant difference.
    """
    cells = [(name, cell["difference"]) for name, cell in result["cells"].items() if cell["difference"]]

    def draw(axes):
        places = range(len(cells))
        axes.errorbar(*_spans([mean for _, mean in cells], places), fmt="o", markersize=4, color=COLOURS[0])
        axes.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
        axes.set_yticks(places, [name for name, _ in cells])
        axes.invert_yaxis()
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(f"{result['measure'].replace('_', ' ')}, minus that of {result['reference']}")

    return svg("differences from the reference", draw, 1.2 + 0.3 * len(cells))


def _spans(figures: list[dict], places, scale: float = 1) -> tuple:
    """
    Return the arguments of `errorbar`: values, places, None, and distances to the ends of the intervals.

    A figure without an interval (a single prompt) has zero distances; a figure without a value is not drawn.
    """
    there = [(figure, place) for figure, place in zip(figures, places, strict=True) if figure["value"] is not None]
    values = np.array([scale * figure["value"] for figure, _ in there])
    ends = [[scale * (f["value"] if f[end] is None else f[end]) for f, _ in there] for end in ("low", "high")]
    return values, [place for _, place in there], None, np.abs(np.array(ends) - values)


def _logarithmic(axes) -> None:
    """Set a logarithmic x axis with plain numbers, at 1 and 3 of each power of ten."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _panels(figure: Figure, number: int) -> list:
    """Return the axes of panels in rows; the unused ends of the last row stay empty."""
    columns = min(number, PANELS_A_ROW)
    axes = figure.subplots(-(-number // columns), columns, sharex=True, sharey=True, squeeze=False).flatten()
    for unused in axes[number:]:
        unused.set_visible(False)
    return list(axes[:number])


def _legend(axes) -> None:
    """Put the legend above the plot, where it hides no point and takes no width."""
    names = [str(name) for name in axes.get_legend_handles_labels()[1]]
    if names:
        columns = max(1, min(len(names), LEGEND_CHARACTERS // (6 + max(map(len, names)))))
        axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns)


def _wrap(name: str, characters: int) -> str:
    """Break a name into lines, also within a word that is longer than a line."""
    return "\n".join(textwrap.wrap(str(name), characters)) or str(name)


def _colours(names) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(len(names))]


def _marks(names) -> list[str]:
    return [MARKS[index % len(MARKS)] for index in range(len(names))]
