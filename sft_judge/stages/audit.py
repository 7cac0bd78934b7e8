"""
Look before you train.

Writes audit.json and audit.html (one file, nothing fetched): rows by source, language, verdict and turns, lengths,
empty and identical responses, duplicates, how often the first and the longer answer wins, prompts that stand in two
folds, and text that looks like control tokens. No text of a battle is shown.
"""

import html
import io
import json

from sft_judge.files import InputPath, OutputPath, whole_folder
from sft_judge.stages import add_limit

EXAMPLE = "sft-judge audit battles.parquet --output runs/audit"
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:.5rem 0 1.5rem}td,th{padding:.2rem .8rem;border-bottom:1px solid #ddd;"
    "text-align:right}td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}"
)


def add_arguments(parser):
    parser.add_argument("battles", type=InputPath, metavar="BATTLES", help="battles, prepared or not")
    parser.add_argument("--output", type=OutputPath, required=True, metavar="DIR", help="the folder to write")
    add_limit(parser)


def run(args) -> dict:
    from sft_judge.battles.audit import audit_battles
    from sft_judge.battles.schema import read_battles
    from sft_judge.progress import Progress

    table = read_battles(args.battles, args.limit)
    with Progress("audit", table.num_rows) as progress:
        audit = audit_battles(table, progress.add)
    with whole_folder(args.output) as folder:
        (folder / "audit.json").write_text(json.dumps(audit, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / "audit.html").write_text(render_html(args.battles.name, audit), encoding="utf-8")
    print_audit(audit)
    return {"audit": {name: audit[name] for name in ("rows", "prompts_in_two_folds", "duplicates")}}


def print_audit(audit: dict) -> None:
    """The lines a person looks at first."""
    print(f"{audit['rows']} rows, {audit['duplicates']['different_prompts']} different prompts")
    for name, counts in audit["rows_by"].items():
        print(f"  {name:<10} {', '.join(f'{key} {count}' for key, count in list(counts.items())[:8])}")
    for name in ("first_answer_wins", "longer_answer_wins"):
        print(f"  {name.replace('_', ' '):<20} {_rate(audit[name])}")
    leaks = audit["prompts_in_two_folds"]
    print(f"  prompts in two folds {'no folds yet' if leaks is None else leaks}")
    print(f"  hostile text         {sum(audit['hostile_text'].values())} marks")


def _rate(rate: dict | None) -> str:
    if rate is None:
        return "no decided battles"
    return f"{rate['value']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}] of {rate['n']}"


def render_html(name: str, audit: dict) -> str:
    """The whole page, pictures inline; everything that came from the file is escaped."""
    duplicates, hostile = audit["duplicates"], audit["hostile_text"]
    leaks = audit["prompts_in_two_folds"]
    remarks = {
        "first answer wins": _rate(audit["first_answer_wins"]),
        "longer answer wins": _rate(audit["longer_answer_wins"]),
        "prompts that stand in two folds": "no folds yet" if leaks is None else leaks,
        "identical responses": audit["identical_responses"],
        **{f"empty {field}": count for field, count in audit["empty"].items()},
        **{key.replace("_", " "): count for key, count in duplicates.items()},
    }
    lengths = [
        [field, *(f"{value:,.0f}" for value in values.values())] for field, values in audit["characters"].items()
    ]
    quantiles = [f"{float(q):.0%}" for q in next(iter(audit["characters"].values()))]
    parts = [
        f"<h1>Audit of {html.escape(name)}</h1><p>{audit['rows']:,} battles. No text of a battle is shown here.</p>",
        _table(["what", "value"], remarks.items()),
        f"<h2>Lengths in characters</h2>{_table(['field', *quantiles], lengths)}{_length_picture(audit)}",
        "<h2>Rows by</h2>",
        *(f"<h3>{by}</h3>{_table([by, 'rows'], counts.items())}" for by, counts in audit["rows_by"].items()),
        f"<h2>Text that looks like control tokens</h2>{_table(['mark', 'texts'], hostile.items())}",
    ]
    head = f'<meta charset="utf-8"><title>Audit of {html.escape(name)}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _table(header, rows) -> str:
    def line(cells, tag):
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{line(header, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def _length_picture(audit: dict) -> str:
    """The quantiles of the three fields' lengths as inline SVG, the same bytes for the same numbers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context({"svg.hashsalt": "sft_judge", "svg.fonttype": "none"}):
        figure, axes = pyplot.subplots(figsize=(7, 3))
        for field, values in audit["characters"].items():
            axes.plot([float(q) for q in values], list(values.values()), marker="o", label=field)
        axes.set(xlabel="quantile", ylabel="characters", yscale="symlog", title="Length of the three fields")
        axes.legend()
        figure.tight_layout()
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    svg = drawn.getvalue()
    return svg[svg.index("<svg") :]
