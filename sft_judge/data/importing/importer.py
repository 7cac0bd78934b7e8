"""
Import of sources to one battles file in a single pass.

Each row is written as a battle, or to the rejects file with its reason. Only counts and one integer per id stay in
memory.
"""

import itertools
import json
import re
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from sft_judge.core.errors import InputError
from sft_judge.core.files import whole_file
from sft_judge.data.battles import COLUMNS, FIELDS, BattleWriter
from sft_judge.data.importing.column_map import EMPTY
from sft_judge.data.importing.conversation import RowError
from sft_judge.data.importing.folders import is_saved, saved_rows
from sft_judge.data.importing.formats import MAPPED, detect_format, row_id, to_battle
from sft_judge.data.importing.labels import Reading
from sft_judge.data.importing.readers import EXPECTED, read_rows
from sft_judge.data.importing.sources import hub_rows, source_files

BATTLES_PER_BATCH = 2_000  # battles converted to Arrow at a time
_ROWS = 2**40  # more rows than a source can have
ROWS_TO_DETECT_FORMAT = 50  # rows read to detect the format


@dataclass
class Imported:
    """
    Counts of imported rows: `rows_in` = `rows_out` + `rejected`.

    Attributes:
        rows_in: rows read.
        rows_out: battles written.
        rejected: rows written to the rejects file.
        reasons: rejected rows by reason, with numbers and quoted text removed.
        first_reject: the first rejected row and its reason.
        formats: format of each source.
        mended: number of repairs of each kind.
        texts: a hash of each battle's prompt and responses.
    """

    rows_in: int = 0
    rows_out: int = 0
    rejected: int = 0
    reasons: Counter = field(default_factory=Counter)
    first_reject: dict | None = None
    formats: dict[str, str] = field(default_factory=dict)
    mended: Counter = field(default_factory=Counter)
    texts: array = field(default_factory=lambda: array("Q"))


class RejectsWriter:
    """
    Writer of rejected rows as JSONL, escaped to ASCII so that any text that was read can be written; atomic.

    Use it as a context manager. Without rejects no file is written, and an older file is removed.

    Args:
        path: file to write.
    """

    def __init__(self, path: Path):
        self.path, self.num_rows = Path(path), 0

    def __enter__(self):
        self._stack, self._file = ExitStack(), None
        return self

    def write(self, reject: dict) -> None:
        """Append one rejected row."""
        if self._file is None:
            aside = self._stack.enter_context(whole_file(self.path))
            self._file = self._stack.enter_context(open(aside, "w", encoding="ascii"))
        self._file.write(json.dumps(reject, default=str) + "\n")
        self.num_rows += 1

    def __exit__(self, kind, *exception):
        self._stack.__exit__(kind, *exception)
        if kind is None and not self.num_rows:
            self.path.unlink(missing_ok=True)


def import_sources(
    sources: list[Path | str],
    output: Path,
    rejects: Path,
    reading: Reading,
    *,
    format_name: str | None = None,
    split: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    streaming: bool = False,
    strict: bool = False,
    limit: int | None = None,
    progress=None,
) -> Imported:
    """
    Import all sources into `output`. If an error is raised, no file is left.

    Args:
        sources: files, folders and Hub ids.
        output: battles file to write.
        rejects: rejects file to write.
        reading: settings and counters.
        format_name: one of FORMATS; None detects the format from the columns.
        split: split of data sets in folders or on the Hub.
        config: config of data sets in folders or on the Hub.
        revision: see `hub_rows`.
        streaming: see `hub_rows`.
        strict: raise an error at the first bad row.
        limit: maximum number of rows of each file.
        progress: function called with the number of rows after each batch.

    Raises:
        InputError: a file cannot be read or has no valid row, an id is repeated, or with `strict` a row is bad.
    """
    result = Imported(mended=reading.mended)
    seen: dict[str, int] = {}
    with BattleWriter(output) as writer, RejectsWriter(rejects) as rejected:
        for name, stem, rows in _open_source(sources, (split, config), (revision, streaming)):
            before = result.rejected, result.rows_out
            importer = _Importer(name, stem, format_name, strict, reading, result, rejected, seen)
            battles = importer.battles(itertools.islice(rows, limit))
            while batch := list(itertools.islice(battles, BATTLES_PER_BATCH)):
                writer.write(_to_arrow(batch))
                result.rows_out += len(batch)
                if progress:
                    progress(len(batch))
            if result.rows_out == before[1]:
                raise importer.nothing_good(result.rejected - before[0])
        if result.mended[EMPTY] == result.rows_out:
            named = "+".join(reading.columns.columns["verdict"])
            raise InputError(f"--map takes the verdict from {named!r}, but it is empty in all {result.rows_out} rows.")
    repeated = len(result.texts) - len(np.unique(np.frombuffer(result.texts, np.uint64)))
    result.mended["rows with the same texts as another row, kept (see prepare --dedup and --votes soft)"] += repeated
    assert result.rows_in == result.rows_out + result.rejected
    return result


