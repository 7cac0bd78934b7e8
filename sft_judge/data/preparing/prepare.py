"""
Preparation of battles in two passes, so that they need not fit into memory.

The first pass surveys all battles; the second writes those that stay. The first pass keeps a few hundred bytes of each
battle (hashes, a MinHash signature), never its text.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from sft_judge.core.errors import InputError
from sft_judge.data.battles import BattleFile, fill_columns, set_column
from sft_judge.data.preparing.duplicates import DuplicateIndex, count_disagreeing
from sft_judge.data.preparing.external_sort import sort_externally
from sft_judge.data.preparing.folds import deal_folds, settle_ties
from sft_judge.data.preparing.language import LanguageDetector, language_detector, stated_language
from sft_judge.data.preparing.prompt_groups import PromptIndex
from sft_judge.data.row_order import balanced_order

TIE = "tie"


@dataclass
class PrepareSettings:
    """Settings of `prepare`. By default nothing is left out."""

    folds: int = 5  # 0 assigns no folds
    seed: int = 0
    ties: str = "keep"  # keep | drop | split
    dedup: str = "off"  # off | exact | near
    language: str | None = None  # one of LANGUAGE_RULES; None leaves languages as they are
    language_model: Path | None = None  # another fastText model instead of the default
    order: str = "file"  # file | balanced
    rules: dict[str, Callable[[dict], bool]] = field(default_factory=dict)


@dataclass
class Survey:
    """
    Results of the first pass over N battles.

    Attributes:
        ids: battle ids.
        verdicts: codes of the verdicts.
        sources: codes of the sources.
        languages: language of each battle, if languages are set.
        scores: probability of each detected language, NaN for a stated language.
        reasons: reason why a battle is left out, "" if it stays.
        labelled: mask of battles with a verdict.
        is_tie: mask of ties.
        prompts: index of the prompts.
        stand_ins: the battle that stays for each battle, if duplicates are removed.
        disagreeing: number of duplicates whose verdict differs from that of the battle that stays.
    """

    ids: np.ndarray
    verdicts: np.ndarray
    sources: np.ndarray
    languages: list[str] | None
    scores: np.ndarray | None
    reasons: np.ndarray
    labelled: np.ndarray
    is_tie: np.ndarray
    prompts: PromptIndex
    stand_ins: np.ndarray | None = None
    disagreeing: int = 0


class _Codes:
    """Codes of names in order of appearance, to store a million references to a few strings."""

    def __init__(self):
        self.places: dict = {}
        self.codes: list[int] = []

    def add(self, names: list) -> None:
        self.codes += [self.places.setdefault(name, len(self.places)) for name in names]

    def array(self) -> np.ndarray:
        return np.array(self.codes, dtype=np.int32)


def survey(files: list[BattleFile], choices: PrepareSettings, progress=None) -> Survey:
    """
    Survey all battles of the files (first pass).

    Args:
        files: the battles.
        choices: settings.
        progress: function called with the number of rows after each batch.

    Raises:
        InputError: an id is in two files, or no battle would stay.
    """
    detector = language_detector(choices.language_model) if choices.language else None
    ids, languages, scores = [], [], []
    verdicts, sources, reasons = _Codes(), _Codes(), _Codes()
    prompts, duplicates = PromptIndex(), DuplicateIndex(choices.dedup == "near")
    owners: dict[str, Path] = {}
    columns = None if choices.dedup != "off" or choices.rules else ["id", "prompt", "verdict", "source", "language"]
    for file in files:
        for table in file.batches(columns):
            rows = table.to_pylist()
            _refuse_shared_ids(rows, file.path, owners, len(files))
            ids += [row["id"] for row in rows]
            verdicts.add([row["verdict"] for row in rows])
            sources.add([row.get("source") for row in rows])
            prompts.add([row["prompt"] for row in rows])
            if detector:
                detected = [_language(row, detector, choices.language) for row in rows]
                languages += [name for name, _ in detected]
                scores += [score for _, score in detected]
                rows = [{**row, "language": name} for row, (name, _) in zip(rows, detected, strict=True)]
            reasons.add([_reason(row, choices) for row in rows])
            if choices.dedup != "off":
                duplicates.add(rows)
            if progress:
                progress(len(rows))
    names = np.array(list(reasons.places), dtype=object)
    result = Survey(
        ids=np.array(ids, dtype=object),
        verdicts=verdicts.array(),
        sources=sources.array(),
        languages=languages if detector else None,
        scores=np.array([np.nan if score is None else score for score in scores]) if detector else None,
        reasons=names[reasons.array()],
        labelled=verdicts.array() != verdicts.places.get(None, -1),
        is_tie=verdicts.array() == verdicts.places.get(TIE, -1),
        prompts=prompts,
    )
    if choices.dedup != "off":
        result.stand_ins, swapped = duplicates.find_representatives(
            result.reasons == "", result.labelled, result.ids, prompts
        )
        names = np.array(list(verdicts.places), dtype=object)
        result.disagreeing = count_disagreeing(result.stand_ins, swapped, names[result.verdicts])
        gone = (result.stand_ins >= 0) & (result.stand_ins != np.arange(len(ids)))
        result.reasons[gone] = f"{'near-' if choices.dedup == 'near' else ''}duplicate of another battle"
    if not (result.reasons == "").any():
        told = ", ".join(f"{count} {reason}" for reason, count in Counter(result.reasons.tolist()).items())
        raise InputError(f"No battle is left: {told}. Choose other filters.")
    return result


def _refuse_shared_ids(rows: list[dict], path: Path, owners: dict[str, Path], num_files: int) -> None:
    """Check that no id is in several files; each file checks its own ids."""
    for row in rows if num_files > 1 else ():
        if row["id"] in owners:
            raise InputError(
                f"{path}: id {row['id']!r} is in {owners[row['id']]} too; files are joined by id, so ids must be "
                "unique."
            )
        owners[row["id"]] = path


def _language(row: dict, detector: LanguageDetector, rule: str) -> tuple[str | None, float | None]:
    """Return a stated language without a score, or the detected language with its score."""
    if rule != "detect" and stated_language(row):
        return detector.name(row["language"]), None
    return (None, None) if rule == "stated" else detector.detect(row["prompt"])


def _reason(row: dict, choices: PrepareSettings) -> str:
    if row["verdict"] == TIE and choices.ties == "drop":
        return "a tie"
    return next((reason for reason, holds in choices.rules.items() if holds(row)), "")


def folds_of(survey: Survey, choices: PrepareSettings) -> np.ndarray | None:
    """
    Return the fold of each battle that stays `[M]`, or None if no folds are assigned.

    Args:
        survey: results of the first pass.
        choices: settings.
    """
    if not choices.folds:
        return None
    stays = np.flatnonzero(survey.reasons == "")
    groups, hashes = survey.prompts.groups()
    strata = survey.verdicts.astype(np.int64) * (survey.sources.max() + 1) + survey.sources
    return deal_folds(groups[survey.prompts.rows[stays]], hashes, strata[stays], choices.folds, choices.seed)


def places_of(survey: Survey, choices: PrepareSettings) -> np.ndarray | None:
    """
    Return the position in the output of each battle that stays `[M]`, or None to keep the files' order.

    Args:
        survey: results of the first pass.
        choices: settings.
    """
    if choices.order == "file":
        return None
    stays = np.flatnonzero(survey.reasons == "")
    return np.argsort(balanced_order(survey.verdicts[stays], survey.sources[stays], choices.seed))


def prepare_battles(files: list[BattleFile], survey: Survey, folds, ties: str, reject) -> Iterator[pa.Table]:
    """
    Yield the battles that stay, in the files' order, with languages and folds filled in (second pass).

    Args:
        files: the battles.
        survey: results of the first pass.
        folds: fold of each battle that stays `[M]`, or None.
        ties: rule of `settle_ties`.
        reject: function called with a dict for each battle that is left out.
    """
    start = stayed = 0
    for file in files:
        first = start
        for table in file.batches():
            span = slice(start, start + table.num_rows)
            reasons = survey.reasons[span]
            if survey.languages is not None:
                table = set_column(table, "language", pa.array(survey.languages[span], pa.string()))
                scores = survey.scores[span]
                table = set_column(table, "language_score", pa.array(scores, pa.float64(), mask=np.isnan(scores)))
            for row in np.flatnonzero(reasons != "").tolist():
                reject(_reject(survey, file.path, start + row, first, table.slice(row, 1).to_pylist()[0]))
            settled = settle_ties(table.filter(pa.array(reasons == "")), "keep" if ties == "drop" else ties)
            if folds is not None:
                settled = set_column(settled, "fold", pa.array(folds[stayed : stayed + settled.num_rows], pa.int64()))
            start, stayed = span.stop, stayed + settled.num_rows
            yield settled


def _reject(survey: Survey, path: Path, row: int, first: int, data: dict) -> dict:
    reason = survey.reasons[row]
    if survey.stand_ins is not None and survey.stand_ins[row] not in (-1, row):
        reason = f"{reason}: {survey.ids[survey.stand_ins[row]]}"
    about = {"source": str(path), "row": row - first + 1, "id": data["id"], "field": None}
    return {**about, "reason": reason, "data": data}


def reorder_battles(tables: Iterator[pa.Table], places: np.ndarray, output: Path) -> Iterator[pa.Table]:
    """
    Yield the rows of `tables` in the order of `places`, with temporary files next to the output.

    Args:
        tables: the battles.
        places: position of each battle in the output `[M]`.
        output: the output file.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    return sort_externally((fill_columns(table) for table in tables), places, output.parent)


