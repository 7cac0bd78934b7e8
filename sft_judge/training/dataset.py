"""Convert battles to the trainer's rows: choose the battles of a run, build targets, attach teachers' labels."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features
from datasets.table import InMemoryTable

from sft_judge.core.errors import InputError
from sft_judge.core.manifest import source_hash
from sft_judge.core.progress import Progress
from sft_judge.core.swap_orders import ORDERS, swap
from sft_judge.data.battles import FIELDS, has_label
from sft_judge.data.row_order import draw_mixture
from sft_judge.data.ties import label_shares, tie_shares
from sft_judge.prompts.prompt import JudgePrompt
from sft_judge.training.dataset_cache import cached_rows, fingerprint
from sft_judge.training.soft_labels import correct_label, teacher_label

ROWS_PER_BATCH = 1000  # rows tokenised at a time
NOTHING_TO_TRAIN_ON = "No battle with a verdict is left to train on."
# columns of the battles that affect a row
ROW_COLUMNS = ("id", *FIELDS, "language", "verdict", "soft_a", "soft_b", "soft_tie", "source", "weight", "margin")


@dataclass
class TrainingData:
    """Hold the data of a run: the battles, the prompt, and the trainer's data sets built from both."""

    rows: pa.Table
    prompt: JudgePrompt
    train_set: Dataset
    counts: dict  # counts of rows, unlabelled battles, changed labels and truncations: see verdict_dataset
    eval_sets: dict[str, Dataset] = field(default_factory=dict)  # by name
    eval_groups: dict[str, np.ndarray] = field(default_factory=dict)  # by name: the group of each row's prompt [N]

    def sources(self) -> list[str | None]:
        """Return the source of each battle `[N]`; empty if the battles have no such column."""
        return self.rows["source"].to_pylist() if "source" in self.rows.column_names else []


def split_folds(battles: pa.Table, fold: int | None, holdout_fold: int | None) -> tuple[pa.Table, pa.Table | None]:
    """
    Split battles into those to train on and those to evaluate on.

    Training leaves out both folds; evaluation uses `fold` only.

    Args:
        battles: all battles.
        fold: the fold to evaluate on, or None.
        holdout_fold: a fold that neither training nor evaluation sees, or None.

    Returns:
        The training battles, and the evaluation battles or None.

    Raises:
        InputError: no battle is in one of the folds.
    """
    if fold is None and holdout_fold is None:
        return battles, None
    if "fold" not in battles.column_names:
        raise InputError("The battles have no folds. Assign them with `sft-judge prepare`.")
    folds = set(pc.unique(battles["fold"]).to_pylist()) - {None}
    for wanted in {fold, holdout_fold} - {None}:
        if wanted not in folds:
            raise InputError(f"No battle is in fold {wanted}; the folds are {sorted(folds)}.")
    left_out = pa.array([value for value in (fold, holdout_fold) if value is not None], pa.int64())
    train = battles.filter(pc.invert(pc.is_in(battles["fold"], left_out)))
    return train, None if fold is None else battles.filter(pc.equal(battles["fold"], fold))


def mix_sources(battles: pa.Table, mix: dict[str, float] | None, seed: int) -> pa.Table:
    """
    Repeat or subsample the battles of each source.

    Args:
        battles: the battles to train on.
        mix: rate of each source; None for every battle once.
        seed: seed of the draw.
    """
    if mix is None:
        return battles
    num_rows = battles.num_rows
    sources = battles["source"].to_pylist() if "source" in battles.column_names else [None] * num_rows
    return battles.take(pa.array(draw_mixture(sources, mix, seed)))


def hard_targets(row: dict, num_verdicts: int) -> list[float] | None:
    """
    Return the target probabilities [K] of a row's own label, or None if the row is unlabelled.

    Args:
        row: a battle with a `verdict` or soft labels.
        num_verdicts: K, 2 or 3.

    Raises:
        InputError: the label is a tie only, and K is 2.
    """
    shares = label_shares(row, num_verdicts)
    if shares is not None and not any(shares):
        raise InputError(
            f"Battle {row['id']} is a tie, but the judge has two verdicts, either because num_verdicts is 2 or "
            "because no training battle is a tie. Train with num_verdicts: 3, or drop or split the ties: `sft-judge "
            "prepare --ties drop` (or split)."
        )
    return shares


