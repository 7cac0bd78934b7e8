"""
Pictures of the report as inline SVG: transparent, their grey that of the page's own text, readable on light and dark.

Drawn through figure objects, so no state of pyplot is touched and no display is needed.
"""

import io
import re
import warnings

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

GREY = "#808080"
LOWEST_SCORE = -8.0  # of the scatter: lower ones are drawn at its edge
COLOURS = ("#4c8dd6", "#e08a3c", "#46a877", "#c9608f", "#9a7fd1", "#b59f3b", "#4fb0b8")
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a language called "$x$" is a name
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


def svg(name: str, draw, height: float = 3.6) -> str:
    """Let `draw(axes)` draw and return `<svg ...>`. `name` salts the ids, so that pictures on a page share none."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a glyph that our font lacks; the browser has its own
        figure = Figure(figsize=(7.2, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = text.replace(GREY, "currentColor")
    return text.replace("<svg ", f'<svg role="img" aria-label="{name}" ', 1)


def plot_skill(rows: list[dict], key: str, main: str) -> str:
    """The log loss or accuracy of each row of the skill table with its interval, what is no judge in grey."""

    def draw(axes):
        places = range(len(rows))
        for place, row in zip(places, rows, strict=True):
            colour = COLOURS[0] if row["judge"] else GREY
            axes.errorbar(*_spans([row[key]], [place]), fmt="o", markersize=5, color=colour)
        axes.set_yticks(places, [row["name"] for row in rows])
        for label in axes.get_yticklabels():
            label.set_fontweight("bold" if label.get_text() == main else "normal")
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(
            key.replace("_", " ") + ("; right is better" if key == "accuracy" else " in nats; left is better")
        )

    return svg("how good the judges are", draw, 0.9 + 0.34 * len(rows))


def plot_preferred(better: list[float], worse: list[float], of: int) -> str:
    """A point a battle: the score of the response that people prefer (right) and of the other (up), logs of p."""
    low = max(min([*better, *worse]), LOWEST_SCORE)

    def draw(axes):
        axes.plot([low, 0], [low, 0], color=GREY, linewidth=0.8, linestyle=":")
        axes.scatter(np.maximum(better, low), np.maximum(worse, low), s=7, color=COLOURS[0], alpha=0.35, linewidth=0)
        axes.set(aspect="equal", ylabel="log probability of the other response")
        shown = f"{len(better):,} of {of:,}" if of > len(better) else f"{of:,}"
        axes.set_xlabel(f"log probability of the one people prefer; below the line the judge agrees ({shown} battles)")

    return svg("preferred and other response", draw, 4.2)


def plot_styles(figures: dict) -> str:
    """What each style adds to a response's lead, for people and for the judge, with intervals."""
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
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))

    return svg("what sways people and the judge", draw, 1.2 + 0.42 * len(names))


def plot_reliability(judges: dict) -> str:
    """Accuracy over confidence in equal-mass bins, a line a judge; on the diagonal a judge knows what it knows."""

    def draw(axes):
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
        points = [point for figures in judges.values() for point in figures["reliability"]]
        for (name, figures), colour in zip(judges.items(), _colours(judges), strict=True):
            x, y, n = zip(*((p["confidence"], p["accuracy"], p["n"]) for p in figures["reliability"]), strict=True)
            sizes = [8 + 60 * count / max(point["n"] for point in points) for count in n]
            axes.plot(x, y, color=colour, linewidth=1)
            axes.scatter(x, y, s=sizes, color=colour, label=name)
        low = min(min(point["confidence"], point["accuracy"]) for point in points)
        axes.set(xlim=(low - 0.03, 1.02), ylim=(low - 0.03, 1.02), ylabel="how often it is right")
        axes.set_xlabel("probability of the chosen verdict")
        axes.legend()

    return svg("reliability", draw, 4.2)


def plot_losses(logs: dict[str, list[dict]]) -> str:
    """Training loss by step (lines) and held-out loss (points) of each run's log."""

    def draw(axes):
        for (name, log), colour in zip(logs.items(), _colours(logs), strict=True):
            for key, style in (("loss", {"linewidth": 1}), ("eval_log_loss", {"marker": "o", "linestyle": ":"})):
                points = [(row["step"], row[key]) for row in log if key in row and "step" in row]
                if points:
                    label = name if key == "loss" else f"{name}, held out"
                    axes.plot(*zip(*points, strict=True), color=colour, label=label, **style)
        axes.set(xlabel="step", ylabel="log loss")
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))

    return svg("loss by step", draw, max(3.6, 0.24 * len(logs)))


