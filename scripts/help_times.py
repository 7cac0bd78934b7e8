#!/usr/bin/env python3
"""Time `sft-judge --help` and every `sft-judge COMMAND --help`: the minimum of several runs, in seconds."""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from sft_judge.core.registry import STAGES


def seconds(words: list[str]) -> float:
    """Return the wall time of one command in seconds, from start to end of its process."""
    start = time.monotonic()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5, metavar="N", help="runs per command (5)")
    times = parser.parse_args().times
    command = str(Path(sys.executable).parent / "sft-judge")
    found = {stage: min(seconds([command, *stage.split(), "--help"]) for _ in range(times)) for stage in ("", *STAGES)}
    for stage, least in found.items():
        print(f"{f'sft-judge {stage}'.rstrip() + ' --help':<28} {least:.3f}")
    print(f"{'slowest':<28} {max(found.values()):.3f}")


if __name__ == "__main__":
    main()
