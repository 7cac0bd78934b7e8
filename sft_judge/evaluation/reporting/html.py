"""
HTML pages of the reports: one self-contained file each, readable offline, on a phone and in dark mode.

A page has a title, notes, and sections of plots, tables and folded texts. Text from users' files is escaped by the
template and nowhere else, and the page's content security policy forbids scripts and requests.
"""

import re
from dataclasses import dataclass, field
from importlib.resources import files

import jinja2
from markupsafe import Markup, escape

from sft_judge.data.share_interval import FEW_PROMPTS, LEAST_PROMPTS

NO_INTERVAL, FEW_MARK = "[–]", "†"  # shown instead of an interval, and after an interval over few prompts
ABOUT_MARKS = {
    NO_INTERVAL: f"no interval: it needs {LEAST_PROMPTS} different prompts, and rows that are not all equal",
    FEW_MARK: f"a rough interval, over fewer than {FEW_PROMPTS} different prompts",
}
_FIGURE = re.compile(r"([-+−–]?[\d.,]+(?: %)?) (\[.*)")


@dataclass
class Table:
    """
    Table for the terminal or a page.

    Attributes:
        title: title of the table.
        columns: column headings.
        rows: rows of as many strings as there are columns.
        note: note below the table.
        folded: opened by a click on its title.
        main: first cell of the row to highlight.
        prose: cells are sentences that wrap.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""
    folded: bool = False
    main: str = ""
    prose: bool = False


@dataclass
class Text:
    """Folded block of text; `parts` are (heading, text) pairs shown verbatim."""

    title: str
    parts: list[tuple[str, str]]


@dataclass
class Section:
    """Section of a page, left out if it is empty; `pictures` are our own SVG and are not escaped."""

    title: str
    pictures: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    note: str = ""

    def __bool__(self) -> bool:
        return bool(self.pictures or self.tables or self.texts)


def explain_marks(tables: list[Table]) -> list[str]:
    """Return a sentence for each mark that occurs in a cell of these tables."""
    cells = [cell for table in tables for row in table.rows for cell in row]
    return [f"{mark} {about}." for mark, about in ABOUT_MARKS.items() if any(mark in cell for cell in cells)]


def render_page(title: str, heading: str, notes: list[str], sections: list[Section], lead: list[str] = ()) -> str:
    """
    Render a page as HTML.

    Args:
        title: title of the window.
        heading: heading of the page.
        notes: small sentences below the heading.
        sections: sections of the page; empty sections are left out. Four titles or more make a list of contents.
        lead: sentences that say the result, above the notes.
    """
    template = files("sft_judge.evaluation.reporting").joinpath("page.html.jinja").read_text(encoding="utf-8")
    notes = [*notes, *explain_marks([table for section in sections for table in section.tables])]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["figure"] = mark_figure
    sections = [section for section in sections if section]
    widths = sorted({len(table.columns) for section in sections for table in section.tables if table.columns})
    return environment.from_string(template).render(
        title=title, heading=heading, lead=lead, notes=notes, sections=sections, widths=widths, svg=Markup
    )


def mark_figure(cell: str) -> Markup:
    """Return a cell as HTML, in which a figure and its interval wrap as two units."""
    found = _FIGURE.fullmatch(cell)
    if not found:
        return escape(cell)
    value, interval = map(escape, found.groups())
    return Markup('<span class="figure">{}</span> <span class="interval">{}</span>').format(value, interval)
