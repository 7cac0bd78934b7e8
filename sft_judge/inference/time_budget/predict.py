"""
Prediction with a time budget: a complete probs file from the first seconds on, which improves with every block.

First every battle has the class frequencies. Then battles are judged in one order, the shortest first, and then in the
other order, those first where it helps most. The probs file and the submission are replaced atomically as blocks are
finished, so a kill at any moment leaves valid files. The blocks are kept beside them, and the same command resumes
from them.
"""

import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from sft_judge.core.errors import InputError
from sft_judge.core.files import content_hash, partial_path
from sft_judge.core.progress import SECONDS_BETWEEN_LINES
from sft_judge.core.swap_orders import ORDERS
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.battles import read_battles
from sft_judge.data.probs import average_orders, clip_log, read_probs
from sft_judge.inference.engines import open_engine
from sft_judge.inference.scoring import score_battles
from sft_judge.inference.shards import RowWork, add_runtime
from sft_judge.inference.time_budget import scheduler
from sft_judge.inference.time_budget.output import TimedOutput
from sft_judge.inference.time_budget.scheduler import Deadline, Pass
from sft_judge.modeling.loading import load_tokenizer
from sft_judge.prompts.prompt import JudgePrompt

logger = logging.getLogger(__name__)

ROWS_MEASURED, ROWS_OF_A_RULE = 512, 4000  # battles tokenized at once, and battles used to fit the length rule
WRITES_SHARE = 0.05  # maximum share of the time spent on replacing the output
END_SHARE = 0.1  # time kept for the engine's shutdown, as a share of the time it took to start


@dataclass(frozen=True)
class TimedSettings:
    """Store how battles are scored within a time budget."""

    engine: str  # of ENGINES
    dtype: str = "auto"  # of DTYPES
    shard: tuple[int, int] = (0, 1)  # (i, n): the i-th of n processes that share the work and the disk
    tensor_parallel: int = 1  # GPUs over which vLLM shards one model
    uncertain_in: Path | None = None  # a probs file; its least certain battles are judged first
    length_rule: tuple[Path, Path] | None = None  # probs and battles to fit the length rule on


class OutOfTime(BaseException):
    """Signal that the alarm rang: a start or a block that takes far longer than planned is abandoned."""


def predict_in_time(output: TimedOutput, deadline: Deadline, settings: TimedSettings, fingerprint: str) -> dict:
    """
    Score as many battles as the time allows, and replace the output as it grows.

    Args:
        output: the probs file, and the submission beside it.
        deadline: the time that is left.
        settings: how battles are scored, and which first.
        fingerprint: hash of everything that the scores depend on. Scores with another one are not used.

    Returns:
        Facts for the manifest.
    """
    fingerprint = add_runtime(fingerprint, settings.engine)
    earlier_scores = output.read_scores(fingerprint)
    work = RowWork(partial_path(output.path).with_suffix(".shards.partial"), fingerprint, earlier_scores)
    result = {"engine": settings.engine, "judges": {output.model: content_hash(Path(output.model))}}
    result |= {"fingerprint": fingerprint, "time_budget": deadline.budget}
    report = Report(output, work, deadline, settings.shard[1], result)
    report.write()
    prompt = JudgePrompt.of(load_tokenizer(output.model), output.spec)
    battles = output.job.read(np.arange(len(output.ids)))  # all at once: they are not judged in the file's order
    try:
        with alarm((1 - END_SHARE) * deadline.left()) as ring_in:
            tokens = work.lengths(lambda: token_lengths(prompt, battles.to_pylist()))
            passes = plan_passes(output, tokens, settings, prompt)
            if any(len(each.choose(work.scores())) for each in passes):
                options = (settings.engine, output.model, output.spec, settings.dtype)
                with open_engine(*options, gpus=settings.tensor_parallel) as engine:
                    result["started_after"] = round(deadline.elapsed(), 1)
                    # from now on a late block may use half of the margin; a late start could not have been used
                    ring_in(deadline.left() + deadline.margin / 2)
                    score = partial(_score, engine, prompt, battles, work)
                    for place, queue in scheduler.score_in_time(
                        passes, tokens, deadline, work.scores, score, report.reserve
                    ):
                        report.block(passes[place:], queue, tokens)
                    ring_in(0)
    except OutOfTime:
        logger.warning("out of time; the unfinished block is skipped")
    result["seconds"] = round(deadline.elapsed(), 1)
    counts = report.write()
    if counts["complete"] and settings.shard[1] == 1:
        work.forget()
    return counts | result


