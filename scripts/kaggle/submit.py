#!/usr/bin/env python3
"""
Make a submission on Kaggle without a network: wheels and judges are datasets, one process per GPU, within the limit.

    python submit.py --wheels /kaggle/input/judge-wheels --model /kaggle/input/judge --time-budget 8h40m \\
        --test /kaggle/input/COMPETITION/test.csv --sample /kaggle/input/COMPETITION/sample_submission.csv

Needs only Python, and makes an environment from the wheels. submission.csv is first a copy of the sample, then has
class frequencies, then more and more predictions. It is replaced atomically, so the notebook can be stopped at any
time. A second --model judges the battles that the first is least sure of, for its --share of the time. --plan prints
the commands. README.md beside this file tells how to make and upload the datasets.
"""

import argparse
import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
TRIES = 3  # starts of a process that fails, if there is time
LAST_STEP = 60  # seconds reserved for the mean of two judges
POLL = 2  # seconds between checks


def main():
    args = parser().parse_args()
    start, gpus = time.monotonic(), args.gpus or count_gpus()
    python = str(args.python or args.work / "venv" / "bin" / "python")
    shares = args.share or [1 / len(args.model)] * len(args.model)
    if len(shares) != len(args.model) or (args.weights and len(args.weights) not in (1, len(args.model))):
        sys.exit("kaggle: give one --share and one of --weights for each --model")
    judge = [python, "-m", "sft_judge"]
    imported = [*judge, "import", str(args.test), "--output", str(args.work / "battles.parquet")]
    if args.plan:
        for command in [] if args.python else install(args):
            print(shlex.join(command))
        print(shlex.join(imported))
        for place, share in enumerate(shares):
            for command, env in predictions(args, judge, place, gpus, share * args.time_budget):
                print(*(f"{key}={value}" for key, value in env.items()), shlex.join(command))
        return
    args.work.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(args.sample, args.output)  # a valid submission from the start
    for command in [*([] if args.python else install(args)), imported]:
        subprocess.run(command, check=True, env={**os.environ, **OFFLINE})
    asked_of_the_judges(args)
    for place in range(len(args.model)):
        left = args.time_budget - (time.monotonic() - start) - LAST_STEP * (place + 1 < len(args.model))
        until = time.monotonic() + left * shares[place] / sum(shares[place:])
        run_all(lambda seconds, place=place: predictions(args, judge, place, gpus, seconds), until, args, place)
    if len(args.model) > 1:
        mean(args, judge)
    print(f"kaggle: {args.output} after {time.monotonic() - start:.0f} of {args.time_budget} s")


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--test", type=Path, required=True, help="the competition's test.csv or test.parquet")
    result.add_argument("--sample", type=Path, required=True, help="the competition's sample_submission.csv")
    result.add_argument(
        "--model", type=Path, action="append", required=True, help="folder of a judge; can be given twice"
    )
    result.add_argument(
        "--time-budget", type=seconds, required=True, metavar="8h40m", help="time for the whole script"
    )
    result.add_argument("--share", type=float, action="append", help="share of the time, one per model (equal)")
    result.add_argument(
        "--weights", nargs="+", help="weights of two models: numbers, or the RULE.json of `submit --fit`"
    )
    result.add_argument("--wheels", type=Path, help="folder of wheels for the environment")
    result.add_argument("--python", type=Path, help="Python of an environment with sft_judge, instead of --wheels")
    result.add_argument("--output", type=Path, default=Path("submission.csv"), help="file to write (submission.csv)")
    result.add_argument(
        "--work",
        type=Path,
        default=Path("judge-work"),
        help="folder for unfinished work, from which a second run resumes (judge-work)",
    )
    result.add_argument("--gpus", type=int, help="number of GPUs, with one process each (those of nvidia-smi)")
    result.add_argument("--engine", default="vllm", choices=("vllm", "transformers"), help="inference engine (vllm)")
    result.add_argument("--dtype", default="float16", help="of the weights; a T4 does not support bfloat16 (float16)")
    result.add_argument("--plan", action="store_true", help="print the commands without running them")
    return result


def seconds(text: str) -> int:
    parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    if not text or not parts:
        raise argparse.ArgumentTypeError(f"{text!r}; expected such as 8h40m")
    return sum(int(part or 0) * unit for part, unit in zip(parts.groups(), (3600, 60, 1), strict=True))


def count_gpus() -> int:
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    except FileNotFoundError:
        return 1
    return max(1, listed.count("GPU "))


def install(args) -> list[list[str]]:
    """Return the commands that make a separate environment, without the packages of the image."""
    if not args.wheels:
        sys.exit("kaggle: give --wheels DIR, or --python of an environment with sft_judge")
    venv = args.work / "venv"
    pip = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python"), "install", "--no-index"]
    return [
        [sys.executable, "-m", "venv", "--without-pip", str(venv)],
        [*pip, "--find-links", str(args.wheels), "sft-judge[vllm]"],
    ]


