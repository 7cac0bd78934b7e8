"""
Output of a prediction with a time budget: a probs file of all battles and a submission, each replaced atomically.

A battle that is not judged yet has class frequencies: the shares of the verdicts in training from judge.json, or equal
shares if judge.json has none.
"""

from pathlib import Path

import numpy as np

from sft_judge.core.errors import InputError
from sft_judge.core.files import content_hash
from sft_judge.core.manifest import versions
from sft_judge.core.swap_orders import ORDERS
from sft_judge.data.probs import Probs, read_probs, write_probs
from sft_judge.inference.calibrated import calibrate_probs, describe_judge
from sft_judge.inference.ensemble import combine
from sft_judge.inference.jobs import Job
from sft_judge.inference.out_of_fold import find_judges
from sft_judge.inference.submission import Sample, arrange_probs, write_submission
from sft_judge.inference.unscored import class_frequencies, fill_unscored, is_finite

COUNTS = ("judged", "judged_in_both_orders", "complete")


class TimedOutput:
    """
    Write the probs file and the submission of a job with a time budget.

    Args:
        model: the judge's folder.
        job: the battles to score, and the probs file.
        swap: both, none or budget. None for the judge's policy: none for a judge that uses one order, else budget.
        sample: the sample submission, or None.
        submission: the submission file, or None.

    Raises:
        InputError: the folder holds several judges.
    """

    def __init__(self, model: str, job: Job, swap: str | None, sample: Sample | None, submission: Path | None):
        judges = find_judges(model)
        if len(judges) > 1:
            raise InputError(f"{model} holds {len(judges)} judges; --time-budget needs one: name it, or merge them.")
        self.model, self.spec = model, judges[model]
        if self.spec.language:
            job.fill_languages()
        self.job, self.path, self.languages = job, job.output, job.languages
        self.sample, self.submission = sample, submission
        self.ids = np.array(job.battles["id"].to_pylist(), dtype=object)
        self.swap = swap or ("none" if self.spec.swap == "none" else "budget")
        self._judge = describe_judge(model, job.output)
        self._battles_sha256 = content_hash(job.file.path)

    def frequencies(self) -> tuple[np.ndarray, str]:
        """Return the class frequencies [K], and a description of their origin."""
        return class_frequencies(self.spec, symmetric=self.swap == "both")

    def empty_scores(self) -> np.ndarray:
        """Return scores [N, 2, K] that are all unknown (NaN)."""
        return np.full((len(self.ids), len(ORDERS), self.spec.num_verdicts), np.nan)

    def read_scores(self, fingerprint: str) -> np.ndarray:
        """Read the scores [N, 2, K] of an existing probs file; NaN if it has none or another fingerprint."""
        scores = self.empty_scores()
        if not self.path.is_file():
            return scores
        probs = read_probs(self.path)
        if probs.metadata.get("deadline", {}).get("fingerprint") != fingerprint:
            return scores
        judged = probs if probs.scored is None else probs.select(probs.scored)
        place = {id_: row for row, id_ in enumerate(self.ids)}
        rows = [place[id_] for id_ in judged.ids]
        scores[rows, [ORDERS.index(order) for order in judged.orders]] = judged.logp[:, : scores.shape[2]]
        return scores

    def write_frequencies(self) -> None:
        """Write class frequencies if there is no output yet, before anything that takes time."""
        if not all(path.is_file() for path in (self.path, self.submission) if path is not None):
            self.write(self.empty_scores(), {"engine": None})

    def write(self, scores: np.ndarray, result: dict) -> dict:
        """
        Replace the probs file and the submission.

        Args:
            scores: log-probabilities [N, 2, K], NaN where unknown.
            result: facts for the file's metadata.

        Returns:
            The counts of judged battles.
        """
        probs = self.probs(scores, result)
        predicted = (
            None if self.sample is None else arrange_probs(self.path, calibrate_probs(probs), probs, self.sample)
        )
        write_probs(self.path, probs)
        if predicted is not None:
            mean = combine([predicted], np.ones(1), self.sample.num_verdicts)
            write_submission(self.submission, self.sample, mean)
        return {key: probs.metadata["deadline"][key] for key in ("battles", *COUNTS)}

    def probs(self, scores: np.ndarray, result: dict) -> Probs:
        """
        Build the probs of all battles, with class frequencies for those that are not judged.

        Args:
            scores: log-probabilities [N, 2, K], NaN where unknown.
            result: facts for the file's metadata.
        """
        frequencies, source = self.frequencies()
        is_scored = is_finite(scores)
        counts = (int(is_scored.any(axis=1).sum()), int(is_scored.all(axis=1).sum()))
        whole = bool((is_scored[:, 0] if self.swap == "none" else is_scored.all(axis=1)).all())
        metadata = {
            **self._judge,
            "calibration": self.spec.calibration,
            "battles_sha256": self._battles_sha256,
            "engine": result["engine"],
            "versions": versions(),
            "rows": len(is_scored),
            "judges": result.get("judges"),
            "deadline": {
                "swap": self.swap,
                "battles": len(is_scored),
                **dict(zip(COUNTS, (*counts, whole), strict=True)),
                "class_frequencies": frequencies.tolist(),
                "class_frequencies_from": source,
                **{key: value for key, value in result.items() if key not in ("engine", "judges")},
            },
        }
        return fill_unscored(self.ids, scores, frequencies, metadata, self.languages)
