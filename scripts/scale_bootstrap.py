"""
Measure time and memory of a judge's intervals on many rows: `python scripts/scale_bootstrap.py [rows]` (a million).

Probabilities are random, in both orders, with half as many prompts as rows and ten slices. All metrics of `evaluate`
that need no text are computed, with 1,000 resamples.
"""

import sys
import time

import numpy as np
from measuring import peak

from sft_judge.evaluation.bootstrap import NUM_RESAMPLES, interval, resample
from sft_judge.evaluation.metrics import figures, row_columns
from sft_judge.evaluation.slices import slice_columns, slice_figures


def main(rows: int = 1_000_000) -> None:
    rng = np.random.default_rng(0)
    orders = rng.dirichlet([1, 1, 0.6], (rows, 2))
    probs, verdicts = orders.mean(axis=1), rng.integers(3, size=rows)
    clusters = rng.integers(max(1, rows // 2), size=rows)
    clusters = np.unique(clusters, return_inverse=True)[1]
    masks = {"language": {str(part): rng.integers(10, size=rows) == part for part in range(10)}}
    start = time.perf_counter()
    columns = row_columns(probs, verdicts, orders)
    columns |= slice_columns(masks, columns["log_loss"], probs.argmax(axis=1) == verdicts)
    draws = resample(columns, clusters)
    found = {name: interval(values) for name, values in figures(draws).items()}
    slice_figures(draws, masks, columns["log_loss"], clusters)
    seconds = time.perf_counter() - start
    width = sum(np.prod(column.shape[1:], dtype=int) for column in columns.values())
    print(
        f"{rows:,} rows, {clusters.max() + 1:,} prompts, {width} sums a row, "
        f"{NUM_RESAMPLES:,} resamples: {seconds:.1f} s, "
        f"peak {peak() / 2**30:.2f} GB; log loss {found['log_loss']}"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
