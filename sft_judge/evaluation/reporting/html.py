"""
The pages that stages write: one HTML file that a person opens anywhere, offline, on a phone and in the dark.

A page is a title, notes, and sections of pictures, tables and folded texts. Whatever comes from people's files is
escaped here and nowhere else, and the page's own policy forbids scripts and requests besides.
"""

from dataclasses import dataclass, field
from importlib.resources import files

import jinja2
from markupsafe import Markup

from sft_judge.data.share_interval import FEW_PROMPTS, LEAST_PROMPTS

NO_INTERVAL, FEW_MARK = "[–]", "†"  # in place of an interval, and after one of few prompts
ABOUT_MARKS = {
    NO_INTERVAL: f"no interval: it needs {LEAST_PROMPTS} different prompts, and rows that are not all alike",
    FEW_MARK: f"of fewer than {FEW_PROMPTS} different prompts: a rough interval",
}


@dataclass
class Table:
    """
    `rows` of as many strings as `columns`, which stand on a terminal or on a page; `note` stands below.

    `folded`: opened by its title. `main`: the first cell of the row that matters. `prose`: cells are words that wrap.
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
    """A folded block: `parts` are (heading, text) pairs, shown as they are, letter by letter."""

    title: str
    parts: list[tuple[str, str]]


@dataclass
class Section:
    """Part of a page, left out where it holds nothing. `pictures` are SVG of our own making, not escaped."""

    title: str
    pictures: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)
    note: str = ""

    def __bool__(self) -> bool:
        return bool(self.pictures or self.tables or self.texts)


def explain_marks(tables: list[Table]) -> list[str]:
    """A sentence for each mark that stands in a cell of these tables."""
    cells = [cell for table in tables for row in table.rows for cell in row]
    return [f"{mark} {about}." for mark, about in ABOUT_MARKS.items() if any(mark in cell for cell in cells)]


def render_page(title: str, heading: str, notes: list[str], sections: list[Section]) -> str:
    """The page as HTML: `title` of the window, `heading` and `notes` on top, then the sections."""
    template = files("sft_judge.evaluation.reporting").joinpath("page.html.jinja").read_text(encoding="utf-8")
    notes = [*notes, *explain_marks([table for section in sections for table in section.tables])]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(
        title=title, heading=heading, notes=notes, sections=[section for section in sections if section], svg=Markup
    )
