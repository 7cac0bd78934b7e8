"""
Groups of rollouts: each rollout waits until its group is whole, then all are judged in pairs and get their rewards.
"""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from sft_judge.data.candidates import Group
from sft_judge.inference.contests import Entry, rewards, rounds
from sft_judge.inference.serving.errors import CODES, HttpError, no_finite_scores, unavailable
from sft_judge.inference.serving.limits import RewardSettings
from sft_judge.inference.serving.schema import Battles
from sft_judge.inference.serving.service import Service

logger = logging.getLogger(__name__)


@dataclass
class Waiting:
    """
    Rollouts of a prompt that are judged together.

    Attributes:
        prompt: the prompt as the first rollout gave it.
        responses: the response of each rollout by its number.
        whole: set when no more rollouts can join.
        task: waits, judges, and returns the rewards by the rollouts' numbers.
        waiters: number of clients that wait for the rewards.
    """

    prompt: object
    responses: dict[int, object] = field(default_factory=dict)
    whole: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task | None = None
    waiters: int = 0


class Groups:
    """
    Collect the rollouts of each prompt.

    Args:
        judge: function that judges a prompt's responses and returns their rewards.
        settings: size of a group, and the time until it is judged anyway.
        stopping: event that is set when the server stops; groups are then judged at once.
    """

    def __init__(
        self,
        judge: Callable[[object, list], Awaitable[list[float]]],
        settings: RewardSettings,
        stopping: asyncio.Event,
    ):
        self._judge, self._settings, self._stopping = judge, settings, stopping
        self._open: dict[str, Waiting] = {}
        self._numbers = itertools.count()

    async def reward(self, key: str, prompt, response) -> tuple[float, int]:
        """
        Add a rollout, wait until its group is judged, and return its reward and the number of rollouts in the group.

        A rollout whose client disconnects leaves a group that is not whole. A group without clients is not judged.

        Args:
            key: identifies the prompt. A group that is whole makes room for the next with the same key.
            prompt: the prompt.
            response: the rollout's response.

        Raises:
            HttpError: 409, no other rollout of the prompt came in time; 503, the server stops; or what the judge
                raises.
        """
        group = self._open.get(key)
        if group is None:
            group = self._open[key] = Waiting(prompt)
            group.task = asyncio.create_task(self._run(key, group))
        number = next(self._numbers)
        group.responses[number] = response
        group.waiters += 1
        if len(group.responses) == self._settings.group_size:
            self._close(key, group)
        try:
            found = await asyncio.shield(group.task)
        except asyncio.CancelledError:
            self._leave(key, group, number)
            raise
        return found[number], len(found)

    def _leave(self, key: str, group: Waiting, number: int) -> None:
        group.waiters -= 1
        if not group.whole.is_set():
            del group.responses[number]
        if not group.waiters:
            self._close(key, group)
            group.task.cancel()

    def _close(self, key: str, group: Waiting) -> None:
        group.whole.set()
        if self._open.get(key) is group:
            del self._open[key]

    async def _run(self, key: str, group: Waiting) -> dict[int, float]:
        events = [asyncio.ensure_future(event.wait()) for event in (group.whole, self._stopping)]
        try:
            await asyncio.wait(events, timeout=self._settings.group_seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for event in events:
                event.cancel()
        self._close(key, group)
        if len(group.responses) == 1:
            raise self._alone()
        if len(group.responses) < self._settings.group_size:
            size = self._settings.group_size
            logger.warning(f"a group has {len(group.responses)} of {size} rollouts; it is judged without the others")
        numbers = list(group.responses)
        return dict(zip(numbers, await self._judge(group.prompt, list(group.responses.values())), strict=True))

    def _alone(self) -> HttpError:
        if self._stopping.is_set():
            return unavailable("The server stops.")
        message = "No other rollout of this prompt came in time, so there is nothing to compare with."
        return HttpError(409, CODES[409], message)


async def judge_group(service: Service, group: Group, method: str, held: bool) -> list[float]:
    """
    Return the rewards of a group's candidates, see `contests.rewards`.

    Args:
        service: the service.
        group: the group; with a reference, the method is `anchor`.
        method: round-robin, anchor or knockout.
        held: the rollouts have places in the queue, so that their battles take none.

    Raises:
        HttpError: the queue is full, or the judge gives no finite numbers for a battle.
    """
    entry = Entry.of(group, "anchor" if group.has_reference else method)
    play = rounds([entry])
    battles = next(play, None)
    while battles is not None:
        _, judged = await service.judge(partial(_checked, service, battles), held)
        if any(one.judgement is None for one in judged):
            raise no_finite_scores()
        try:
            battles = play.send([one.judgement for one in judged])
        except StopIteration:
            battles = None
    return rewards(entry).tolist()


def _checked(service: Service, battles: list[dict]) -> Battles:
    return Battles([service.requests.row(battle, "") for battle in battles])
