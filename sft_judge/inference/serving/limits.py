"""Limits of the server's requests, and a count of the requests in progress."""

import math
from contextlib import contextmanager
from dataclasses import dataclass, fields

from sft_judge.core.errors import InputError
from sft_judge.inference.serving.errors import HttpError


@dataclass(frozen=True)
class Limits:
    """
    Store the limits of the server. Each is a flag of `sft-judge serve`, such as `--max-turns` for `turns`; see HELP.
    """

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
                f"--max-queue {self.queue} must be above --max-battles {self.battles}: a full request would never fit."
            )


HELP = {
    "battles": "battles in one request",
    "turns": "turns in one text",
    "characters": "characters in one turn",
    "body_mb": "MiB of one request",
    "batch_mb": "MiB of one request to /v1/judge/batch",
    "queue": "requests and battles in progress; further requests get status 429",
    "seconds": "seconds for one request, and for the requests in progress when the server stops",
}


class Queue:
    """
    Count the work in progress. A request takes one place before its body is read, then one for each further battle.

    Args:
        limit: maximum number of places.
    """

    def __init__(self, limit: int):
        self.limit, self.taken, self.last_seconds = limit, 0, 0.0

    @contextmanager
    def places(self, count: int):
        """Hold `count` places. Raise `HttpError` 429 if not enough places are free."""
        if self.taken + count > self.limit:
            wait = min(60, max(1, math.ceil(self.last_seconds)))  # duration of the last request with its waiting time
            message = f"{self.taken} requests and battles are in progress, the limit is {self.limit}. Try again later."
            raise HttpError(429, "queue_full", message, headers={"Retry-After": str(wait)})
        self.taken += count
        try:
            yield
        finally:
            self.taken -= count
