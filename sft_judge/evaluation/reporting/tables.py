"""
Tables of figures for the terminal and the report.

The number format is decided here: four decimals for log loss, one for percent, the interval in brackets.
"""

from sft_judge.evaluation.reporting.html import FEW_MARK, NO_INTERVAL, Table


def number(figure: dict | None, digits: int = 4) -> str:
    """
    Format a figure as `0.9012 [0.8900, 0.9134]`, or a dash if there is nothing to measure.

    Args:
        figure: `{"value", "low", "high"}` or None.
        digits: number of decimals.
    """
    return _spread(figure, lambda value: f"{value:.{digits}f}")


def percent(figure: dict | None) -> str:
    """Format a figure as `61.2 % [58.0, 64.1]`."""
    return _spread(figure, lambda value: f"{100 * value:.1f}", " %")


def points(figure: dict | None) -> str:
    """Format a difference between probabilities in percentage points, as `+3.1 [1.2, 5.0]`."""
    return _spread(figure, lambda value: f"{100 * value:+.1f}")


def count(figure: dict | None) -> str:
    """Format a figure as `1,234 [1,200, 1,268]`."""
    return _spread(figure, lambda value: f"{value:,.0f}")


def _spread(figure, form, unit="") -> str:
    if figure is None or figure["value"] is None:
        return "–"
    if "low" not in figure:
        return form(figure["value"]) + unit
    if figure["low"] is None:
        return f"{form(figure['value'])}{unit} {NO_INTERVAL}"
    mark = FEW_MARK if "prompts" in figure else ""
    return f"{form(figure['value'])}{unit} [{form(figure['low'])}, {form(figure['high'])}]{mark}"


def skill_table(metrics: dict) -> Table:
    """Build the table of each judge's log loss and accuracy, and its skill score if the ground truth is known."""
    with_truth = "gap_share" in metrics["worth"][0]
    columns = ["", *(["expected log loss", "skill score"] if with_truth else []), "log loss", "accuracy"]
    rows = [
        [
            row["name"],
            *([number(row["expected_log_loss"]), percent(row["gap_share"])] if with_truth else []),
            number(row["log_loss"]),
            percent(row["accuracy"]),
        ]
        for row in metrics["worth"]
    ]
    note = "skill score: 0 % for the class frequencies, 100 % for the best possible expected log loss; "
    calibrated = f"; calibrated: {', '.join(metrics['calibrated']) or 'none'}"
    return Table("Judges", columns, rows, (note if with_truth else "") + metrics["worth_note"] + calibrated)


def figures_table(judges: dict) -> Table:
    """Build the table of the remaining scalar figures, one column per judge."""
    labels = {
        "accuracy_ties_half": ("accuracy, a tie of one side as half", percent),
        "accuracy_without_ties": ("accuracy where neither side says tie", percent),
        "tie_recall": ("ties found", percent),
        "brier": ("Brier score", number),
        "ece": ("calibration error (ECE)", number),
        "macro_f1": ("macro F1", number),
        "kappa": ("Cohen's kappa", number),
        "kappa_without_ties": ("Cohen's kappa where neither side says tie", number),
        "better_mean": ("mean probability of the response that people prefer", number),
        "worse_mean": ("mean probability of the other", number),
        "worse_below_better": ("battles where the preferred one has more", count),
        "worse_above_better": ("battles where it has less", count),
        "margin_mean": ("log-odds of the preferred one, mean", number),
        "margin_std": ("log-odds of the preferred one, standard deviation", number),
    }
    rows = [[label, *(form(figures[key]) for figures in judges.values())] for key, (label, form) in labels.items()]
    rows.append(["verdicts given less than 1e-15", *(str(figures["clipped"]) for figures in judges.values())])
    return Table("Figures", ["", *judges], rows, "the response that people prefer: of the battles that are no ties")


def bias_table(judges: dict) -> Table:
    """Build the table of position and length bias."""
    rows = [
        [
            name,
            percent(figures["swap_agreement"]),
            percent(figures["first_position_rate"]),
            points(figures["position_effect"]),
            percent(figures["longer_response_rate"]["judge"]),
            percent(figures["longer_response_rate"]["people"]),
        ]
        for name, figures in judges.items()
    ]
    columns = ["", "same verdict in both orders", "chooses the first shown", "probability it gains by that"]
    columns += ["chooses the longer", "people choose it"]
    return Table("Position and length", columns, rows, "of the choices of a response; ties are no choice")


