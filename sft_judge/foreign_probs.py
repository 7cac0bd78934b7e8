"""Somebody else's opinion of battles, a row a battle, as the columns of a probs file: probabilities or logits."""

import numpy as np
import pyarrow as pa
from scipy.special import log_softmax

from sft_judge.errors import InputError
from sft_judge.verdicts import ORDERS

# what their columns may be called, a and b first; the tie may be missing
PROBABILITIES = (("p_a", "p_b", "p_tie"), ("winner_model_a", "winner_model_b", "winner_tie"))
LOGITS = (("logit_a", "logit_b", "logit_tie"),)


def as_probs_table(path, table: pa.Table) -> pa.Table | None:
    """
    The table with `order` and `logp_*`, or None where its columns are called by no name known here.

    Without an order a row counts for both. Raises `InputError` for a negative probability or a text.
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
        if len(columns) == 2:
            logp = np.column_stack([logp, np.full(len(logp), -np.inf)])
        return _in_orders(table, logp)
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