def verdict_shares(battles: pa.Table, num_verdicts: int) -> list[float] | None:
    """
    Compute the frequency of each verdict [K] in the labels, with add-one (Laplace) smoothing.

    Args:
        battles: battles, labelled or not.
        num_verdicts: K, 2 or 3.

    Returns:
        The shares, which sum to 1; None if no battle has a label.
    """
    columns = [name for name in ("id", "verdict", "soft_a", "soft_b", "soft_tie") if name in battles.column_names]
    targets = [hard_targets(row, num_verdicts) for row in battles.select(columns).to_pylist()]
    labels = [target for target in targets if target is not None]
    if not labels:
        return None
    total = np.sum(labels, axis=0) + 1
    return (total / total.sum()).tolist()


def shown_orders(policy: str, ids: list[str], seed: int) -> list[tuple[str, ...]]:
    """
    Return the orders in which each battle is trained.

    Args:
        policy: `both`, `random` (one order for each battle, drawn with `seed`) or `none` (as given).
        ids: ids of the battles.
        seed: seed of the draw.
    """
    if policy == "random":
        draws = np.random.default_rng(seed).integers(0, 2, len(ids))
        return [(ORDERS[draw],) for draw in draws]
    return [ORDERS if policy == "both" else ORDERS[:1]] * len(ids)


def verdict_dataset(
    battles: pa.Table,
    prompt: JudgePrompt,
    policy: str,
    seed: int,
    teacher: dict | None = None,
    correct_above: float = 1.0,
    cached: bool = False,
) -> tuple[Dataset, dict]:
    """
    Build the trainer's rows in the order of the battles, and count what was left out or changed.

    Args:
        battles: the battles.
        prompt: the prompt that turns a battle into token ids.
        policy: orders to show, see `shown_orders`.
        seed: seed of the orders.
        teacher: maps (id, order) to the probabilities [N, K] of N teachers, for response_a and response_b; a row in
            order ba gets them swapped. They may replace the battle's own label, see `soft_labels.correct_label`.
        correct_above: threshold of `soft_labels.correct_label`.
        cached: read rows of the same content from disk if they exist.

    Returns:
        The data set, and its counts: `rows`, `unlabelled` (skipped), `corrected`, `tie_shares_dropped` (number of
            battles whose label loses a tie's share because the judge has two verdicts, and the mean share lost), and
            `cut` (for each field, the number of battles in which it was truncated and the number of tokens removed).

    Raises:
        InputError: no battle has a label.
    """
    present = [name for name in ROW_COLUMNS if name in battles.column_names]
    columns = [name for name in present if name != "language" or prompt.language]
    battles = battles.select(columns)
    if teacher is None and not has_label(battles).any():
        raise InputError(NOTHING_TO_TRAIN_ON)
    rows = partial(verdict_rows, battles, prompt, policy, seed, teacher, correct_above)
    schema = _schema(teacher is not None)
    if cached:
        settings = {**prompt.settings(), "policy": policy, "seed": seed, "correct_above": correct_above}
        name = fingerprint(source_hash(__name__), settings, battles, teacher)
        dataset = cached_rows(rows, Features.from_arrow_schema(schema), name)
    else:
        batches = [pa.RecordBatch.from_pylist(list(part), schema=schema) for part in _parts(rows())]
        dataset = Dataset(InMemoryTable(pa.Table.from_batches(batches, schema)))
    if not len(dataset):
        raise InputError(NOTHING_TO_TRAIN_ON)
    cut = np.array(pc.list_flatten(dataset.data["cut"])).reshape(-1, len(FIELDS))
    counts = {"rows": len(dataset), "unlabelled": battles.num_rows - len(dataset)}
    counts["corrected"] = pc.sum(dataset.data["corrected"]).as_py()
    counts["tie_shares_dropped"] = _dropped_ties(battles) if len(prompt.words) == 2 else {"battles": 0, "share": 0.0}
    counts["cut"] = {
        name: {"battles": int((tokens > 0).sum()), "tokens": int(tokens.sum())}
        for name, tokens in zip(FIELDS, cut.T, strict=True)
    }
    return dataset.remove_columns(["cut", "corrected"]), counts


