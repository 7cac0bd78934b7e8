"""
Cache of the trainer's rows on disk, under a fingerprint of everything that they depend on.

`datasets` stores the rows: it writes in batches, renames a finished folder into place, lets one of several processes
build it, and maps it into memory. `HF_DATASETS_CACHE` sets the folder. A cached data set may be deleted at any time.
"""

import hashlib
import json
from collections.abc import Callable, Iterable

import datasets
import pyarrow as pa
import tokenizers
import transformers
from datasets.exceptions import DatasetGenerationError

from sft_judge.core.errors import InputError
from sft_judge.core.write_errors import NamedOutput

ROWS_PER_BATCH = 1000  # rows hashed or written at a time


def cached_rows(rows: Callable[[], Iterable[dict]], features: datasets.Features, fingerprint: str) -> datasets.Dataset:
    """
    Return the rows of a generator, or the cached rows with the same fingerprint.

    Args:
        rows: makes the rows.
        features: types of the columns.
        fingerprint: hash of everything that the rows depend on.

    Raises:
        InputError: as raised by the generator.
        WriteError: the disk of the cache is full.
    """
    shown = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()  # the generator prints its own progress
    try:
        with NamedOutput(datasets.config.HF_DATASETS_CACHE):
            return _from_generator(rows, features, fingerprint)
    finally:
        if not shown:
            datasets.enable_progress_bars()


def _from_generator(rows, features: datasets.Features, fingerprint: str) -> datasets.Dataset:
    """Return `Dataset.from_generator`, and raise the generator's and the disk's errors as they are."""
    try:
        return datasets.Dataset.from_generator(
            rows, features=features, fingerprint=fingerprint, writer_batch_size=ROWS_PER_BATCH
        )
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, InputError | OSError):
            raise error.__cause__ from None
        raise


def fingerprint(source: str, settings: dict, battles: pa.Table, teacher: dict | None) -> str:
    """
    Compute the SHA-256 of everything that the rows depend on.

    Args:
        source: hash of the code that makes the rows, from `source_hash`.
        settings: plain values.
        battles: only the columns that affect the rows.
        teacher: the teachers' labels, or None.
    """
    libraries = [module.__version__ for module in (datasets, tokenizers, transformers)]
    digest = hashlib.sha256("\n".join([source, *libraries]).encode())
    digest.update(json.dumps(settings, sort_keys=True).encode())
    digest.update(str(battles.schema).encode())
    for start in range(0, battles.num_rows, ROWS_PER_BATCH):
        for batch in battles.slice(start, ROWS_PER_BATCH).combine_chunks().to_batches():
            digest.update(batch.serialize())
    for key, probs in (teacher or {}).items():
        digest.update(repr(key).encode() + probs.tobytes())
    return digest.hexdigest()