def _score(engine, prompt: JudgePrompt, battles, work: RowWork, rows: np.ndarray, orders: tuple[str, ...]) -> None:
    work.add(rows, orders, score_battles(engine, prompt, battles.take(rows).to_pylist(), orders))


def plan_passes(output: TimedOutput, tokens: np.ndarray, settings: TimedSettings, prompt: JudgePrompt) -> list[Pass]:
    """
    Plan the passes of a swap policy over this shard's rows.

    Args:
        output: the output, which holds the policy.
        tokens: number of tokens of each battle in one order [N].
        settings: how battles are scored, and which first.
        prompt: the judge's prompt.
    """
    index, count = settings.shard
    first = np.argsort(tokens, kind="stable")
    if settings.uncertain_in:
        first = np.argsort(-read_uncertainty(settings.uncertain_in, output.ids), kind="stable")
    mine = first[index::count]
    rule = load_length_rule(*settings.length_rule, prompt) if settings.length_rule else None

    def in_turn(orders, scores):
        return mine[scheduler.open_rows(scores, orders)[mine]]

    def most_helped(scores):
        rows = in_turn(("ba",), scores)
        gain = scheduler.uncertainty(np.exp(scores[rows, 0])) if rule is None else rule(tokens[rows]) / tokens[rows]
        return rows[np.argsort(-gain, kind="stable")]

    if output.swap == "budget":
        return [Pass(("ab",), partial(in_turn, ("ab",))), Pass(("ba",), most_helped)]
    orders = ORDERS if output.swap == "both" else ORDERS[:1]
    return [Pass(orders, partial(in_turn, orders))]


def read_uncertainty(path: Path, ids: np.ndarray) -> np.ndarray:
    """
    Read how uncertain a probs file is of these battles.

    Args:
        path: the probs file.
        ids: ids of the battles [N].

    Returns:
        Entropy of each battle's probabilities [N], in nats.

    Raises:
        InputError: a battle is missing.
    """
    known_ids, probs, _ = average_orders(read_probs(path))
    place = {id_: row for row, id_ in enumerate(known_ids)}
    missing = [id_ for id_ in ids if id_ not in place]
    if missing:
        raise InputError(f"{path}: no probabilities for {len(missing)} of the battles, e.g. id {missing[0]!r}.")
    return scheduler.uncertainty(probs[[place[id_] for id_ in ids]])


def load_length_rule(path: Path, battles_path: Path, prompt: JudgePrompt) -> Callable[[np.ndarray], np.ndarray]:
    """
    Fit what the other order gains at a length in tokens, on battles with verdicts that were judged in both orders.

    Args:
        path: the probs file, with both orders.
        battles_path: the battles, with verdicts.
        prompt: the judge's prompt, which counts the tokens.

    Returns:
        Function from lengths in tokens [N] to gains in log loss [N].

    Raises:
        InputError: no battle with a verdict was judged in both orders.
    """
    battles = {row["id"]: row for row in read_battles(battles_path).to_pylist() if row["verdict"] is not None}
    probs = read_probs(path)
    probs_of = {(id_, order): row for id_, order, row in zip(probs.ids, probs.orders, np.exp(probs.logp), strict=True)}
    ids = [id_ for id_ in battles if all((id_, order) in probs_of for order in ORDERS)]
    if not ids:
        raise InputError(f"{path}: no battle of {battles_path} with a verdict was judged in both orders.")
    ids = [ids[row] for row in np.unique(np.linspace(0, len(ids) - 1, ROWS_OF_A_RULE).astype(int))]
    truth = [VERDICTS.index(battles[id_]["verdict"]) for id_ in ids]
    one, other = (np.array([probs_of[id_, order][k] for id_, k in zip(ids, truth, strict=True)]) for order in ORDERS)
    gains = clip_log((one + other) / 2) - clip_log(one)
    return scheduler.fit_length_rule(token_lengths(prompt, [battles[id_] for id_ in ids]), gains)


