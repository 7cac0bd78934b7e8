"""
Train a judge from a small pretrained model on human votes, within an hour on two CPU cores: `make demo-real`.

A few training steps are timed on this machine. From their time, the number of training battles is chosen so that all
of `recipes/smollm2-135m/pipeline.yaml` ends in time, and the plan is printed. After an interruption the same command
resumes.

    python scripts/demo_real.py [--votes FILE or Hub id] [--minutes 60] [--set train.limit=null]
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
# in training steps, measured on two cores: the prediction of one row, and all other stages together
PREDICTED_ROW = 0.06
OTHER_STAGES = 60
LEAST = 80  # smallest number of training battles


def find_votes(given: str | None) -> tuple[str, list[str]]:
    """Return the votes (a file or a Hub id) and the settings for their import."""
    local = Path(os.environ.get("SFT_JUDGE_DATA", "")) / FILE
    votes = given or (str(local) if local.is_file() else HUB)
    return votes, ["--set", "import.split=human"] if votes == HUB else []


def seconds_a_step(run: Path) -> float:
    """Return the seconds of a training step on this machine, timed once per folder `run`."""
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
        sizes: numbers of battles that are available to `train` and to `evaluate` on.
        minutes: time limit of the whole run.

    Returns:
        The number of battles, and lines with the expected time of each part.
    """
    rows = 3 * 2 * sizes["evaluate"]  # zero-shot, trained and 8 bits, in both orders
    parts = {f"reading {rows:,} prompts": rows * PREDICTED_ROW * step, "all else": OTHER_STAGES * step}
    left = 60 * minutes - sum(parts.values())
    fitting = min(int(left / step) * BATTLES_A_STEP, sizes["train"])
    chosen = max(fitting, min(LEAST, sizes["train"]))
    parts = {f"training on {chosen:,} of {sizes['train']:,} battles": chosen / BATTLES_A_STEP * step, **parts}
    lines = [f"{seconds / 60:6.1f} min  {what}" for what, seconds in parts.items()]
    total = sum(parts.values()) / 60
    late = "" if fitting == chosen else f"; this is more than {minutes:g}, but fewer battles teach nothing"
    return chosen, [f"a training step takes {step:.1f} s here, so:", *lines, f"{total:6.1f} min  in all{late}"]


def call(command: list) -> None:
    """Run a command; exit with its status if it fails."""
    status = subprocess.run([str(word) for word in command]).returncode
    if status:
        raise SystemExit(status)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--votes", help=f"file or Hub id of the votes (SFT_JUDGE_DATA/{FILE}, else {HUB})")
    parser.add_argument("--minutes", type=float, default=60, help="time limit of the whole run (60)")
    parser.add_argument("--run", type=Path, default=Path("runs/demo-real"), help="folder of the run (runs/demo-real)")
    parser.add_argument("--set", action="append", default=[], metavar="step.key=value", help="setting of the pipeline")
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
    """Return the numbers of battles in the evaluation fold and in the training folds."""
    import pyarrow.parquet as pq

    folds = pq.read_table(file, columns=["fold"])["fold"].to_pylist()
    return {"evaluate": folds.count(0), "train": len(folds) - folds.count(0)}


if __name__ == "__main__":
    main()
