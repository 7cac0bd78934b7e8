"""
The audit as tables, for the terminal and for audit.html.

Names from the battles (sources, models) are truncated and made visible. The tables hold no text of the battles; only
`examples` bring text to the page.
"""

from sft_judge.data.battles import FIELDS
from sft_judge.evaluation.reporting import plots
from sft_judge.evaluation.reporting.battle_text import FIELD_NAMES, LONGEST_TEXT, battle_text, visible
from sft_judge.evaluation.reporting.html import Section, Table, render_page
from sft_judge.evaluation.reporting.tables import percent

MAX_NAMES_SHOWN = 20  # names in a table or plot; the others are only counted


def render_audit(name: str, audit: dict, examples: list[tuple[str, dict]]) -> tuple[list[Table], str]:
    """
    Build the tables to print and the HTML page.

    Args:
        name: name of the battles, for the title.
        audit: contents of audit.json.
        examples: (reason, battle) pairs whose text is shown.
    """
    overview, wins, injections = overview_table(audit), wins_table(audit), injections_table(audit)
    tokens = [tokens_table(audit["tokens"])] if audit["tokens"] else []
    counts = [counts_table(by, counts) for by, counts in audit["rows_by"].items() if list(counts) != ["none"]]
    rated = [{**row, "model": visible(row["model"])} for row in audit["models"][:MAX_NAMES_SHOWN] if row["win_rate"]]
    sections = [
        Section("", tables=[overview]),
        Section("Who wins", tables=[wins]),
        Section(
            "Lengths in characters",
            [plots.plot_length_steps(audit["length_histogram"], FIELD_NAMES)],
            [quantiles_table("Characters", audit["characters"], symmetry_note(audit["length_symmetry"]))],
        ),
        Section("Lengths in tokens", _token_pictures(audit["tokens"]), [*tokens, *_token_quantiles(audit["tokens"])]),
        *(Section(f"Rows by {table.title.lower()}", tables=[table]) for table in counts),
        Section("Models", [plots.plot_win_rates(rated)] if rated else [], models_tables(audit["models"])),
        Section("Text like control tokens, tags or verdicts", tables=[injections]),
        Section(
            "Examples",
            texts=[battle_text(why, row) for why, row in examples],
            note=f"Turns are cut at {LONGEST_TEXT:,} characters. Invisible characters are shown as their code point.",
        ),
    ]
    shown = f"The text of {len(examples)} of them is shown at the end." if examples else "None of their text is shown."
    title = f"Audit of {visible(name)}"
    page = render_page(title, title, [f"{audit['rows']:,} battles. {shown}"], sections)
    return [overview, wins, *tokens, *counts, injections], page


def overview_table(audit: dict) -> Table:
    """Build the table of row counts that may need inspection."""
    duplicates, leaks = audit["duplicates"], audit["leaks"]
    rows = [
        ["rows", f"{audit['rows']:,}"],
        ["different prompts", f"{duplicates['different_prompts']:,}"],
        ["rows that share their prompt", f"{duplicates['rows_sharing_a_prompt']:,}"],
        ["rows that repeat a row", f"{duplicates['rows_repeating_a_row']:,}"],
        ["rows with identical responses", f"{audit['identical_responses']:,}"],
        *([f"rows with an empty {FIELD_NAMES[name]}", f"{count:,}"] for name, count in audit["empty"].items()),
        ["rows with text like control tokens, tags or verdicts", f"{audit['hostile_rows']:,}"],
    ]
    if leaks is None:
        return Table("Overview", ["what", "rows"], rows, "no folds yet, so none of them leaks; `prepare` makes folds")
    rows += [
        ["first turns that are in two folds", f"{leaks['first_turns_in_two_folds']:,}"],
        ["rows with a near-equal prompt in another fold", f"{leaks['rows_near_another_fold']:,}"],
    ]
    note = (
        f"near-equal prompts in two folds: {leaks['rows_near_another_fold']:,} rows (estimated Jaccard similarity of "
        f"word pairs {leaks['jaccard_similarity']:g} or more, or the same first turn, among "
        f"{leaks['different_prompts']:,} prompts)"
    )
    some = "; ".join(" and ".join(map(visible, pair)) for pair in leaks["example_ids"])
    return Table("Overview", ["what", "rows"], rows, note + (f", such as {some}" if some else ""))


def wins_table(audit: dict) -> Table:
    """Build the table of win rates of the first and the longer answer."""
    rates = {"first answer": audit["first_answer_wins"], "longer answer": audit["longer_answer_wins"]}
    rows = [[name, percent(rate), f"{rate['n'] if rate else 0:,}"] for name, rate in rates.items()]
    return Table("Wins", ["", "wins", "of battles"], rows, "ties left out; in brackets 95 % over prompts")


