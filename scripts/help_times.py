#!/usr/bin/env python3
"""How long `sft-judge --help` and every `sft-judge STAGE --help` take: the least of five, in seconds."""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from sft_judge.core.registry import STAGES


def seconds(words: list[str]) -> float:
    """Wall time of one command, from start to end of its process."""
    start = time.monotonic()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5, metavar="N")
    times = parser.parse_args().times
    command = str(Path(sys.executable).parent / "sft-judge")
    found = {stage: min(seconds([command, *stage.split(), "--help"]) for _ in range(times)) for stage in ("", *STAGES)}
    for stage, least in found.items():
        print(f"{f'sft-judge {stage}'.rstrip() + ' --help':<28} {least:.3f}")
    print(f"{'slowest':<28} {max(found.values()):.3f}")


if __name__ == "__main__":
    main()
