"""Print tables and a battle's prompt, formatted on a terminal and plain on a pipe."""

import sys


def print_tables(tables: list) -> None:
    """Print each `Table` on standard output: fitted to the width of a terminal, plain and never cut on a pipe."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    from sft_judge.evaluation.reporting.html import explain_marks

    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else 200, highlight=False)
    for table in tables:
        drawn = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD if terminal else box.ASCII2)
        for name in table.columns:
            drawn.add_column(Text(name), overflow="fold")
        for row in table.rows:
            drawn.add_row(*(Text(cell) for cell in row))
        console.print(drawn)
        if table.note:
            print(table.note)
    for line in explain_marks(tables):
        print(line)


def print_prompt(prompt, row: dict, order: str) -> None:
    """
    Print one battle as a judge reads it: marked text, the position of the answer, and the tokens around it.

    Args:
        prompt: a `JudgePrompt`.
        row: a battle.
        order: which response is shown first, one of ORDERS.
    """
    from rich.console import Console
    from rich.text import Text

    from sft_judge.prompts.show import LEGEND, MARKS, segments, token_lines

    fields = prompt.fit([row])[0]
    console = Console(soft_wrap=True)
    text = Text()
    for kind, part in segments(prompt, row, fields, order):
        style, before, after = MARKS[kind]
        text.append(part, style) if console.is_terminal else text.append(f"{before}{part}{after}")
    console.print(text)
    for line in token_lines(prompt, row, fields, order):
        console.print(Text(line))
    if not console.is_terminal:
        console.print(Text(LEGEND))
