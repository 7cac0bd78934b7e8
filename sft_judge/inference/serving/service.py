"""
From a request's body to its answer: parse, tokenize, score on the engine, average, calibrate.

Bodies are parsed and tokenized in a separate thread, so that a long body does not delay the health check and other
answers. It is a single thread, because a tokenizer of transformers cannot be used by two threads at once.
"""

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TypeVar

import numpy as np

from sft_judge.core.errors import InputError
from sft_judge.core.swap_orders import unswap
from sft_judge.inference.judge import Judgement, judgements_or_none
from sft_judge.inference.scoring import TRIES_ALONE, orders_of
from sft_judge.inference.serving.errors import CODES, HttpError, no_finite_scores, unavailable
from sft_judge.inference.serving.limits import Limits, Queue
from sft_judge.inference.serving.prometheus import Metrics
from sft_judge.inference.serving.schema import Requests
from sft_judge.modeling.judge_spec import JudgeSpec
from sft_judge.prompts.prompt import JudgePrompt

logger = logging.getLogger(__name__)
Asked = TypeVar("Asked")  # a request that was read


@dataclass
class Judged:
    """
    Store what the judge says of a battle.

    Attributes:
        judgement: the judgement, None if the judge gives no finite numbers.
        cut: number of tokens removed from each text.
        turns_left_out: number of earliest turns left out.
        tokens: number of tokens of its prompts, in all orders.
        cached: number of these taken from the prefix cache.
    """

    judgement: Judgement | None
    cut: dict[str, int]
    turns_left_out: int
    tokens: int
    cached: int


