"""Ground truth file of synthetic battles: their true probabilities."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sft_judge.core.errors import InputError, one_line

TRUTH_COLUMNS = ("id", "p_a", "p_b", "p_tie", "verdict")


def read_truth(path: Path) -> tuple[list[str], np.ndarray, list]:
    """
    Read a ground truth file: ids `[N]`, probabilities `[N, 3]`, verdicts `[N]` by name.

    Raises:
        InputError: the file is missing or unreadable, or its probabilities do not sum to 1.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such ground truth file. `sft-judge synth` writes one.")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable ground truth file ({one_line(error)}).") from error
    missing = [name for name in TRUTH_COLUMNS if name not in table.column_names]
    if missing:
        raise InputError(f"{path}: no column {missing[0]!r}; a ground truth file has {', '.join(TRUTH_COLUMNS)}.")
    probs = np.stack([table[name].to_numpy().astype(float) for name in TRUTH_COLUMNS[1:4]], axis=1)
    bad = np.flatnonzero(~(np.abs(probs.sum(axis=1) - 1) < 1e-4))
    if len(bad):
        raise InputError(f"{path} row {bad[0] + 1}: true probabilities sum to {probs[bad[0]].sum():.6g}, expected 1.")
    return [str(id_) for id_ in table["id"].to_pylist()], probs, table["verdict"].to_pylist()


def write_truth(path: Path, split) -> None:
    """
    Write the probabilities that the verdicts were drawn from, and the verdicts.

    Args:
        path: Parquet file to write, with columns id, p_a, p_b, p_tie and verdict.
        split: a `SyntheticSplit`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: [row[name] for row in split.rows] for name in ("id", "verdict")}
    probs = {name: split.probs[:, column] for column, name in enumerate(("p_a", "p_b", "p_tie"))}
    pq.write_table(pa.table({"id": columns["id"], **probs, "verdict": columns["verdict"]}), path)
