"""
Train a judge of a small pretrained model on people's votes, within an hour on two CPU cores: `make demo-real`.

A few training steps are timed on this machine first. By their time the number of battles to train on is chosen, so
that all of `recipes/smollm2-135m/pipeline.yaml` ends in time, and the plan is printed. After a stop the same command
goes on where it was.

    python scripts/demo_real.py [--votes FILE or hub id] [--minutes 60] [--set train.limit=null]
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

JUDGE = [sys.executable, "-m", "sft_judge"]
RECIPE = "smollm2-135m/teacher"
PIPELINE = "recipes/smollm2-135m/pipeline.yaml"
FILE, HUB = "mtbench_majority_q1to7.jsonl", "lmsys/mt_bench_human_judgments"
BATTLES_A_STEP = 8
TIMED_STEPS = 4
# in training steps, as measured on two cores: a row that is read, and what the other stages take together
PREDICTED_ROW = 0.06
OTHER_STAGES = 60
LEAST = 80  # battles that are worth a try


def find_votes(given: str | None) -> tuple[str, list[str]]:
    """The votes, a file or a hub id, and what the import of them sets."""
    local = Path(os.environ.get("SFT_JUDGE_DATA", "")) / FILE
    votes = given or (str(local) if local.is_file() else HUB)
    return votes, ["--set", "import.split=human"] if votes == HUB else []


def seconds_a_step(run: Path) -> float:
    """Seconds of a training step here, timed once a run folder."""
    timing = run / "timing"
    words = ["--model_name_or_path", run / "base", "--battles", run / "battles.parquet", "--fold", 0]
    words += ["--max_steps", TIMED_STEPS, "--logging_steps", 1, "--save_strategy", "no", "--output_dir", timing]
    if not (timing / "manifest.json").is_file():
        call([*JUDGE, "train", "--config", RECIPE, *words])
    manifest = json.loads((timing / "manifest.json").read_text())
    return manifest["train_seconds"] / TIMED_STEPS


def plan(step: float, sizes: dict[str, int], minutes: float) -> tuple[int, list[str]]:
    """
    Choose the number of battles to train on.

    Args:
        step: seconds of a training step.
        sizes: battles to `train` on and to `evaluate` on, of all that there are.
        minutes: that everything may take.

    Returns:
        The number, and lines that say what takes how long.
    """
    rows = 3 * 2 * sizes["evaluate"]  # zero-shot, trained and 8 bits, in both orders
    parts = {f"reading {rows:,} prompts": rows * PREDICTED_ROW * step, "all else": OTHER_STAGES * step}
    left = 60 * minutes - sum(parts.values())
    fitting = min(int(left / step) * BATTLES_A_STEP, sizes["train"])
    chosen = max(fitting, min(LEAST, sizes["train"]))
    parts = {f"training on {chosen:,} of {sizes['train']:,} battles": chosen / BATTLES_A_STEP * step, **parts}
    lines = [f"{seconds / 60:6.1f} min  {what}" for what, seconds in parts.items()]
    total = sum(parts.values()) / 60
    late = "" if fitting == chosen else f"; that is more than {minutes:g}, but fewer battles teach nothing"
    return chosen, [f"a training step takes {step:.1f} s here, so:", *lines, f"{total:6.1f} min  in all{late}"]


def call(command: list) -> None:
    """Run a command; ends the program with its status where it fails."""
    status = subprocess.run([str(word) for word in command]).returncode
    if status:
        raise SystemExit(status)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--votes", help=f"a file or a hub id (SFT_JUDGE_DATA/{FILE}, else {HUB})")
    parser.add_argument("--minutes", type=float, default=60, help="that it may take (60)")
    parser.add_argument("--run", type=Path, default=Path("runs/demo-real"), help="folder (runs/demo-real)")
    parser.add_argument("--set", action="append", default=[], metavar="step.key=value", help="of the pipeline")
    options = parser.parse_args()
    votes, settings = find_votes(options.votes)
    settings += ["--set", f"run={options.run}", "--set", f"votes={votes}"]
    given = [word for value in options.set for word in ("--set", value)]
    pipeline = [*JUDGE, "run", PIPELINE, *settings]
    call([*pipeline, *given, "--until", "prepare"])
    step = seconds_a_step(options.run)
    sizes = count_battles(options.run / "battles.parquet")
    number, lines = plan(step, sizes, options.minutes)
    print(*lines, sep="\n", flush=True)
    first = number * sum(sizes.values()) // sizes["train"]  # rows of the file, of all folds
    call([*pipeline, "--set", f"train.limit={first}", *given])


def count_battles(file: Path) -> dict[str, int]:
    """Battles of the fold to evaluate on, and of those to train on."""
    import pyarrow.parquet as pq

    folds = pq.read_table(file, columns=["fold"])["fold"].to_pylist()
    return {"evaluate": folds.count(0), "train": len(folds) - folds.count(0)}


if __name__ == "__main__":
    main()
