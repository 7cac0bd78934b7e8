"""External sort of rows: distribute them to temporary files by position, then sort file by file."""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BUCKET = 50_000  # rows sorted in memory at a time


def sort_externally(tables: Iterable[pa.Table], places: np.ndarray, folder: Path) -> Iterator[pa.Table]:
    """
    Yield the rows of `tables` sorted by `places`.

    Args:
        tables: tables with one schema.
        places: position of each row `[N]`, a permutation.
        folder: folder for the temporary files.
    """
    with tempfile.TemporaryDirectory(prefix=".order.partial", dir=folder) as aside:
        writers: dict[int, pq.ParquetWriter] = {}
        start = 0
        try:
            for table in tables:
                goes = places[start : start + table.num_rows]
                start += table.num_rows
                table = table.append_column("place", pa.array(goes))
                for bucket in np.unique(goes // BUCKET).tolist():
                    if bucket not in writers:
                        writers[bucket] = pq.ParquetWriter(Path(aside, f"{bucket}"), table.schema, compression="lz4")
                    writers[bucket].write_table(table.filter(pa.array(goes // BUCKET == bucket)))
        finally:
            for writer in writers.values():
                writer.close()
        for bucket in sorted(writers):
            table = pq.read_table(Path(aside, f"{bucket}"))
            yield table.take(pa.array(np.argsort(table["place"].to_numpy()))).drop_columns("place")
