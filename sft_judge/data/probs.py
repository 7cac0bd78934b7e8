"""
Probs files, which hold a judge's probabilities for later stages: K log-probabilities for each battle and order.

Rows are un-swapped when written (`a` is the battle's own response_a in every order) and raw: the reader applies
calibration, once. Parquet stores the provenance in its schema metadata under `sft_judge`. CSV is read, without
provenance.

A prediction that was stopped by its deadline leaves battles unread. These battles are in the file once, in the order
"ab", with the class frequencies and `scored` set to false. A file without the column `scored` holds only judgements.
The column `language` is present if the battles have it, for calibrations that depend on the language.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from scipy.special import log_softmax

from sft_judge.core.errors import InputError, one_line
from sft_judge.core.files import check_columns, whole_file
from sft_judge.core.swap_orders import ORDERS, average_over_orders, widen
from sft_judge.core.verdicts import VERDICTS

METADATA_KEY = b"sft_judge"
COLUMNS = ("id", "order", "logp_a", "logp_b", "logp_tie")


@dataclass
class Probs:
    """
    Probabilities of a judge, one row per battle and order.

    Attributes:
        ids: battle ids `[R]`.
        orders: "ab" or "ba" `[R]`.
        logp: natural-log probabilities `[R, 3]`, un-swapped; tie is -inf for a judge with two verdicts.
        metadata: provenance.
        scored: False for class frequencies in place of a judgement `[R]`; None if all rows are judged.
        languages: language of each prompt `[R]`, if the battles have it; a calibration may depend on it.
        path: file that the rows were read from.
    """

    ids: np.ndarray
    orders: np.ndarray
    logp: np.ndarray
    metadata: dict = field(default_factory=dict)
    scored: np.ndarray | None = None
    languages: np.ndarray | None = None
    path: Path | None = None

    @property
    def num_verdicts(self) -> int:
        """Return the number of verdicts K: 2 if no row gives a tie any probability, otherwise 3."""
        return 2 if len(self.logp) and np.isneginf(self.logp[:, 2]).all() else 3

    def select(self, keep: np.ndarray) -> "Probs":
        """Select rows by a boolean mask or by indices."""
        more = [None if column is None else column[keep] for column in (self.scored, self.languages)]
        return Probs(self.ids[keep], self.orders[keep], self.logp[keep], self.metadata, *more, self.path)


def write_probs(path: Path, probs: Probs) -> None:
    """
    Write a probs file as Parquet, atomically.

    Args:
        path: Parquet file to write.
        probs: the probabilities.
    """
    columns = [pa.array(probs.ids, pa.string()), pa.array(probs.orders, pa.string())]
    columns += [pa.array(probs.logp[:, column], pa.float64()) for column in range(3)]
    table = pa.table(columns, names=COLUMNS)
    if probs.scored is not None and not probs.scored.all():
        table = table.append_column("scored", pa.array(probs.scored, pa.bool_()))
    if probs.languages is not None:
        table = table.append_column("language", pa.array(probs.languages, pa.string()))
    table = table.replace_schema_metadata({METADATA_KEY: json.dumps(probs.metadata)})
    with whole_file(path) as aside:
        pq.write_table(table, aside)


def read_probs(path: Path) -> Probs:
    """
    Read and check a probs file.

    Checked are the columns, the orders, that no value is NaN, that no (id, order) is repeated, and that each row sums
    to one within 1e-4. A file made elsewhere may hold probabilities or logits, one row per battle: see
    `as_probs_table`.

    Raises:
        InputError: a check failed; the message names the row.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such probs file. `sft-judge predict` writes one.")
    try:
        as_text = pyarrow.csv.ConvertOptions(column_types={"id": pa.string()})  # ids such as 0007 and 1e5 stay text
        is_csv = path.suffix == ".csv"
        table = pyarrow.csv.read_csv(path, convert_options=as_text) if is_csv else pq.ParquetFile(path).read()
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: not a readable probs file ({one_line(error)}).") from error
    names = table.column_names
    check_columns(path, names)
    metadata = read_metadata(path, (table.schema.metadata or {}).get(METADATA_KEY, b"{}"))
    missing = [name for name in COLUMNS if name not in names]
    times = 1  # rows of the table per row of the file
    if missing:
        times = 1 if "order" in names else len(ORDERS)
        table = as_probs_table(path, table)
    if table is None:
        raise InputError(
            f"{path}: no column {missing[0]!r}; a probs file has {', '.join(COLUMNS)}, or id with p_a, p_b and p_tie "
            "(logit_a ... for logits)."
            + (" It has verdicts: give the file to `evaluate` as --verdicts." if "verdict" in names else "")
        )
    ids = np.array([str(value) for value in table["id"].to_pylist()], dtype=object)
    orders = np.array(table["order"].to_pylist(), dtype=object)
    try:
        logp = np.stack([table[name].to_numpy().astype(float) for name in COLUMNS[2:]], axis=1)
    except ValueError as error:
        raise InputError(f"{path}: a log-probability is not a number ({error}).") from error
    _check(path, ids, orders, logp, times)
    scored, languages = (
        np.array(table[name].to_pylist(), dtype=kind) if name in table.column_names else None
        for name, kind in (("scored", bool), ("language", object))
    )
    return Probs(ids, orders, logp, metadata, scored, languages, path)


