"""Run the command `sft-judge` as `python -m sft_judge`."""

import sys

from sft_judge.cli import main

if __name__ == "__main__":
    sys.exit(main())
