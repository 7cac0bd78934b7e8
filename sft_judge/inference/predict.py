"""
Predict verdict probabilities of battles: choose the judge and orders of each row, and resume a killed run.

A judge is one folder, or a folder of `fold-*` judges. Out of fold, a labelled row is scored by the judge that held out
its fold; an unlabelled row is scored by all judges and averaged. Finished blocks are kept beside the output until all
are done. A battle without finite scores gets class frequencies, and is marked as not scored.
"""

import logging
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sft_judge.core.errors import InputError
from sft_judge.core.files import content_hash, partial_path
from sft_judge.core.manifest import versions
from sft_judge.core.progress import Progress
from sft_judge.data.battles import labelled_folds
from sft_judge.data.probs import Probs, write_probs
from sft_judge.inference.calibrated import describe_judge
from sft_judge.inference.engines import open_engine
from sft_judge.inference.jobs import Job
from sft_judge.inference.out_of_fold import assign_rows, find_judges, fold_owners
from sft_judge.inference.parity import check_parity
from sft_judge.inference.ray_actors import score_on_ray
from sft_judge.inference.scoring import labelled_scores, orders_of, score_battles
from sft_judge.inference.shards import Work, add_runtime, blocks
from sft_judge.inference.unscored import class_frequencies, fill_unscored, is_finite
from sft_judge.modeling.judge_spec import JudgeSpec
from sft_judge.modeling.loading import dtype_of, load_tokenizer
from sft_judge.prompts.prompt import JudgePrompt

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictSettings:
    """Store how battles are scored."""

    engine: str  # of ENGINES
    dtype: str = "auto"  # of DTYPES
    swap: str | None = None  # of SWAPS; None for the judge's own policy
    out_of_fold: bool = False  # score each labelled row by the judge that held out its fold
    check: int | None = None  # number of battles to compare with transformers
    shard: tuple[int, int] = (0, 1)  # (i, n): the i-th of n processes that share the work and the disk
    ray: str | None = None  # address of a cluster
    tensor_parallel: int = 1  # GPUs over which vLLM shards one model


@dataclass(eq=False)
class Block:
    """Represent one block of the rows that a judge scores, and where its scores are stored."""

    work: Work
    judge: int
    place: slice
    job: Job
    indices: np.ndarray

    def rows(self) -> list[dict]:
        return self.job.read(self.indices).to_pylist()

    def save(self, logp: np.ndarray, progress: Progress) -> None:
        self.work.save(self.judge, self.place, logp)
        progress.add(len(self.indices))


def predict(model: str, jobs: list[Job], settings: PredictSettings, fingerprint: str) -> dict | None:
    """
    Score every job with every judge it needs, load each judge once, and write the probs files.

    Args:
        model: folder of a judge, or of `fold-*` judges.
        jobs: battles files and their outputs.
        settings: how to score them.
        fingerprint: hash of everything that the scores depend on. Unfinished work with another fingerprint
            is deleted.

    Returns:
        Facts for the manifest. None if other processes still have blocks to do; no output is written then.

    Raises:
        GateError: a row would be scored by a judge that was trained on it, or `check` fails.
    """
    judges = find_judges(model)
    plans = [assign_rows(judges, job.battles, settings.out_of_fold, content_hash(job.file.path)) for job in jobs]
    if any(spec.language for spec in judges.values()):
        for job in jobs:
            job.fill_languages()
    fingerprint = add_runtime(fingerprint, settings.engine)
    if len(judges) > 1 and any(spec.calibration for spec in judges.values()):
        logger.warning(
            f"{model}: the calibrations of its {len(judges)} judges are not applied to the mean of their probabilities"
        )
    described = [describe_judge(model, job.output) | {"judges": _hash_judges(judges)} for job in jobs]
    works = [Work(partial_path(job.output).with_suffix(".shards.partial"), fingerprint) for job in jobs]
    result = {"rows": sum(job.battles.num_rows for job in jobs), "engine": settings.engine}
    for number, (folder, spec) in enumerate(judges.items()):
        orders = orders_of(settings.swap or spec.swap)
        todo = [(work, number, job, wanted[folder]) for work, job, wanted in zip(works, jobs, plans, strict=True)]
        # With `check` the judge is always run, so that a failed check cannot pass because its blocks are finished.
        mine = settings.shard
        if settings.check or not all(work.finished(number, len(indices), mine) for work, _, _, indices in todo):
            result |= _run_judge(folder, spec, orders, todo, settings)
    for work, wanted in zip(works, plans, strict=True):
        if not all(work.finished(number, len(wanted[folder])) for number, folder in enumerate(judges)):
            return None
    if _hash_judges(judges) != described[0]["judges"]:
        raise InputError(f"{model} changed during the prediction, so its scores cannot be attributed. Run it again.")
    for work, job, wanted, made_by in zip(works, jobs, plans, described, strict=True):
        write_probs(job.output, _gather(work, job, judges, wanted, made_by, settings))
        work.clear()
    return result


