"""
Run `sft-judge train` as a script, for launchers:

accelerate launch --config_file recipes/accelerate/ddp.yaml scripts/train.py --config recipes/demo/teacher.yaml
"""

import sys

from sft_judge.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