def token_lengths(prompt: JudgePrompt, rows: list[dict]) -> np.ndarray:
    """
    Count the tokens of each battle's prompt in its own order [N].

    Args:
        prompt: the judge's prompt.
        rows: the battles.
    """
    parts = [rows[start : start + ROWS_MEASURED] for start in range(0, len(rows), ROWS_MEASURED)]
    return np.array([len(ids) for part in parts for (ids,) in prompt.encode(part, ORDERS[:1])], dtype=float)


class Report:
    """
    Replace the output from time to time, and log how many battles will be judged in time.

    Args:
        output: the output.
        work: the scores of all processes.
        deadline: the time that is left.
        num_shards: number of processes that share the work.
        facts: facts for the manifest, extended here.
    """

    def __init__(self, output: TimedOutput, work: RowWork, deadline: Deadline, num_shards: int, facts: dict):
        self.output, self.work, self.deadline, self.facts = output, work, deadline, facts
        self.num_shards = num_shards
        self._took, self._written, self._said, self._blocks = 0.0, -np.inf, -np.inf, 0

    def reserve(self) -> float:
        """Return the seconds that the last write and the engine's shutdown need."""
        return 2 * self._took + END_SHARE * self.facts["started_after"]

    def write(self) -> dict:
        """Replace the output by the scores of all processes so far, and return its counts."""
        began = time.monotonic()
        with self.work.locked():
            counts = self.output.write(self.work.scores(), self.facts)
        self._written = time.monotonic()
        self._took = self._written - began
        return counts

    def block(self, passes: list[Pass], queue: np.ndarray, tokens: np.ndarray) -> None:
        """
        Report a finished block.

        Args:
            passes: the current pass and the later ones.
            queue: rows that the current pass has left.
            tokens: number of tokens of each battle in one order [N].
        """
        now = time.monotonic()
        if self._took < WRITES_SHARE * (now - self._written):
            self.write()
        self._blocks += 1
        if self._blocks != 3 and now - self._said < SECONDS_BETWEEN_LINES:
            return
        scores = self.work.scores()
        later = tokens[passes[1].choose(scores)] if len(passes) > 1 else np.empty(0)
        first, second = self.deadline.forecast(tokens[queue] * len(passes[0].orders), later)
        if self._blocks == 3:  # the first blocks are small and warm up the engine
            self.facts["planned"] = self._plan_rows(passes[0].orders, first, second, scores)
        self._said = now
        logger.info(
            f"predict: {len(queue)} battles left in order {' and '.join(passes[0].orders)}, {first} of them in time"
            + (f", then {second} in the other" if second else "")
            + f"; {self.deadline.rate:.0f} tokens/s, {max(self.deadline.left(), 0):.0f} s left"
        )

    def _plan_rows(self, orders: tuple[str, ...], first: int, second: int, scores: np.ndarray) -> dict:
        """Return how many rows will be judged once and twice, if the other shards are equally fast."""
        is_scored = ~np.isnan(scores[:, :, 0])
        more = np.array([first if "ab" in orders else 0, first if "ba" in orders else second]) * self.num_shards
        scored = [is_scored.any(axis=1).sum(), is_scored.all(axis=1).sum()]
        once, twice = np.minimum(scored + more, len(is_scored)).tolist()
        return {"after": round(self.deadline.elapsed(), 1), "judged": once, "judged_in_both_orders": twice}


@contextmanager
def alarm(seconds: float) -> Iterator[Callable[[float], None]]:
    """
    Raise `OutOfTime` in the block after so many seconds. Yield a function that resets the time; 0 disables the alarm.
    """

    def ring(signum, frame):
        raise OutOfTime

    if seconds <= 0:
        raise OutOfTime
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield partial(signal.setitimer, signal.ITIMER_REAL)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