def _hash_judges(judges: dict[str, JudgeSpec]) -> dict[str, str]:
    return {folder: content_hash(folder) for folder in judges}


def _run_judge(folder: str, spec: JudgeSpec, orders, todo: list, settings: PredictSettings) -> dict:
    every = [
        Block(work, number, place, job, indices[place])
        for work, number, job, indices in todo
        for place in blocks(len(indices), settings.shard)
    ]
    left = [block for block in every if not block.work.block(block.judge, block.place).is_file()]
    with Progress(f"predict {folder}", sum(len(block.indices) for block in every)) as progress:
        progress.add(progress.total - sum(len(block.indices) for block in left))
        if settings.ray:
            scorer = {"folder": folder, "engine": settings.engine, "dtype": settings.dtype, "orders": orders}
            for block, logp in score_on_ray(settings.ray, scorer, [(block, block.rows()) for block in left]):
                block.save(logp, progress)
            return {}
        prompt = JudgePrompt.of(load_tokenizer(folder), spec)
        with open_engine(settings.engine, folder, spec, settings.dtype, gpus=settings.tensor_parallel) as engine:
            for block in left:
                block.save(score_battles(engine, prompt, block.rows(), orders), progress)
            if settings.check:
                checked = todo[0][2].read(np.arange(settings.check)[: todo[0][2].battles.num_rows])
                return {"check": check_engine(engine, folder, spec, prompt, checked, orders, settings)}
    return {}


def check_engine(
    engine, folder: str, spec, prompt: JudgePrompt, battles: pa.Table, orders, settings: PredictSettings
) -> dict:
    """
    Compare an engine with transformers on a few battles, and log the result.

    Args:
        engine: the open engine.
        folder: the judge's folder.
        spec: the judge's judge.json.
        prompt: the judge's prompt.
        battles: the battles.
        orders: the orders to show.
        settings: how battles are scored.

    Raises:
        GateError: the difference is above the tolerance.
    """
    rows = battles.to_pylist()
    with open_engine("transformers", folder, spec, settings.dtype) as reference:
        expected, labels = labelled_scores(reference, prompt, rows, orders)
    seen, _ = labelled_scores(engine, prompt, rows, orders)
    dtype = dtype_of(folder, settings.dtype)
    parity = check_parity("engines", f"{folder}, engine against transformers", dtype, seen, expected, labels)
    return {"max_difference": parity.max_difference, "rows": parity.rows, "dtype": dtype}


def _gather(work: Work, job: Job, judges: dict, wanted: dict, made_by: dict, settings: PredictSettings) -> Probs:
    """
    Return one probs row for each battle and order.

    Raises:
        InputError: no battle has finite scores.
    """
    first = next(iter(judges.values()))
    orders = orders_of(settings.swap or first.swap)
    scores = _mean_scores(work, judges, wanted, (job.battles.num_rows, len(orders), first.num_verdicts))
    unscored = int((~is_finite(scores)).all(axis=1).sum())
    if unscored == len(scores):
        raise InputError(
            f"{next(iter(judges))}: no battle of {job.file.path} has finite scores; nothing was written. Try --dtype "
            "float32; if that gives none either, the weights are damaged."
        )
    frequencies, source = class_frequencies(first, symmetric=len(orders) > 1)
    if unscored:
        logger.warning(f"{job.output}: {unscored} of {len(scores)} battles have class frequencies, {source}")
    metadata = {
        **made_by,
        "calibration": first.calibration if len(judges) == 1 else None,
        "battles_sha256": content_hash(job.file.path),
        "engine": settings.engine,
        "versions": versions(),
        "rows": job.battles.num_rows,
    }
    if unscored:
        metadata["unscored"] = {"battles": unscored, "class_frequencies": frequencies.tolist(), "from": source}
    if settings.out_of_fold:
        metadata["folds"] = {
            str(fold): {"model": folder, "folds_seen": judges[folder].training.get("folds_seen", [])}
            for fold, folder in fold_owners(judges, labelled_folds(job.battles) - {None}).items()
        }
        metadata["without_label"] = list(judges)  # no judge was trained on unlabelled rows: they get the mean of all
    ids = np.array(job.battles["id"].to_pylist(), dtype=object)
    return fill_unscored(ids, scores, frequencies, metadata, job.languages)


def _mean_scores(work: Work, judges: dict, wanted: dict, shape: tuple[int, int, int]) -> np.ndarray:
    """Average the probabilities of the judges that scored a row, and return their logarithms, NaN if none did."""
    total, count = np.zeros(shape), np.zeros(shape[:2])
    for number, folder in enumerate(judges):
        indices = wanted[folder]
        for block in blocks(len(indices)):
            scores = np.load(work.block(number, block))
            finite = is_finite(scores)
            total[indices[block]] += np.where(finite[..., None], np.exp(scores), 0)
            count[indices[block]] += finite
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(total / count[..., None])