def style_table(name: str, figures: dict) -> Table:
    """
    Build the table of the effect of one standard deviation more of each style, the others held fixed.

    Args:
        name: the judge.
        figures: the judge's entry in metrics.json.
    """
    rows = [
        [style, points(effect["people"]), points(effect["judge"]), points(effect["difference"])]
        for style, effect in figures["style"].items()
    ]
    if "own_family" in figures:
        own = figures["own_family"]
        label = f"written by its own family, {own['family']} ({own['n']} battles)"
        rows.append([label, points(own["people"]), points(own["judge"]), points(own["difference"])])
    note = (
        "percentage points by which response a leads b, for one standard deviation more of it than b has, the other "
        "styles held fixed; the last column is the effect on the judge beyond that on people"
    )
    return Table(f"Effect of style on {name}", ["", "people", "the judge", "the judge beyond people"], rows, note)


def pairs_table(pairs: list[dict]) -> Table:
    """Build the table of paired differences on the same rows, with the rows needed to tell the judges apart."""
    keys = [key for key in ("delta_expected_log_loss", "delta_log_loss", "delta_accuracy") if key in pairs[0]]
    rows = [
        [
            f"{pair['a']} − {pair['b']}",
            *((percent if key == "delta_accuracy" else number)(pair[key]) for key in keys),
            *(rows_to_tell(pair["rows_needed"][key]) for key in ("log_loss", "accuracy")),
            f"{pair['mcnemar']['only_a']} : {pair['mcnemar']['only_b']}, p {pair['mcnemar']['p']:.2g}",
        ]
        for pair in pairs
    ]
    columns = ["", *(key.removeprefix("delta_").replace("_", " ") for key in keys)]
    columns += ["rows to tell by log loss", "by accuracy", "McNemar"]
    note = (
        "differences on the same rows; a log loss below zero means that the first is better. Rows to tell: the number "
        "of such rows that shows a difference of this size at a level of 5 % with a power of 80 %, for both ends of "
        "its interval. McNemar: battles that only one of the two has right, and the exact test on prompts"
    )
    return Table("Pairs", columns, rows, note)


def rows_to_tell(needed: dict | None) -> str:
    """Format `410 to 9,800`, or `410 or more` if the difference may be zero, or a dash if nothing is known."""
    if needed is None:
        return "–"
    return f"{needed['low']:,} or more" if needed["high"] is None else f"{needed['low']:,} to {needed['high']:,}"


def standings_table(standings: list[dict], judges: dict, measure: str) -> Table:
    """
    Build the table of the judges in order, as far as these rows can order them.

    Args:
        standings: result of `pairs.standings`.
        judges: figures of each judge, by name.
        measure: the metric that orders the judges.
    """
    rows = [
        [
            one["name"],
            f"{one['first']}" if one["first"] == one["last"] else f"{one['first']} to {one['last']}",
            number(judges[one["name"]]["log_loss"]),
            percent(judges[one["name"]]["accuracy"]),
        ]
        for one in standings
    ]
    note = (
        f"range of places by {measure.replace('_', ' ')}: two judges share a place if their difference is not "
        "significant, corrected for the number of pairs"
    )
    return Table("Order", ["", "place", "log loss", "accuracy"], rows, note)


_STAR = "* significant, corrected for the number of parts (false discovery rate of 5 %)"


def slice_tables(slices: dict) -> list[Table]:
    """Build a table for each dimension of slices."""
    return [
        Table(
            dimension.capitalize(),
            ["", "rows", "log loss", "accuracy", "log loss against the rest"],
            [
                [
                    name,
                    str(part["n"]),
                    number(part["log_loss"]),
                    percent(part["accuracy"]),
                    number(part["against_rest"]) + (" *" if part["differs"] else ""),
                ]
                for name, part in parts.items()
            ],
            _STAR if any(part["differs"] for part in parts.values()) else "",
        )
        for dimension, parts in slices.items()
    ]


def worst_table(worst: list[dict], name: str) -> Table:
    """
    Build the table of the battles with the largest loss, by id.

    Args:
        worst: entries of `worst_battles`.
        name: the judge.
    """
    rows = [[one["id"], one["vote"], one["judged"], f"{one['probability']:.2g}"] for one in worst]
    columns = ["id", "people", "the judge", "its probability of people's verdict"]
    return Table(f"Where {name} is most wrong", columns, rows, folded=True)


def cut_table(cut: dict) -> Table:
    """Build the table of battles that the judge's budget cuts, and of the tokens left out."""
    rows = [
        [field.replace("_", " "), f"{part['battles']:,}", f"{part['tokens']:,}"]
        for field, part in cut["fields"].items()
    ]
    note = f"{cut['battles']:,} of {cut['n']:,} battles were cut in the middle to the judge's budget"
    return Table("Cut", ["", "battles", "tokens left out"], rows, note)


def stages_table(stages: list[dict]) -> Table:
    """Build the table of time, peak memory and output of each stage, with their total."""
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