def read_metadata(path: Path, text: bytes) -> dict:
    """
    Parse and check the metadata of a probs file.

    Args:
        path: the file, for messages.
        text: metadata as JSON.

    Raises:
        InputError: the metadata are damaged.
    """
    try:
        metadata = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path}: its metadata is not JSON ({error}). Predict again.") from error
    texts = ("model", "model_from_here", "judge", "battles_sha256", "engine")
    if not isinstance(metadata, dict) or not all(isinstance(metadata.get(name), str | None) for name in texts):
        raise InputError(f"{path}: its metadata is not that of a probs file ({str(metadata)[:60]}). Predict again.")
    if metadata.get("judge") and not (metadata.get("model") and metadata.get("model_from_here")):
        raise InputError(f"{path}: its metadata has the hash of a judge but not its path. Predict again.")
    if not all(
        isinstance(metadata.get(name, {}), dict | None) for name in ("folds", "judges", "deadline", "versions")
    ):
        raise InputError(f"{path}: its metadata is not that of a probs file. Predict again.")
    return metadata


def _check(path: Path, ids: np.ndarray, orders: np.ndarray, logp: np.ndarray, times: int) -> None:
    if len(ids) == 0:
        raise InputError(f"{path}: no rows.")
    bad = np.flatnonzero(~np.isin(orders, ORDERS))
    if len(bad):
        raise InputError(f"{path} row {bad[0] + 1}: order {orders[bad[0]]!r}, expected one of {', '.join(ORDERS)}.")
    totals = np.exp(logp).sum(axis=1)
    bad = np.flatnonzero(~(np.abs(totals - 1) < 1e-4))  # a NaN fails the comparison too
    if len(bad):
        raise InputError(
            f"{path} row {bad[0] // times + 1} (id {ids[bad[0]]}): the probabilities of {', '.join(VERDICTS)} sum to "
            f"{totals[bad[0]]:.6g}, expected 1. The columns logp_a ... hold natural-log probabilities, p_a ... plain "
            "probabilities; the probabilities of each row must sum to 1."
        )
    seen = set()
    for row, key in enumerate(zip(ids, orders, strict=True)):
        if key in seen:
            where = f"{path} row {row // times + 1}: id {key[0]}"
            raise InputError(
                f"{where} occurs twice in order {key[1]}; files are joined by id, so ids must be unique in each order."
            )
        seen.add(key)


