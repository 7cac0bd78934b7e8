"""
Trainer's rows on disk, under a fingerprint of everything that they are made of.

`datasets` keeps them: it writes in batches, renames a finished folder into place, lets one process of many build it,
and maps it into memory. `HF_DATASETS_CACHE` says where; a folder there may be deleted at any time.
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

ROWS_PER_BATCH = 1000  # rows hashed, and written, at a time


def cached_rows(rows: Callable[[], Iterable[dict]], features: datasets.Features, fingerprint: str) -> datasets.Dataset:
    """The rows that a generator makes, or those that one with this fingerprint has made before."""
    shown = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()  # the generator tells its own progress
    try:
        return datasets.Dataset.from_generator(
            rows, features=features, fingerprint=fingerprint, writer_batch_size=ROWS_PER_BATCH
        )
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise
    finally:
        if not shown:
            datasets.enable_progress_bars()


def fingerprint(source: str, settings: dict, battles: pa.Table, teacher: dict | None) -> str:
    """
    SHA-256 of everything that rows are made of.

    Args:
        source: hash of the code that makes the rows, as `source_hash` gives it.
        settings: plain values.
        battles: the columns that matter and no others.
        teacher: the teachers' labels, if there are any.
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
