"""Which judge may score which row, so that none labels what it was trained on."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from sft_judge.core.errors import GateError, InputError
from sft_judge.data.battles import has_label
from sft_judge.modeling.judge_spec import FILE, JudgeSpec, read_spec


def find_judges(model: str) -> dict[str, JudgeSpec]:
    """The judge in a folder, or those in its `fold-*` folders, by path."""
    if (Path(model) / FILE).is_file():
        return {str(model): read_spec(model)}
    folds = sorted(Path(model).glob("fold-*"))
    if not folds:
        read_spec(model)  # says what is missing
    return {str(folder): read_spec(folder) for folder in folds}


def assign_rows(judges: dict[str, JudgeSpec], battles: pa.Table, out_of_fold: bool, battles_sha256: str) -> dict:
    """
    Which rows [indices] each judge scores, by folder. Raises `GateError` where one would label what it trained on.

    Out of fold, a battle with a label is scored by the judge that left its fold out; one without, which nobody
    trained on, by all of them, and so is one of another file.
    """
    everything = np.arange(battles.num_rows)
    if not out_of_fold:
        return {folder: everything for folder in judges}
    folds = battles["fold"].to_pylist() if "fold" in battles.column_names else [None] * battles.num_rows
    labelled = has_label(battles)
    owners = fold_owners(judges, {fold for fold, label in zip(folds, labelled, strict=True) if label} - {None})
    rows = {folder: [] for folder in judges}
    for row, (fold, is_labelled) in enumerate(zip(folds, labelled, strict=True)):
        if is_labelled and fold is None:
            _not_trained_on(judges, battles["id"][row].as_py(), battles_sha256)
        for folder in [owners[fold]] if is_labelled and fold is not None else judges:
            rows[folder].append(row)
    return {folder: np.array(indices, dtype=int) for folder, indices in rows.items()}


def _not_trained_on(judges: dict[str, JudgeSpec], battle: str, battles_sha256: str) -> None:
    """Raise `GateError` where a judge learnt from this very file, and so from a labelled battle without a fold."""
    for folder, spec in judges.items():
        if spec.training.get("battles_sha256") == battles_sha256:
            raise GateError(
                f"Battle {battle} has a verdict and no fold, so {folder}, trained on this file, has learnt from it: "
                "its label would be in-sample. Give every battle a fold: `sft-judge prepare --folds`."
            )


def fold_owners(judges: dict[str, JudgeSpec], folds: set[int]) -> dict[int, str]:
    """For each fold the judge that left it out, `fold-N` by name. Raises `GateError` where that one trained on it."""
    by_name = {Path(folder).name: folder for folder in judges}
    for fold in folds:
        owner = by_name.get(f"fold-{fold}")
        if owner is None:
            raise InputError(f"Battles are in fold {fold}, but there is no judge fold-{fold} that left it out.")
        if fold in judges[owner].training.get("folds_seen", []):
            raise GateError(f"{owner} trained on fold {fold}: its labels there would be in-sample.")
    return {fold: by_name[f"fold-{fold}"] for fold in sorted(folds)}
