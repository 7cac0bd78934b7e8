"""
Compare tokenisation of battles with the `tokenizers` library alone, in rows per second.

`JudgePrompt.encode`, with escaping, budget and template, is compared with `Tokenizer.encode_batch` on the same final
texts in the same process. Data are MT-Bench votes (`lmsys/train.csv` in SFT_JUDGE_DATA, else synthetic battles),
repeated to 20,000 rows, on one core and on two. Our code tokenises repeated texts once, so the main result has every
text made distinct; results on repeated rows are shown for comparison.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from measuring import over_rounds

ROWS, A_ROUND, VOCABULARY = 20_000, 1000, 16_000
GOAL = ">= 0.8"


def main() -> None:
    """Measure in a separate process for each number of cores, as the library sets its threads only once."""
    cores = sorted(os.sched_getaffinity(0))
    results = []
    for count in (1, 2)[: len(cores)]:
        environment = {"TOKENIZERS_PARALLELISM": "true" if count > 1 else "false", "RAYON_NUM_THREADS": str(count)}
        words = [sys.executable, __file__, ",".join(map(str, cores[:count]))]
        run = subprocess.run(words, env={**os.environ, **environment}, stdout=subprocess.PIPE, check=True)
        results += json.loads(run.stdout)
    print(json.dumps(results))


def measure(cores: list[int]) -> list[dict]:
    """Measure on these cores, and return the results for `bench.py`."""
    os.sched_setaffinity(0, cores)
    from sft_judge.modeling.judge_spec import Budget
    from sft_judge.modeling.tiny_models import qwen2_tokenizer
    from sft_judge.prompts.prompt import JudgePrompt
    from sft_judge.prompts.templates import read_template

    rows = battles()
    texts = [turn for row in rows for name in ("prompt", "response_a", "response_b") for turn in row[name]]
    tokenizer = qwen2_tokenizer([*texts, *["\nA\nB\ntie\n"] * 1000], VOCABULARY)
    make = partial(JudgePrompt, tokenizer, read_template("pair"), ["A", "B", "tie"], Budget(2048, 2048, 3072))
    where = f"{len(cores)} core" + ("s" if len(cores) > 1 else "")
    results = []
    for kind, distinct in (("distinct rows", True), ("repeated rows", False)):
        seconds = rounds(make, repeated(rows, distinct))
        bare, ours = ROWS / seconds.sum(axis=0)
        print(f"  {where}, {kind}: {ours:.0f} rows/s, encode_batch {bare:.0f}", file=sys.stderr, flush=True)
        name = f"prompts against encode_batch, {where}, {kind}"
        results.append(over_rounds(name, partial(rates, seconds), len(seconds), GOAL))
    return results


def rounds(make, rows: list[dict]):
    """
    Time the library and our code, each with an empty cache of words; which one is first alternates.

    Args:
        make: function that returns a `JudgePrompt`.
        rows: battles.

    Returns:
        Seconds `[rounds, 2]`, the library's first.
    """
    import numpy as np
    from tokenizers import Tokenizer

    other, prompt, seconds = make(), make(), []
    bare = Tokenizer.from_str(prompt.tokenizer.backend_tokenizer.to_str())
    for number, start in enumerate(range(0, len(rows), A_ROUND)):
        part = rows[start : start + A_ROUND]
        texts = [prompt.tokenizer.decode(ids) for (ids,) in other.encode(part, ("ab",))]
        calls = [partial(bare.encode_batch, texts, add_special_tokens=False), partial(prompt.encode, part, ("ab",))]
        turn = 1 if number % 2 else -1
        seconds.append([timed(call) for call in calls[::turn]][::turn])
    return np.array(seconds)


def rates(seconds, chosen) -> float:
    """
    Return the ratio of our rate to the library's.

    Args:
        seconds: seconds `[rounds, 2]`, the library's first.
        chosen: indices of rounds.
    """
    library, ours = seconds[chosen].sum(axis=0)
    return library / ours


def timed(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def battles() -> list[dict]:
    """Return MT-Bench votes, or synthetic battles if there are none."""
    from sft_judge.core.registry import run_stage
    from sft_judge.data.battles import read_battles

    source = Path(os.environ.get("SFT_JUDGE_DATA", "")) / "lmsys" / "train.csv"
    out, sys.stdout = sys.stdout, sys.stderr  # only the result goes to standard output
    with tempfile.TemporaryDirectory() as folder:
        if not source.is_file():
            print("  no SFT_JUDGE_DATA: synthetic battles", file=sys.stderr)
            run_stage("plant", ["--output", folder, "--rows", "2000", "--test-rows", "1", "--shifted-rows", "1"])
            source = Path(folder) / "train.csv"
        run_stage("import", [str(source), "--output", f"{folder}/battles.parquet"])
        sys.stdout = out
        return read_battles(Path(folder) / "battles.parquet").to_pylist()


def repeated(rows: list[dict], distinct: bool) -> list[dict]:
    """
    Return rows repeated to ROWS.

    Args:
        rows: battles.
        distinct: put a number into each turn, so that no text is repeated.
    """
    chosen = ((number, rows[number % len(rows)]) for number in range(ROWS))
    if not distinct:
        return [row for _, row in chosen]
    return [
        {
            **row,
            **{name: [f"{number}: {turn}" for turn in row[name]] for name in ("prompt", "response_a", "response_b")},
        }
        for number, row in chosen
    ]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure([int(core) for core in sys.argv[1].split(",")])))
    else:
        main()
