"""Limits of the server's requests, settings of the reward routes, and a count of the requests in progress."""

import math
from contextlib import contextmanager
from dataclasses import dataclass, fields

from sft_judge.core.errors import InputError
from sft_judge.inference.serving.errors import HttpError

MAX_ROUND_ROBIN = 32  # rollouts of a group: 496 pairs
METHODS = ("round-robin", "anchor", "knockout")  # battles among the responses to a prompt


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
    queue_mb: int = 256
    seconds: int = 60

    def __post_init__(self):
        low = next((field.name for field in fields(self) if getattr(self, field.name) < 1), None)
        if low:
            raise InputError(f"--max-{low.replace('_', '-')} is {getattr(self, low)}, expected at least 1.")
        if self.queue <= self.battles:
            raise InputError(
                f"--max-queue {self.queue} must be above --max-battles {self.battles}: a full request would never fit."
            )
        if self.queue_mb < max(self.body_mb, self.batch_mb):
            raise InputError(
                f"--max-queue-mb {self.queue_mb} must be at least --max-body-mb {self.body_mb} and --max-batch-mb "
                f"{self.batch_mb}: a full request would never fit."
            )


HELP = {
    "battles": "battles in one request",
    "turns": "turns in one text",
    "characters": "characters in one turn",
    "body_mb": "MiB of one request",
    "batch_mb": "MiB of one request to /v1/judge/batch",
    "queue": "requests and battles in progress; further requests get status 429",
    "queue_mb": "MiB of the requests in progress; further requests get status 429",
    "seconds": "seconds for one request, and for the requests in progress when the server stops",
}


@dataclass(frozen=True)
class RewardSettings:
    """
    Settings of the reward routes.

    Attributes:
        group_size: number of rollouts of a prompt that are judged together.
        group_seconds: time after which a group is judged without the missing rollouts.
        method: round-robin, anchor or knockout.
    """

    group_size: int = 8
    group_seconds: int = 120
    method: str = "round-robin"

    def check(self, queue: int) -> None:
        """Raise `InputError` if a group is never whole, because the queue has no room for its rollouts."""
        if not 2 <= self.group_size <= queue:
            raise InputError(f"--group-size is {self.group_size}, expected 2 to {queue} (--max-queue).")
        if self.method == "round-robin" and self.group_size > MAX_ROUND_ROBIN:
            raise InputError(
                f"--group-size {self.group_size} would judge {self.group_size * (self.group_size - 1) // 2} pairs at "
                f"once; a round robin takes at most {MAX_ROUND_ROBIN}. Give --reward-method anchor or knockout."
            )


class Queue:
    """
    Count the work in progress. A request takes one place before its body is read, then one for each further battle.

    Args:
        limit: maximum number of places.
        megabytes: maximum size of all bodies in progress, in MiB.
    """

    def __init__(self, limit: int, megabytes: int):
        self.limit, self.taken, self.last_seconds = limit, 0, 0.0
        self.megabytes, self.bytes = megabytes, 0

    @contextmanager
    def places(self, count: int):
        """Hold `count` places. Raise `HttpError` 429 if not enough places are free."""
        if self.taken + count > self.limit:
            raise self._full(f"{self.taken} requests and battles are in progress, the limit is {self.limit}.")
        self.taken += count
        try:
            yield
        finally:
            self.taken -= count

    @contextmanager
    def bytes_of_body(self):
        """Yield a function that counts further bytes of one body. It raises `HttpError` 429 above the limit."""
        own = 0

        def add(count: int) -> None:
            nonlocal own
            if self.bytes + count > self.megabytes * 2**20:
                raise self._full(
                    f"The requests in progress have {self.bytes} bytes, the limit is {self.megabytes} MiB."
                )
            self.bytes += count
            own += count

        try:
            yield add
        finally:
            self.bytes -= own

    def _full(self, message: str) -> HttpError:
        wait = min(60, max(1, math.ceil(self.last_seconds)))  # duration of the last request with its waiting time
        headers = {"Retry-After": str(wait), "Connection": "close"}
        return HttpError(429, "queue_full", f"{message} Try again later.", headers=headers)