def plot_slice_losses(dimension: str, judges: dict) -> str:
    """Log loss, or accuracy where a judge has none, in each part of one dimension, a colour a judge."""
    parts = list(next(iter(judges.values()))["slices"][dimension])
    shown = [part for figures in judges.values() for part in figures["slices"][dimension].values()]
    key = "log_loss" if all(part["log_loss"]["value"] is not None for part in shown) else "accuracy"

    def draw(axes):
        for index, ((name, figures), colour) in enumerate(zip(judges.items(), _colours(judges), strict=True)):
            ratings = [figures["slices"][dimension][part][key] for part in parts]
            shift = 0.5 * (index - (len(judges) - 1) / 2) / len(judges)
            places = [row + shift for row in range(len(parts))]
            axes.errorbar(*_spans(ratings, places), fmt="o", markersize=4, color=colour, label=name)
        axes.set_yticks(range(len(parts)), parts)
        axes.invert_yaxis()
        axes.set_xlabel(key.replace("_", " "))
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))

    return svg(f"{key.replace('_', ' ')} by {dimension}", draw, 1.2 + len(parts) * max(0.3, 0.14 * len(judges)))


def plot_lengths(counts: dict[str, list[int]], edges: list[float]) -> str:
    """How many battles have a prompt or a response of each length, in characters."""

    def draw(axes):
        middles = [(low + high) / 2 for low, high in zip(edges, edges[1:], strict=False)]
        for (name, values), colour in zip(counts.items(), _colours(counts), strict=True):
            axes.step(middles, values, where="mid", color=colour, label=name)
        axes.set(xlabel="characters; the longest hundredth is in the last step", ylabel="battles")
        axes.legend()

    return svg("lengths", draw, 3)


def plot_length_steps(histogram: dict, names: dict[str, str]) -> str:
    """How many battles have a text of each length, on a logarithmic scale; `names` of the fields for people."""

    def draw(axes):
        for (field, counts), colour in zip(histogram["counts"].items(), _colours(names), strict=True):
            axes.stairs(counts, histogram["edges"], color=colour, linewidth=1.2, label=names[field])
        _logarithmic(axes)
        axes.set(xlabel="characters", ylabel="battles")
        axes.legend()

    return svg("lengths in characters", draw, 3)


def plot_longer_than(curves: dict[str, dict], budgets: list[int]) -> str:
    """The share of battles with more than so many tokens, a line a judge; `budgets` as dotted lines."""

    def draw(axes):
        for (name, curve), colour in zip(curves.items(), _colours(curves), strict=True):
            axes.plot(curve["tokens"], [100 * share for share in curve["share"]], color=colour, label=name)
        for budget in budgets:
            axes.axvline(budget, color=GREY, linewidth=0.6, linestyle=":")
        _logarithmic(axes)
        axes.set(xlabel="tokens of the whole prompt", ylabel="% of battles that are longer")
        axes.legend(fontsize=8)

    return svg("lengths in tokens", draw, 3)


def plot_win_rates(models: list[dict]) -> str:
    """The share of decided battles that each model won, with its interval; those with most battles first."""

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
    """Each cell of a sweep less the reference, with its interval; of a cell that crosses the line nothing is known."""
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
    What `errorbar` takes: values, places, None, and how far their intervals reach to either side.

    A figure without an interval (one prompt) reaches nowhere, one without a value is not drawn.
    """
    there = [(figure, place) for figure, place in zip(figures, places, strict=True) if figure["value"] is not None]
    values = np.array([scale * figure["value"] for figure, _ in there])
    ends = [[scale * (f["value"] if f[end] is None else f[end]) for f, _ in there] for end in ("low", "high")]
    return values, [place for _, place in there], None, np.abs(np.array(ends) - values)


def _logarithmic(axes) -> None:
    """A logarithmic x axis whose numbers are written out, at 1 and 3 of each power of ten."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _colours(names) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(len(names))]