def _open_source(sources: list[Path | str], of: tuple, on_hub: tuple) -> Iterator[tuple[str, str, Iterator]]:
    """
    Yield (name, short name, rows) of every file or data set.

    Files with the same name are distinguished by their folder. `of` is (split, config), `on_hub` is (revision,
    streaming).
    """
    files = [
        file for source in sources for file in (source_files(source, *of) if isinstance(source, Path) else [source])
    ]
    stems = Counter(Path(file).stem for file in files)
    for file in files:
        short = Path(file).stem if stems[Path(file).stem] == 1 else f"{Path(file).parent.name}/{Path(file).stem}"
        if not isinstance(file, Path):
            yield file, short, hub_rows(file, *of, *on_hub)
        else:
            yield str(file), short, saved_rows(file, of[0]) if is_saved(file) else read_rows(file)


@dataclass
class _Importer:
    """Importer of one source: yields its battles, and writes and counts its rejects."""

    name: str
    stem: str
    format_name: str | None
    strict: bool
    reading: Reading
    result: Imported
    rejects: RejectsWriter
    seen: dict[str, int]  # position of each id in all sources: number of the source and row, combined in one integer
    first_reject: dict | None = None
    votes: Counter = field(default_factory=Counter)  # last number given to a vote on each question

    def battles(self, rows: Iterator) -> Iterator[dict]:
        head = list(itertools.islice(rows, ROWS_TO_DETECT_FORMAT))
        if not head:
            raise InputError(f"{self.name}: no rows. {EXPECTED}.")
        peeked = [row for _, row, problem in head if problem is None]
        if not peeked:
            raise InputError(f"{self.name} row {head[0][0]}: {head[0][2].reason}. {EXPECTED}.")
        columns = list(dict.fromkeys(column for row in peeked for column in row))
        if self.reading.columns:
            self.reading.columns.check(self.name, columns)
            self.format_name = MAPPED
        if self.format_name is None:
            self.format_name = detect_format(self.name, columns, peeked)
        self.result.formats[self.name] = self.format_name
        for number, row, problem in itertools.chain(head, rows):
            self.result.rows_in += 1
            try:
                if problem is not None:
                    raise problem
                battle = to_battle(row, self.format_name, self.stem, number, self.reading)
            except RowError as error:
                self._reject(number, row, error)
            else:
                if self.format_name == "arena" and "id" not in row:
                    battle["id"] = self._number_vote(battle["id"])
                self._check_id(battle["id"], number)
                self.result.texts.append(_hash_texts(battle))
                if self.reading.columns and "verdict" in self.reading.columns.columns:
                    self.result.mended[EMPTY] += battle["verdict"] is None
                yield battle

    def _reject(self, number: int, row: dict, error: RowError) -> None:
        if self.strict:
            raise InputError(f"{self.name} row {number}, {error.field}: {error.reason} (--strict).") from error
        identity = row_id(row, self.format_name)
        about = {"source": self.name, "row": number, "id": identity, "field": error.field, "reason": error.reason}
        self.first_reject = self.first_reject or about
        self.result.first_reject = self.result.first_reject or about
        self.result.rejected += 1
        self.result.reasons[f"{error.field}: {_without_values(error.reason)}"] += 1
        self.rejects.write({**about, "data": row})

    def _number_vote(self, question: str) -> str:
        """
        Return a unique id for each vote on a question: the question's id, then the id followed by -2, -3 and so on.
        """
        identity, count = question, 1
        while identity in self.seen:
            count = self.votes[question] = max(self.votes[question], 1) + 1
            identity = f"{question}-{count}"
        self.reading.mended["votes on a question_id seen before, given ids such as 81-2"] += count > 1
        return identity

    def _check_id(self, identity: str, number: int) -> None:
        if identity in self.seen:
            place, row = divmod(self.seen[identity], _ROWS)
            other = list(self.result.formats)[place]
            where = f"rows {row} and {number}" if other == self.name else f"row {number}, and in {other} row {row}"
            raise InputError(
                f"{self.name}: id {identity!r} is in {where}; files are joined by id, so ids must be unique. "
                "Use --prefix-ids to put each file's name before its ids."
            )
        self.seen[identity] = (len(self.result.formats) - 1) * _ROWS + number

    def nothing_good(self, rejected: int) -> InputError:
        first = self.first_reject
        return InputError(
            f"{self.name}: none of {rejected} rows is a battle; row {first['row']}, {first['field']}: "
            f"{first['reason']}. Read as {self.format_name!r}; use --format for another format."
        )


def _hash_texts(battle: dict) -> int:
    """Hash a battle's prompt and responses to 64 bits, independent of the order of the responses."""
    prompt, one, other = (tuple(battle[name]) for name in FIELDS)
    return hash((prompt, frozenset((one, other)))) & 2**64 - 1


def _without_values(reason: str) -> str:
    return re.sub(r"\d[\d,.]*", "N", re.sub(r"'[^']*'|\([^)]*\)", "…", reason))[:80]


def _to_arrow(rows: list[dict]) -> pa.Table:
    return pa.table({name: pa.array([row.get(name) for row in rows], kind) for name, kind in COLUMNS.items()})
