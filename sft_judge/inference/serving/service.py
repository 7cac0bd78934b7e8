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
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import numpy as np

from sft_judge.core.errors import InputError
from sft_judge.core.swap_orders import unswap
from sft_judge.inference.judge import judgements_or_none
from sft_judge.inference.scoring import TRIES_ALONE, orders_of
from sft_judge.inference.serving.errors import CODES, HttpError, no_finite_scores, unavailable
from sft_judge.inference.serving.limits import Limits, Queue
from sft_judge.inference.serving.prometheus import Metrics
from sft_judge.inference.serving.schema import Requests
from sft_judge.modeling.judge_spec import JudgeSpec
from sft_judge.prompts.prompt import JudgePrompt

logger = logging.getLogger(__name__)


class Service:
    """
    Answer requests with a judge on an engine.

    Args:
        name: name of the judge in answers.
        engine: an engine with `alive` and `async score(prompts) -> [N, K]`.
        prompt: the judge's prompt.
        spec: the judge's judge.json.
        limits: the server's limits.
    """

    def __init__(self, name: str, engine, prompt: JudgePrompt, spec: JudgeSpec, limits: Limits):
        self.name, self.engine, self.prompt, self.spec, self.limits = name, engine, prompt, spec, limits
        self.requests, self.queue = Requests(limits), Queue(limits.queue, limits.queue_mb)
        self.metrics = Metrics(self.queue)
        self._reader = ThreadPoolExecutor(1, "reader")
        self._batch_room = asyncio.Semaphore(limits.battles)  # limits the lines of all batches in the engine at once

    async def answer(self, body: bytes) -> dict:
        """Answer one request. Raises `HttpError`."""
        start = time.monotonic()
        judged = await self._judge(body)
        self.queue.last_seconds = time.monotonic() - start
        self.metrics.seconds.observe(self.queue.last_seconds)
        return {"model": self.name, "calibration": self.spec.calibration, "judgements": judged}

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
                (answer,) = await self._judge(line, in_batch=True)
        except HttpError as error:
            answer = error.content()
            answer["error"]["message"] = f"line {number}: {error}"
        except (RuntimeError, ValueError) as error:  # such as vLLM's refusal of one prompt; it must not end the batch
            logger.exception("a line of a batch failed")
            answer = HttpError(500, CODES[500], f"line {number}: {type(error).__name__} in the engine.").content()
        return json.dumps(answer) + "\n"

    async def _judge(self, body: bytes, in_batch: bool = False) -> list[dict]:
        """Judge the battles of a body. With `in_batch` the body is one battle and takes no place in the queue."""
        try:
            async with asyncio.timeout(self.limits.seconds):
                work = asyncio.get_running_loop().run_in_executor(self._reader, self._read, body, in_batch)
                rows, fitted, orders, prompts = await work
                with self.queue.places(0 if in_batch else len(rows) - 1):
                    logp = unswap(await self._score(prompts), orders)
        except TimeoutError:
            message = f"The judge took longer than {self.limits.seconds} s; the server is overloaded. Try again later."
            raise unavailable(message) from None
        self.metrics.battles.inc(len(rows))
        judged = judgements_or_none(logp, self.spec, [row.get("language") for row in rows])
        if judged == [None]:
            raise no_finite_scores()
        return [
            {"id": row["id"], **no_finite_scores().content()}
            if judgement is None
            else {"id": row["id"], **asdict(judgement), "cut": fields.cut, "turns_left_out": fields.turns_left_out}
            for row, fields, judgement in zip(rows, fitted, judged, strict=True)
        ]

    async def _score(self, prompts: list[list[int]]) -> np.ndarray:
        """Return log-probabilities [N, K]; rows that are not finite are scored again alone, and NaN if that fails."""
        logp = await self.engine.score(prompts)
        for _ in range(TRIES_ALONE):
            for row in np.flatnonzero(~np.isfinite(logp).all(axis=1)):
                logp[row] = (await self.engine.score([prompts[row]], fresh=True))[0]
        logp[~np.isfinite(logp).all(axis=1)] = np.nan
        return logp

    def _read(self, body: bytes, in_batch: bool) -> tuple:
        rows, swap = self.requests.read(body, in_batch)
        rows, orders, fitted = self.prompt.with_languages(rows), orders_of(swap or self.spec.swap), []
        for place, row in enumerate(rows):
            try:
                fitted += self.prompt.fit([row])
            except InputError as error:  # the budget has no room for one turn
                param = f"battles.{place}" if len(rows) > 1 else None
                raise HttpError(400, CODES[400], str(error), param) from None
        return rows, fitted, orders, [self.prompt.ids(fields, order) for fields in fitted for order in orders]


def _lines_of(body: bytes) -> Iterator[bytes]:
    """Yield the lines of a body one by one. A list of 64 MiB of empty lines would take gigabytes."""
    start = 0
    while start < len(body):
        end = body.find(b"\n", start)
        end = len(body) if end < 0 else end
        yield body[start:end]
        start = end + 1
