"""What a server takes before it says no, and the count of what it has taken on."""

import math
from contextlib import contextmanager
from dataclasses import dataclass, fields

from sft_judge.core.errors import InputError
from sft_judge.inference.serving.errors import HttpError


@dataclass(frozen=True)
class Limits:
    """Each is a flag of `sft-judge serve`, `--max-turns` for `turns`; see HELP."""

    battles: int = 64
    turns: int = 64
    characters: int = 200_000
    body_mb: int = 8
    batch_mb: int = 64
    queue: int = 1024
    seconds: int = 60

    def __post_init__(self):
        low = next((field.name for field in fields(self) if getattr(self, field.name) < 1), None)
        if low:
            raise InputError(f"--max-{low.replace('_', '-')} is {getattr(self, low)}, expected at least 1.")
        if self.queue <= self.battles:
            raise InputError(
                f"--max-queue {self.queue} is not above --max-battles {self.battles}: a whole request would never fit."
            )


HELP = {
    "battles": "battles in one request",
    "turns": "turns in one text",
    "characters": "characters in one turn",
    "body_mb": "MiB of one request",
    "batch_mb": "MiB of one request to /v1/judge/batch",
    "queue": "requests and battles that wait at once; beyond it, 429",
    "seconds": "that one request may take, and that a stop waits for those in work",
}


class Queue:
    """Counts what is being worked on. A request takes a place before its body is read, then one for each battle."""

    def __init__(self, limit: int):
        self.limit, self.taken, self.last_seconds = limit, 0, 0.0

    @contextmanager
    def places(self, count: int):
        """Hold `count` places. Raises `HttpError` 429 where there are not as many."""
        if self.taken + count > self.limit:
            wait = min(60, max(1, math.ceil(self.last_seconds)))  # what the last one took, waiting included
            message = f"{self.taken} requests and battles are waiting, the most is {self.limit}. Try again."
            raise HttpError(429, "queue_full", message, headers={"Retry-After": str(wait)})
        self.taken += count
        try:
            yield
        finally:
            self.taken -= count
