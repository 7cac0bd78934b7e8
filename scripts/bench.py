"""
Run all benchmarks and compare each with its goal: `make bench`.

Each `scripts/bench_*.py` prints a JSON list of `{"name", "ratio", "low", "high", "goal", "rounds"}` on standard
output: ratios of two rates or times that are measured alternately in one run, with 95 % intervals over the rounds. The
results go into `runs/bench.json` and a table. The exit status is 3 if a ratio misses its goal.
"""

import json
import operator
import subprocess
import sys
from pathlib import Path

from sft_judge.core.files import write_json

SCRIPTS = Path(__file__).parent
OUTPUT = SCRIPTS.parent / "runs" / "bench.json"
COMPARE = {">=": operator.ge, "<=": operator.le}


def main(names: list[str]) -> int:
    """Run the benchmarks with these names, such as "prompts"; without names, run all."""
    known = {script.stem.removeprefix("bench_"): script for script in sorted(SCRIPTS.glob("bench_*.py"))}
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"bench: no benchmark {unknown[0]!r}; there are {', '.join(known)}.", file=sys.stderr)
        return 2
    results = []
    for name in names or known:
        print(f"bench: {name}", file=sys.stderr, flush=True)
        run = subprocess.run([sys.executable, known[name]], stdout=subprocess.PIPE, check=True)
        results += json.loads(run.stdout)
    write_json(OUTPUT, results)
    print(table(results))
    return 0 if all(met(result) for result in results) else 3


def met(result: dict) -> bool:
    """Return True if a ratio reaches its goal, such as ">= 0.8"."""
    sign, bound = result["goal"].split()
    return COMPARE[sign](result["ratio"], float(bound))


def table(results: list[dict]) -> str:
    """Return a table with a line per benchmark."""
    width = max(len(result["name"]) for result in results)
    lines = [f"{'':{width}}  {'ratio':>6}  {'95 % interval':<16}  {'goal':<8}  rounds"]
    for result in results:
        interval = f"[{result['low']:.3f}, {result['high']:.3f}]"
        ratio, goal = f"{result['ratio']:.3f}", result["goal"] + ("" if met(result) else "  MISSED")
        lines.append(f"{result['name']:{width}}  {ratio:>6}  {interval:<16}  {goal:<8}  {result['rounds']}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
