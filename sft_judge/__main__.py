"""`python -m sft_judge` is the command `sft-judge`."""

import sys

from sft_judge.cli import main

if __name__ == "__main__":
    sys.exit(main())