def predictions(args, judge: list[str], place: int, gpus: int, budget: float) -> list[tuple[list[str], dict]]:
    """
    Return the command and environment variables of each GPU's process for one judge.

    Args:
        args: the command line.
        judge: command of sft_judge.
        place: index of the judge.
        gpus: number of processes.
        budget: time in seconds.
    """
    probs = args.work / f"probs-{place}.parquet"
    command = [*judge, "predict", "--model", str(args.model[place]), "--battles", str(args.work / "battles.parquet")]
    command += ["--output", str(probs), "--engine", args.engine, "--dtype", args.dtype]
    command += ["--time-budget", f"{max(int(budget), 1)}s"]
    if place:  # the first judge judges all battles; the second judges those that the first is least sure of
        command += ["--uncertain-in", str(args.work / "probs-0.parquet"), "--swap", "none"]
    else:
        command += ["--sample", str(args.work / "sample.csv"), "--submission", str(args.work / "submission.csv")]
    return [
        ([*command, "--shard", f"{gpu}/{gpus}"], {"CUDA_VISIBLE_DEVICES": str(gpu), **OFFLINE}) for gpu in range(gpus)
    ]


def run_all(commands, until: float, args, place: int) -> None:
    """
    Run the processes of a judge in parallel; restart a process that fails, if there is time.

    Args:
        commands: function from seconds to the commands of `predictions`.
        until: deadline on the monotonic clock.
        args: the command line.
        place: index of the judge.
    """
    waiting = list(enumerate(commands(until - time.monotonic())))
    running, tries = {}, dict.fromkeys(range(len(waiting)), 0)
    try:
        while waiting or running:
            for number, (command, env) in waiting:
                running[number] = subprocess.Popen(command, env={**os.environ, **env})
                tries[number] += 1
            waiting = []
            time.sleep(POLL)
            if place == 0:
                publish(args.work / "submission.csv", args)
            for number, process in list(running.items()):
                if process.poll() is None:
                    continue
                del running[number]
                left = until - time.monotonic()
                if process.returncode and tries[number] < TRIES and left > 0:
                    print(
                        f"kaggle: process {number} failed with status {process.returncode}; restarting",
                        file=sys.stderr,
                    )
                    waiting.append((number, commands(left)[number]))
    finally:
        for process in running.values():
            process.kill()
    if place == 0:
        publish(args.work / "submission.csv", args)


def mean(args, judge: list[str]) -> None:
    """Replace the submission with the weighted mean of all judges; keep the first judge's if that fails."""
    files = [str(args.work / f"probs-{place}.parquet") for place in range(len(args.model))]
    command = [*judge, "submit", "--probs", *files, "--sample", str(args.work / "sample.csv")]
    command += ["--output", str(args.work / "mean.csv"), "--battles", str(args.work / "battles.parquet")]
    command += ["--weights", *args.weights] if args.weights else []
    if subprocess.run(command, env={**os.environ, **OFFLINE}).returncode == 0:
        publish(args.work / "mean.csv", args)


def asked_of_the_judges(args) -> None:
    """Write the sample without rows that `import` rejected; those rows keep the values of the sample."""
    rejects = args.work / "battles.rejects.jsonl"
    lines = rejects.read_text(encoding="utf-8").splitlines() if rejects.is_file() else []
    refused = {str(json.loads(line).get("id")) for line in lines}
    header, rows, at = read_rows(args.sample)
    kept = [row for row in rows if row[at] not in refused]
    write_rows(args.work / "sample.csv", header, kept)
    if len(kept) < len(rows):
        print(f"kaggle: {len(rows) - len(kept)} rows are not battles ({rejects}); they keep the sample's values")


def publish(source: Path, args) -> None:
    """
    Replace the submission atomically with the sample, with the values of `source` for all rows in it.

    Args:
        source: CSV file of predictions.
        args: the command line.
    """
    if not source.is_file():
        return
    header, rows, at = read_rows(args.sample)
    _, judged, _ = read_rows(source)
    known = {row[at]: row for row in judged}
    write_rows(args.output, header, [known.get(row[at], row) for row in rows])


def read_rows(path: Path) -> tuple[list[str], list[list[str]], int]:
    """Return the header, the rows, and the index of the column of ids."""
    with open(path, newline="", encoding="utf-8-sig") as lines:
        header, *rows = [row for row in csv.reader(lines) if row]
    return header, rows, next(at for at, name in enumerate(header) if name.lower().endswith("id"))


def write_rows(path: Path, header: list[str], rows: list[list[str]]) -> None:
    aside = path.with_name(f".{path.name}.partial")
    with open(aside, "w", newline="", encoding="utf-8") as lines:
        csv.writer(lines, lineterminator="\n").writerows([header, *rows])
    os.replace(aside, path)


if __name__ == "__main__":
    main()
