"""
Verdict files: verdicts of a judge without probabilities, such as a closed model or a person.

CSV, JSONL or Parquet with `id`, `verdict` (a, b, tie, or empty if the answer could not be read) and, if known, `order`
(ab or ba: the response shown first). As in probs files, the verdict `a` is for the battle's own response_a, whichever
response was shown first.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sft_judge.core.errors import InputError
from sft_judge.core.swap_orders import ORDERS
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.importing.formats import row_id
from sft_judge.data.importing.labels import WINNER_NAMES
from sft_judge.data.importing.readers import read_rows
from sft_judge.data.probs import Probs

UNREAD = -1  # an answer that could not be read


@dataclass
class VerdictFile:
    """
    Verdicts of a judge, one row per battle and order.

    Attributes:
        path: the file.
        ids: battle ids `[R]`.
        orders: one of ORDERS `[R]`.
        verdicts: indices into VERDICTS, or UNREAD `[R]`.
        rows: row of the file `[R]`; a row without an order stands for both orders.
        probs: the probs file that the verdicts come from, if any.
    """

    path: Path
    ids: np.ndarray
    orders: np.ndarray
    verdicts: np.ndarray
    rows: np.ndarray | None = None
    probs: Probs | None = None

    @property
    def num_verdicts(self) -> int:
        """Return the number of verdicts K: 2 if no row says tie, otherwise 3."""
        return 3 if (self.verdicts == VERDICTS.index("tie")).any() else 2

    def by_order(self, ids: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """
        Return the verdicts of these battles in each order `[N, 2]`, UNREAD if none, and a mask `[N, 2]` of answers.
        """
        place = {id_: row for row, id_ in enumerate(ids)}
        said = np.full((len(ids), len(ORDERS)), UNREAD)
        shown = np.zeros_like(said, dtype=bool)
        for id_, order, verdict in zip(self.ids, self.orders, self.verdicts, strict=True):
            if id_ in place:
                said[place[id_], ORDERS.index(order)] = verdict
                shown[place[id_], ORDERS.index(order)] = True
        return said, shown

    def num_unread(self, ids: list[str]) -> int:
        """Count the answers on these battles that could not be read; one row for both orders counts once."""
        there = np.isin(self.ids.astype(str), ids) & (self.verdicts == UNREAD)
        return int(there.sum()) if self.rows is None else len(np.unique(self.rows[there]))

    def as_probs(self) -> Probs:
        """Return the readable answers as probabilities of 0 and 1."""
        if self.probs is not None:
            return self.probs
        read = self.verdicts != UNREAD
        with np.errstate(divide="ignore"):
            logp = np.log(np.eye(len(VERDICTS))[self.verdicts[read]])
        return Probs(self.ids[read], self.orders[read], logp, path=self.path)


def read_verdicts(path: Path) -> VerdictFile:
    """
    Read and check a verdict file.

    Raises:
        InputError: the file or a row cannot be read, or an (id, order) is repeated; the message names the row.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such verdict file.")
    rows, numbers = {}, []
    for number, row, problem in read_rows(path):
        where = f"{path} row {number}"
        if problem is not None:
            raise InputError(f"{where}: {problem.field}: {problem.reason}.")
        if "verdict" not in row or "id" not in row:
            raise InputError(
                f"{path}: columns {', '.join(map(str, row))[:200]}; verdict files have id and verdict."
                + (" Give probabilities as --probs." if {"logp_a", "p_a", "logit_a"} & set(row) else "")
            )
        id_, order = row_id(row, "battles"), row.get("order")
        if id_ is None:
            raise InputError(f"{where}: id {row['id']!r}, expected a string or a number.")
        for each in ORDERS if order is None else (order,):
            if each not in ORDERS:
                raise InputError(f"{where}: order {each!r}, expected one of {', '.join(ORDERS)}.")
            if (id_, each) in rows:
                raise InputError(f"{where}: id {id_} occurs twice{f' in order {order}' if order else ''}.")
            rows[id_, each] = _verdict(where, row["verdict"])
            numbers.append(number)
    if not rows:
        raise InputError(f"{path}: no rows.")
    ids, orders = (np.array(column, dtype=object) for column in zip(*rows, strict=True))
    return VerdictFile(path, ids, orders, np.array(list(rows.values())), np.array(numbers))


def is_verdict_file(path: Path) -> bool:
    """Return True if the first row of a file has a verdict and no probabilities."""
    row = next(iter(read_rows(Path(path))), (0, {}, None))[1]
    return "verdict" in row and not any(str(name).startswith(("logp_", "p_", "logit_")) for name in row)


def _verdict(where: str, value) -> int:
    if value is None or value != value or not str(value).strip():
        return UNREAD
    name = WINNER_NAMES.get(str(value).strip().lower())
    if name is None:
        raise InputError(f"{where}: verdict {value!r}, expected {', '.join(VERDICTS)}, or nothing for no answer.")
    return VERDICTS.index(name)


def verdicts_of_probs(probs: Probs) -> VerdictFile | None:
    """Return the verdicts of a probs file whose probabilities are all 0 or 1, otherwise None."""
    values = np.exp(probs.logp)
    if not np.isin(values, (0, 1)).all():
        return None
    return VerdictFile(probs.path, probs.ids, probs.orders, values.argmax(axis=1), probs=probs)