def count_outcomes(survey: Survey, folds, choices: PrepareSettings) -> dict:
    """
    Count rows for the manifest: rows in, out and rejected by reason, ties, languages, rows by fold.

    Args:
        survey: results of the first pass.
        folds: fold of each battle that stays `[M]`, or None.
        choices: settings.
    """
    gone = Counter(reason for reason in survey.reasons.tolist() if reason)
    stays = np.flatnonzero(survey.reasons == "")
    merged = 0 if survey.stand_ins is None else int((survey.stand_ins >= 0).sum()) - len(stays)
    detected = None if survey.scores is None else int((~np.isnan(survey.scores)).sum())
    return {
        "rows_in": len(survey.ids),
        "rows_out": len(stays),
        "rows_rejected": sum(gone.values()) - merged,
        "rows_merged": merged,
        "rejected_by": dict(gone.most_common()),
        "disagreeing": survey.disagreeing,
        "ties": {choices.ties: int(survey.is_tie.sum())},
        "languages": dict(Counter(name or "none stated" for name in survey.languages or []).most_common()),
        "languages_detected": detected,
        "languages_stated": None if detected is None else len(survey.ids) - survey.languages.count(None) - detected,
        "rows_by_fold": [] if folds is None else np.bincount(folds, minlength=choices.folds).tolist(),
    }


def measure_overlap(survey: Survey, test: BattleFile) -> dict:
    """
    Count the battles of a test file whose prompt is in the training battles, exactly (normalised) or nearly.

    A prompt with the same first turn counts as near, because a follow-up is asked of the same answers.

    Args:
        survey: results of the first pass over the training battles.
        test: the test battles.
    """
    trained = np.unique(survey.prompts.rows[survey.reasons == ""])
    before = len(survey.prompts.rows)
    ids: list[str] = []
    for table in test.batches(["id", "prompt"]):
        survey.prompts.add(table["prompt"].to_pylist())
        ids += table["id"].to_pylist()
    rows = survey.prompts.rows[before:]
    groups, _ = survey.prompts.groups()
    same = np.isin(rows, trained)
    near = np.isin(groups[rows], groups[trained]) & ~same
    named = [ids[row] for row in np.flatnonzero(same | near)[:20]]
    return {"rows": len(ids), "same_prompt": int(same.sum()), "near_prompt": int(near.sum()), "first_ids": named}
