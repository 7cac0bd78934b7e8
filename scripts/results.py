"""
Reproduce the results of docs/results/: `make results`, or `python scripts/results.py [SOURCE...]`.

Each source is a command that resumes where it stopped and skips what is up to date. `--read` runs no command and uses
existing results. The results are written into the block of the page between two marks, with the commit. Every new
value outside the interval of the old value is named.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

from sft_judge.core.files import whole_file
from sft_judge.core.manifest import git_commit
from sft_judge.evaluation.reporting.tables import number, percent, skill_table

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "results"
JUDGE = [sys.executable, "-m", "sft_judge"]
BENCHES = ("training", "batches", "predict")
COMMANDS = {
    "demo": [*JUDGE, "run", "recipes/demo/pipeline.yaml", "--jobs", "2"],
    "long": [*JUDGE, "run", "recipes/demo/long.yaml"],
    "distillation": [*JUDGE, "sweep", "recipes/sweeps/tiny/distillation.yaml", "--jobs", "2"],
    "ties apart": [*JUDGE, "sweep", "recipes/sweeps/tiny/distillation_vector.yaml", "--jobs", "2"],
    "bench": [sys.executable, "scripts/bench.py", *BENCHES],
}
FILES = {
    "demo": "runs/demo/metrics.json",
    "long": "runs/long/metrics.json",
    "distillation": "runs/sweeps/distillation/distillation.json",
    "ties apart": "runs/sweeps/distillation/distillation_vector.json",
    "bench": "runs/bench.json",
}
PAGE = {"bench": PAGES / "benchmarks.md"}  # the other blocks are in SYNTHETIC
SYNTHETIC = PAGES / "synthetic.md"
_FIGURE = re.compile(r"(-?[\d.]+)(?: %)? \[(-?[\d.]+), (-?[\d.]+)\]")


def skill_block(found: dict) -> list[str]:
    """Return the skill table of a metrics.json."""
    table = skill_table(found)
    return [*markdown(table.columns, table.rows), "", f"{found['n']:,} unseen battles; {table.note}."]


def long_block(found: dict) -> list[str]:
    """Return the result of the long training's judge, in one line."""
    row = next(row for row in found["worth"] if row["name"] == found["main"])
    cells = [row["name"], number(row["expected_log_loss"]), percent(row["gap_share"]), number(row["log_loss"])]
    return markdown(["", "expected log loss", "skill score", "log loss"], [cells])


def distillation_block(found: dict) -> list[str]:
    """Return each trial of the sweep with its difference from the reference, and the verdict."""
    rows = [
        [name, number(cell["value"]), number(cell["difference"]) if cell["difference"] else "reference"]
        for name, cell in found["cells"].items()
        if cell["value"]
    ]
    return [*markdown(["", "expected log loss", f"minus {found['reference']}"], rows), "", *verdict_block(found)]


def verdict_block(found: dict) -> list[str]:
    """Return the verdict of a sweep in a sentence."""
    return [f"{found['verdict']}."]


def bench_block(found: list[dict]) -> list[str]:
    """Return each ratio of a benchmark with its goal."""
    rows = [
        [one["name"], f"{one['ratio']:.3f} [{one['low']:.3f}, {one['high']:.3f}]", one["goal"], str(one["rounds"])]
        for one in found
    ]
    return markdown(["", "ratio", "goal", "rounds"], rows)


BLOCKS = {
    "demo": skill_block,
    "long": long_block,
    "distillation": distillation_block,
    "ties apart": verdict_block,
    "bench": bench_block,
}


def markdown(columns: list[str], rows: list[list[str]]) -> list[str]:
    """
    Return the lines of a Markdown table.

    Args:
        columns: titles.
        rows: cells.
    """
    return [f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows)]


def differing(old: str, new: str) -> list[str]:
    """
    Return values of the new block outside the interval of the same cell of the old block, and rows that are gone.

    Args:
        old: old block.
        new: new block.
    """
    before, after = _cells(old), _cells(new)
    found = [f"{row}: gone" for row in dict.fromkeys(row for row, _ in before) if row not in {row for row, _ in after}]
    for (row, column), cell in after.items():
        was, is_ = _FIGURE.search(before.get((row, column), "")), _FIGURE.search(cell)
        if was and is_ and not float(was[2]) <= float(is_[1]) <= float(was[3]):
            found.append(f"{row}: {column} {is_[0]}, was {was[0]}")
    return found


def _cells(block: str) -> dict[tuple[str, str], str]:
    """Return `{(row, column): cell}` of the table in a block."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines() if line.startswith("| ")]
    if not rows:
        return {}
    columns, _, *rows = rows
    return {(row[0], name): cell for row in rows for name, cell in zip(columns[1:], row[1:], strict=True)}


def replaced(text: str, name: str, block: str) -> tuple[str, str]:
    """
    Return the text of a page with a new block, and the old block.

    Args:
        text: text of the page.
        name: source of the block.
        block: new block.
    """
    marks = [f"<!-- results: {name} -->\n", f"<!-- end: {name} -->"]
    start, end = text.index(marks[0]) + len(marks[0]), text.index(marks[1])
    return text[:start] + block + text[end:], text[start:end]


def main(names: list[str], only_read: bool) -> None:
    for name in names:
        if not only_read:  # bench.py has status 3 if a goal is missed; its results are still valid
            subprocess.run(COMMANDS[name], cwd=ROOT, check=name != "bench")
        found = json.loads((ROOT / FILES[name]).read_text(encoding="utf-8"))
        command = " ".join(["python", *COMMANDS[name][1:]]).replace("python -m sft_judge", "sft-judge")
        block = "\n".join([*BLOCKS[name](found), "", f"`{command}` at commit `{git_commit() or 'unknown'}`.", ""])
        page = PAGE.get(name, SYNTHETIC)
        text, old = replaced(page.read_text(encoding="utf-8"), name, block)
        with whole_file(page) as aside:
            aside.write_text(text, encoding="utf-8")
        apart = differing(old, block)
        print(f"{name}: {len(apart)} values are outside their old interval")
        print("".join(f"  {one}\n" for one in apart), end="")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="SOURCE", help=f"sources to run, of {', '.join(COMMANDS)} (all)")
    parser.add_argument("--read", action="store_true", help="run no command, use existing results")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in COMMANDS]
    if unknown:
        parser.error(f"no source {unknown[0]!r}; there are {', '.join(COMMANDS)}")
    main(args.names or list(COMMANDS), args.read)