def average_orders(probs: Probs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Average both orders of each battle by the arithmetic mean of their probabilities.

    Returns:
        `ids` `[N]` in order of first appearance, raw probabilities `[N, 3]`, and the number of orders judged `[N]`. A
        battle judged in 0 orders has class frequencies as probabilities.
    """
    ids, first, inverse = np.unique(probs.ids.astype(str), return_index=True, return_inverse=True)
    by_order, shown = np.zeros((len(ids), len(ORDERS), len(VERDICTS))), np.zeros((len(ids), len(ORDERS)), dtype=bool)
    place = inverse, (probs.orders == ORDERS[1]).astype(int)
    by_order[place], shown[place] = np.exp(probs.logp), True
    judged = np.bincount(inverse if probs.scored is None else inverse[probs.scored], minlength=len(ids))
    appearance = np.argsort(first, kind="stable")
    return ids[appearance].astype(object), average_over_orders(by_order, shown)[appearance], judged[appearance]


def describe_unfinished(orders: np.ndarray) -> str | None:
    """
    Describe the battles that a deadline left unjudged, from the number of orders judged `[N]`; None if there are none.
    """
    total, none, one = len(orders), int((orders == 0).sum()), int((orders == 1).sum())
    if not none and one in (0, total):
        return None
    left = f"{one} of {total} battles were judged in only one order"
    return f"{none} of {total} battles were not judged and have class frequencies, {left}" if none else left


def first_verdicts(probs: np.ndarray, num: int) -> np.ndarray:
    """
    Return the first `num` verdicts of probabilities `[N, 3]`, renormalised if the tie is dropped.

    Args:
        probs: probabilities `[N, 3]`.
        num: number of verdicts to keep. A row with no probability left becomes uniform.
    """
    if num == probs.shape[1]:
        return probs
    left = probs[:, :num]
    sums = left.sum(axis=1, keepdims=True)
    return np.divide(left, sums, out=np.full_like(left, 1 / num), where=sums > 0)


MIN_PROBABILITY = 1e-15  # probabilities are clipped here, so that one impossible verdict is not an infinite loss


def clip_log(probs: np.ndarray) -> np.ndarray:
    """Compute the natural log of probabilities, clipped at MIN_PROBABILITY."""
    return np.log(np.maximum(probs, MIN_PROBABILITY))


# accepted column names, a and b first; the tie may be missing
PROBABILITIES = (("p_a", "p_b", "p_tie"), ("winner_model_a", "winner_model_b", "winner_tie"))
LOGITS = (("logit_a", "logit_b", "logit_tie"),)


def as_probs_table(path, table: pa.Table) -> pa.Table | None:
    """
    Convert a table of probabilities or logits to a table with `order` and `logp_*`.

    A row without an order counts for both orders.

    Args:
        path: the file, for messages.
        table: the table.

    Returns:
        The converted table, or None if its columns have no known names.

    Raises:
        InputError: a probability is negative or not a number.
    """
    for names in (*PROBABILITIES, *LOGITS):
        if not {"id", *names[:2]} <= set(table.column_names):
            continue
        columns = [name for name in names if name in table.column_names]
        try:
            values = np.stack([table[name].to_numpy(zero_copy_only=False).astype(float) for name in columns], axis=1)
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}: one of {', '.join(columns)} is not a number ({error}).") from error
        if names in PROBABILITIES and (values < 0).any():
            row = int(np.flatnonzero((values < 0).any(axis=1))[0])
            raise InputError(f"{path} row {row + 1} (id {table['id'][row]}): a probability is below 0.")
        with np.errstate(divide="ignore"):
            logp = log_softmax(values, axis=1) if names in LOGITS else np.log(values)
        return _in_orders(table, widen(logp, -np.inf))
    return None


def _in_orders(table: pa.Table, logp: np.ndarray) -> pa.Table:
    ids, orders = table["id"].to_pylist(), None
    if "order" in table.column_names:
        orders = table["order"].to_pylist()
    else:
        ids, orders = [id_ for id_ in ids for _ in ORDERS], list(ORDERS) * len(ids)
        logp = np.repeat(logp, len(ORDERS), axis=0)
    columns = {f"logp_{name}": logp[:, place] for place, name in enumerate(("a", "b", "tie"))}
    return pa.table({"id": ids, "order": orders, **columns})