class Service:
    """
    Answer requests with a judge on an engine.

    Args:
        name: name of the judge in answers.
        engine: an engine as `AsyncVllm`, with `alive` and `score`.
        prompt: the judge's prompt.
        spec: the judge's judge.json.
        limits: the server's limits.
    """

    def __init__(self, name: str, engine, prompt: JudgePrompt, spec: JudgeSpec, limits: Limits):
        self.name, self.engine, self.prompt, self.spec, self.limits = name, engine, prompt, spec, limits
        self.requests, self.queue = Requests(limits), Queue(limits.queue, limits.queue_mb)
        self.metrics = Metrics(self.queue)
        self.stopping = asyncio.Event()  # set when the server stops: unfinished uploads end
        self._reader = ThreadPoolExecutor(1, "reader")
        self._batch_room = asyncio.Semaphore(limits.battles)  # limits the lines of all batches in the engine at once

    async def answer(self, body: bytes) -> dict:
        """Answer one request to /v1/judge. Raises `HttpError`."""
        asked, judged = await self.judge(lambda: self.requests.read(body))
        if [one.judgement for one in judged] == [None]:
            raise no_finite_scores()
        judgements = [_told(row["id"], one) for row, one in zip(asked.rows, judged, strict=True)]
        return {"model": self.name, "calibration": self.spec.calibration, "judgements": judgements}

    async def answer_lines(self, body: bytes) -> AsyncIterator[str]:
        """Yield one line for each line of a batch, in order: its judgement or an error."""
        lines = enumerate((line for line in _lines_of(body) if line.strip()), 1)
        window = deque()
        try:
            for number, line in lines:
                window.append(asyncio.create_task(self._line(number, line)))
                if len(window) == self.limits.battles:
                    yield await window.popleft()
            while window:
                yield await window.popleft()
        finally:
            for task in window:
                task.cancel()

    async def _line(self, number: int, line: bytes) -> str:
        try:
            async with self._batch_room:
                asked, (judged,) = await self._judge(lambda: self.requests.read(line, one=True), held=True)
                answer = _told(asked.rows[0]["id"], judged)
        except HttpError as error:
            answer = error.content()
            answer["error"]["message"] = f"line {number}: {error}"
        except (RuntimeError, ValueError) as error:  # such as vLLM's refusal of one prompt; it must not end the batch
            logger.exception("a line of a batch failed")
            answer = HttpError(500, CODES[500], f"line {number}: {type(error).__name__} in the engine.").content()
        return json.dumps(answer) + "\n"

    async def judge(self, read: Callable[[], Asked], held: bool = False) -> tuple[Asked, list[Judged]]:
        """
        Judge battles, and observe the time.

        Args:
            read: function that reads the request, called in the reader's thread. Its result has the attributes `rows`
                (battles) and `swap` (None for the judge's own policy).
            held: take no places in the queue, because the requests that the battles belong to have theirs.

        Returns:
            The result of `read`, and what the judge says of each battle.

        Raises:
            HttpError: the request is invalid, or the server is overloaded.
        """
        start = time.monotonic()
        answer = await self._judge(read, held)
        self.queue.last_seconds = time.monotonic() - start
        self.metrics.seconds.observe(self.queue.last_seconds)
        return answer

    async def in_reader(self, work: Callable[[], Asked]) -> Asked:
        """Return the result of a function that reads a body, called in the reader's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, work)

    async def _judge(self, read: Callable[[], Asked], held: bool = False) -> tuple[Asked, list[Judged]]:
        """Judge the battles of a request, as `judge`."""
        try:
            async with asyncio.timeout(self.limits.seconds):
                asked, rows, fitted, orders, prompts = await self.in_reader(lambda: self._read(read))
                with self.queue.places(0 if held else max(0, len(rows) - 1)):
                    logp, cached = await self._score(prompts) if rows else (None, np.zeros(0, int))
        except TimeoutError:
            message = f"The judge took longer than {self.limits.seconds} s; the server is overloaded. Try again later."
            raise unavailable(message) from None
        self.metrics.battles.inc(len(rows))
        languages = [row.get("language") for row in rows]
        judged = judgements_or_none(unswap(logp, orders), self.spec, languages) if rows else []
        tokens = np.array([len(ids) for ids in prompts]).reshape(len(rows), len(orders)).sum(axis=1).tolist()
        cached = cached.reshape(len(rows), len(orders)).sum(axis=1).tolist()
        return asked, [
            Judged(judgement, fields.cut, fields.turns_left_out, *counts)
            for judgement, fields, *counts in zip(judged, fitted, tokens, cached, strict=True)
        ]

    async def _score(self, prompts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        """
        Score prompts. Rows that are not finite are scored again alone, and are NaN if that fails.

        Args:
            prompts: token ids of each row.

        Returns:
            Log-probabilities [N, K], and the number of tokens of each row taken from the prefix cache [N].
        """
        logp, cached = await self.engine.score(prompts)
        for _ in range(TRIES_ALONE):
            for row in np.flatnonzero(~np.isfinite(logp).all(axis=1)):
                again, cached[row] = await self.engine.score([prompts[row]], fresh=True)
                logp[row] = again[0]
        logp[~np.isfinite(logp).all(axis=1)] = np.nan
        return logp, cached

    def _read(self, read) -> tuple:
        asked = read()
        rows, orders = self.prompt.with_languages(asked.rows), orders_of(asked.swap or self.spec.swap)
        try:
            fitted = self.prompt.fit(rows)  # together, because a text that occurs in several battles is encoded once
        except InputError:
            place, error = next(filter(None, map(self._misfit, range(len(rows)), rows)))
            raise HttpError(400, CODES[400], error, f"battles.{place}" if len(rows) > 1 else None) from None
        return asked, rows, fitted, orders, [self.prompt.ids(fields, order) for fields in fitted for order in orders]

    def _misfit(self, place: int, row: dict) -> tuple[int, str] | None:
        """Return a battle's place and the error if the budget has no room for one turn of it."""
        try:
            self.prompt.fit([row])
        except InputError as error:
            return place, str(error)
        return None


def _told(id_: str | None, judged: Judged) -> dict:
    """Return a judgement, or the error in its place, as clients get it."""
    if judged.judgement is None:
        return {"id": id_, **no_finite_scores().content()}
    return {"id": id_, **asdict(judged.judgement), "cut": judged.cut, "turns_left_out": judged.turns_left_out}


def _lines_of(body: bytes) -> Iterator[bytes]:
    """Yield the lines of a body one by one. A list of 64 MiB of empty lines would take gigabytes."""
    start = 0
    while start < len(body):
        end = body.find(b"\n", start)
        end = len(body) if end < 0 else end
        yield body[start:end]
        start = end + 1