def symmetry_note(symmetry: dict) -> str:
    """Describe the Kolmogorov-Smirnov test of the lengths of A and B."""
    if symmetry["p_value"] is None:
        return "A against B: too few battles to tell whether they differ in length"
    negation = "" if symmetry["p_value"] < 0.05 else "no "
    return (
        f"A against B: Kolmogorov-Smirnov distance {symmetry['ks_distance']:.4f}, p = {symmetry['p_value']:.3g}: "
        f"{negation}sign that they differ in length (LMSYS Arena write-up: the two are almost the same)"
    )


def quantiles_table(title: str, lengths: dict[str, dict], note: str = "", folded: bool = False) -> Table:
    """
    Build a table of length quantiles, one row per quantile and one column per field.

    Args:
        title: title of the table.
        lengths: `{field: {quantile: length}}`.
        note: note below the table.
        folded: show the table folded.
    """
    names = [f"{float(q):.0%}" for q in next(iter(lengths.values()))]
    rows = [
        [name, *(f"{value:,.0f}" for value in values)]
        for name, *values in zip(
            ["shortest", *names[1:-1], "longest"], *map(dict.values, lengths.values()), strict=True
        )
    ]
    return Table(title, ["", *(FIELD_NAMES.get(field, field) for field in lengths)], rows, note, folded)


def tokens_table(tokens: dict) -> Table:
    """Build the table of the share of battles that each total token budget cuts, one row per judge."""
    totals = list(next(iter(tokens.values()))["share_over"])
    rows = [
        [visible(name), *(f"{100 * share:.2f} %" for share in statistics["share_over"].values())]
        for name, statistics in tokens.items()
    ]
    note = "share of battles whose whole prompt with its verdict is longer than so many tokens, and so would be cut"
    return Table("Tokens", ["", *(f"{int(total):,}" for total in totals)], rows, note)


def _token_quantiles(tokens: dict) -> list[Table]:
    return [
        quantiles_table(f"Tokens of {visible(name)}", statistics["quantiles"], "", True)
        for name, statistics in tokens.items()
    ]


def _token_pictures(tokens: dict) -> list[str]:
    curves = {visible(name): statistics["longer"] for name, statistics in tokens.items()}
    return (
        [plots.plot_longer_than(curves, [int(total) for total in next(iter(tokens.values()))["share_over"]])]
        if tokens
        else []
    )


def counts_table(by: str, counts: dict[str, int]) -> Table:
    """
    Build the table of rows per value, with the rarest values summed up.

    Args:
        by: name of the column that is counted.
        counts: rows per value, most frequent first.
    """
    total, named = sum(counts.values()), list(counts.items())
    rows = [(visible(name), count) for name, count in named[:MAX_NAMES_SHOWN]]
    if len(named) > MAX_NAMES_SHOWN:
        rows.append((f"{len(named) - MAX_NAMES_SHOWN:,} others", sum(count for _, count in named[MAX_NAMES_SHOWN:])))
    shares = [[name, f"{count:,}", f"{100 * count / total:.1f} %"] for name, count in rows]
    return Table(by.capitalize(), [by, "rows", "share"], shares)


def models_tables(models: list[dict]) -> list[Table]:
    """Build the table of battles and wins of the most frequent models; no table if no model is named."""
    rows = [
        [
            visible(row["model"]),
            *(f"{row[key]:,}" for key in ("battles", "wins", "losses", "ties")),
            percent(row["win_rate"]),
        ]
        for row in models[:MAX_NAMES_SHOWN]
    ]
    others = models[MAX_NAMES_SHOWN:]
    if others:
        sums = (sum(row[key] for row in others) for key in ("battles", "wins", "losses", "ties"))
        rows.append([f"{len(others):,} others", *(f"{value:,}" for value in sums), "–"])
    columns = ["", "battles", "wins", "losses", "ties", "wins of the decided"]
    return [Table("Models", columns, rows)] if rows else []


def injections_table(audit: dict) -> Table:
    """Build the table of battles with injected text, by kind and field."""
    rows = [[kind, *(f"{fields[name]:,}" for name in FIELDS)] for kind, fields in audit["hostile_text"].items()]
    note = "battles with such text. A judge reads it as text: see `sft-judge prompt show`"
    return Table(
        "Text like control tokens", ["kind", *FIELD_NAMES.values()], rows or [["any kind", *["0"] * len(FIELDS)]], note
    )
