"""Assign battles to judges so that no judge labels a battle it was trained on."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from sft_judge.core.errors import GateError, InputError
from sft_judge.data.battles import has_label
from sft_judge.modeling.judge_spec import FILE, JudgeSpec, read_spec


def find_judges(model: str) -> dict[str, JudgeSpec]:
    """
    Find the judge in a folder, or the judges in its `fold-*` subfolders.

    Returns:
        The judge.json of each judge, by path.

    Raises:
        InputError: there is no judge, or some know ties and others do not.
    """
    if (Path(model) / FILE).is_file():
        return {str(model): read_spec(model)}
    folds = sorted(Path(model).glob("fold-*"))
    if not folds:
        read_spec(model)  # raises an error that says what is missing
    judges = {str(folder): read_spec(folder) for folder in folds}
    _check_same_number_of_verdicts(judges)
    return judges


def _check_same_number_of_verdicts(judges: dict) -> None:
    """Raise `InputError` if some judges of a folder know ties and others do not: their mean is not defined."""
    first, *others = judges
    for other in others:
        words = [judges[folder].verdict_words for folder in (first, other)]
        if len(words[0]) != len(words[1]):
            raise InputError(
                f"{first} has the verdicts {', '.join(words[0])}, {other} {', '.join(words[1])}; the judges of a "
                "folder need equally many. Train them with the same settings, or predict with each by itself."
            )


def assign_rows(judges: dict[str, JudgeSpec], battles: pa.Table, out_of_fold: bool, battles_sha256: str) -> dict:
    """
    Assign rows to judges.

    Out of fold, a labelled battle is scored by the judge that held out its fold. An unlabelled battle was not trained
    on, so all judges score it; the same holds for a labelled battle without a fold from a file that no judge was
    trained on.

    Args:
        judges: judge.json of each judge, by folder.
        battles: the battles.
        out_of_fold: False lets every judge score every row.
        battles_sha256: hash of the battles file.

    Returns:
        Row indices by folder.

    Raises:
        GateError: a judge would label a battle that it was trained on.
        InputError: a fold has no judge.
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
            _check_not_trained_on(judges, battles["id"][row].as_py(), battles_sha256)
        for folder in [owners[fold]] if is_labelled and fold is not None else judges:
            rows[folder].append(row)
    return {folder: np.array(indices, dtype=int) for folder, indices in rows.items()}


def _check_not_trained_on(judges: dict[str, JudgeSpec], battle: str, battles_sha256: str) -> None:
    """Raise `GateError` if a judge was trained on this file, and hence on a labelled battle without a fold."""
    for folder, spec in judges.items():
        if spec.training.get("battles_sha256") == battles_sha256:
            raise GateError(
                f"Battle {battle} has a verdict and no fold, so {folder} was trained on it and its label would be "
                "in-sample. Give every battle a fold: `sft-judge prepare --folds`."
            )


def fold_owners(judges: dict[str, JudgeSpec], folds: set[int]) -> dict[int, str]:
    """
    Return the judge that held out each fold, recognised by the folder name `fold-N`.

    Args:
        judges: judge.json of each judge, by folder.
        folds: the folds.

    Raises:
        InputError: a fold has no judge.
        GateError: the judge was trained on the fold.
    """
    by_name = {Path(folder).name: folder for folder in judges}
    for fold in folds:
        owner = by_name.get(f"fold-{fold}")
        if owner is None:
            raise InputError(f"Battles are in fold {fold}, but there is no judge fold-{fold} that held it out.")
        if fold in judges[owner].training.get("folds_seen", []):
            raise GateError(f"{owner} trained on fold {fold}: its labels there would be in-sample.")
    return {fold: by_name[f"fold-{fold}"] for fold in sorted(folds)}
