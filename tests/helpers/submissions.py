"""Probs files of drawn judges, and submissions of them through the command line."""

import numpy as np

from sft_judge.cli import main
from sft_judge.data.probs import Probs, write_probs

IDS = ["30", "10", "20", "0x1f"]


def write_judge(path, seed=0, num=3, ids=IDS, metadata=None):
    probs = np.zeros((len(ids), 3))
    probs[:, :num] = np.random.default_rng(seed).dirichlet(np.ones(num), len(ids))
    with np.errstate(divide="ignore"):
        logp = np.log(probs)
    write_probs(path, Probs(np.array(sorted(ids), dtype=object), np.full(len(ids), "ab"), logp, metadata or {}))
    return dict(zip(sorted(ids), probs, strict=True))


def submit(folder, sample, judges=("one",), *more):
    files = [str(folder / f"{name}.parquet") for name in judges]
    sample, output = str(folder / f"{sample}.csv"), str(folder / "out.csv")
    return main(["submit", "--probs", *files, "--sample", sample, "--output", output, *more])