def verdict_rows(
    battles: pa.Table, prompt: JudgePrompt, policy: str, seed: int, teacher: dict | None, correct_above: float
) -> Iterator[dict]:
    """
    Yield a row for each battle that has a label or, with teachers, for every battle.

    With teachers, a battle without a label of its own is trained on the mean of theirs. For V orders shown of T tokens
    each, K verdicts and N teachers, a row has `input_ids` [V][T], `targets` [V][K], with teachers also `teacher`
    [V][N][K], `weight`, `margin`, `length` in tokens, `id`, `row` (its number), `source`, `cut`, and `corrected` (True
    if the teachers replaced the label). Weights are divided by their mean over the rows, so that they do not change
    the effective learning rate.

    Args:
        battles: the battles.
        prompt: the prompt that turns a battle into token ids.
        policy: orders to show, see `shown_orders`.
        seed: seed of the orders.
        teacher: teachers' labels, see `verdict_dataset`.
        correct_above: threshold of `soft_labels.correct_label`.
    """
    num_verdicts, number = len(prompt.words), 0
    mean_weight = _mean_weight(battles, teacher)
    with Progress("tokenise", battles.num_rows) as progress:
        for start in range(0, battles.num_rows, ROWS_PER_BATCH):
            rows = battles.slice(start, ROWS_PER_BATCH).to_pylist()
            orders = shown_orders(policy, [row["id"] for row in rows], seed + start)
            for row, fields, shown in zip(rows, prompt.fit(rows), orders, strict=True):
                hard = hard_targets(row, num_verdicts)
                soft = None if teacher is None else [teacher_label(teacher, row["id"], order) for order in shown]
                own = hard
                if hard is not None and soft is not None:
                    hard = correct_label(hard, soft, correct_above)
                if hard is not None or soft is not None:
                    details = {"id": row["id"], "row": number, "source": str(row.get("source"))}
                    details |= {"weight": _weight(row) / mean_weight, "margin": row.get("margin") or 0.0}
                    details |= {"corrected": hard is not own}
                    yield _example(prompt, fields, shown, hard, soft) | details
                    number += 1
            progress.add(len(rows))


def _weight(row: dict) -> float:
    return 1.0 if row.get("weight") is None else row["weight"]


def _mean_weight(battles: pa.Table, teacher: dict | None) -> float:
    """Return the mean weight of the rows that are trained on. Raise `InputError` if all weights are 0."""
    if "weight" not in battles.column_names:
        return 1.0
    weights = np.array(pc.fill_null(battles["weight"], 1.0))
    mean = weights[has_label(battles) | (teacher is not None)].mean() if len(weights) else 1.0
    if mean == 0:
        raise InputError("The weight of every battle is 0, so there is nothing to train on.")
    return float(mean)


def _dropped_ties(battles: pa.Table) -> dict:
    shares = tie_shares(battles)
    labelled = shares[~np.isnan(shares)]
    return {"battles": int((labelled > 0).sum()), "share": float(labelled.mean()) if len(labelled) else 0.0}


def _parts(rows: Iterator[dict]) -> Iterator[Iterator[dict]]:
    for first in rows:
        yield chain([first], islice(rows, ROWS_PER_BATCH - 1))


def _example(prompt: JudgePrompt, fields, shown: tuple[str, ...], hard, soft) -> dict:
    example = {"input_ids": [], "targets": []}
    for place, order in enumerate(shown):
        own = soft[place].mean(axis=0) if hard is None else np.asarray(hard)
        target = list(swap(own) if order == "ba" else own)
        verdict = prompt.verdict_ids[int(np.argmax(target))]
        example["input_ids"].append([*prompt.ids(fields, order), verdict])
        example["targets"].append(target)
    if soft is not None:
        example["teacher"] = [
            (swap(labels) if order == "ba" else labels).tolist() for labels, order in zip(soft, shown, strict=True)
        ]
    cut = [fields.cut[name] for name in FIELDS]
    return example | {"length": sum(map(len, example["input_ids"])), "cut": cut}


def _schema(teacher: bool) -> pa.Schema:
    probs = pa.list_(pa.list_(pa.float32()))
    ids, cut = pa.list_(pa.list_(pa.int32())), pa.list_(pa.int32())
    fields = [("input_ids", ids), ("targets", probs), ("length", pa.int64()), ("cut", cut), ("source", pa.string())]
    fields += [("id", pa.string()), ("row", pa.int64()), ("weight", pa.float32()), ("margin", pa.float32())]
    fields += [("corrected", pa.bool_())]
    return pa.schema(fields + ([("teacher", pa.list_(probs))] if teacher else []))
