"""
Measure seconds and peak memory of `sft-judge rank` by numbers of votes and models, from its manifest.

    python scripts/scale_rank.py 1000000 100

Four battles in five have a unique prompt, the others share prompts with them. Verdicts follow Davidson's model. With
--judge, the true probabilities count instead of votes, so that all battles differ.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from sft_judge.core.manifest import manifest_path
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.battles import BattleWriter
from sft_judge.data.probs import Probs, write_probs
from sft_judge.data.synthetic.preference_model import davidson

AT_ONCE = 50_000
NU = 0.7
PROMPT, RESPONSE = "Please answer question {0} with care. " * 4, "An answer of some length. " * 40


def write_votes(folder: Path, num_rows: int, num_models: int) -> None:
    """
    Write battles.parquet, and probs.parquet with the true probabilities.

    Args:
        folder: folder to write to.
        num_rows: number of votes.
        num_models: number of models.
    """
    rng = np.random.default_rng(0)
    strengths = rng.normal(scale=0.7, size=num_models)
    first = rng.integers(num_models, size=num_rows)
    sides = np.stack([first, (first + rng.integers(1, num_models, size=num_rows)) % num_models], axis=1)
    probs = davidson(strengths[sides], NU)
    verdicts = (rng.random((num_rows, 1)) > probs.cumsum(axis=1)).sum(axis=1)
    prompts = rng.permutation(np.append(np.arange(num_rows * 4 // 5), rng.integers(num_rows, size=num_rows // 5 + 1)))
    names, ids = np.array([f"model-{place:03}" for place in range(num_models)]), np.arange(num_rows).astype(str)
    with BattleWriter(folder / "battles.parquet") as writer:
        for start in range(0, num_rows, AT_ONCE):
            rows = slice(start, min(start + AT_ONCE, num_rows))
            texts = [[PROMPT.format(number)] for number in prompts[rows]]
            columns = {"id": ids[rows], "prompt": texts, "verdict": np.array(VERDICTS)[verdicts[rows]]}
            columns |= {name: [[RESPONSE]] * len(texts) for name in ("response_a", "response_b")}
            columns |= {"model_a": names[sides[rows, 0]], "model_b": names[sides[rows, 1]]}
            writer.write(pa.table(columns))
    write_probs(folder / "probs.parquet", Probs(ids, np.full(num_rows, "ab", dtype=object), np.log(probs)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=int, help="number of votes")
    parser.add_argument("models", type=int, help="number of models")
    parser.add_argument("--judge", action="store_true", help="rank by the true probabilities instead of votes")
    args, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_votes(folder, args.rows, args.models)
        words = [str(folder / "battles.parquet"), "--output", str(folder / "out"), *flags]
        words += ["--probs", str(folder / "probs.parquet")] if args.judge else []
        subprocess.run([sys.executable, "-m", "sft_judge", "rank", *words], check=True, stdout=subprocess.DEVNULL)
        manifest = json.loads(manifest_path(folder / "out" / "ranking.json").read_text())
    print(f"{args.rows:,} battles of {args.models} models: {manifest['seconds']} s, {manifest['peak_memory_mb']:,} MB")


if __name__ == "__main__":
    main()
