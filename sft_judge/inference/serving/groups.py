"""
Groups of rollouts: each rollout waits until its group is whole, then all are judged in pairs and get their rewards.
"""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from sft_judge.data.candidates import Group, make_group
from sft_judge.data.importing.conversation import RowError
from sft_judge.inference.contests import Entry, rewards, rounds
from sft_judge.inference.serving.errors import CODES, HttpError, no_finite_scores
from sft_judge.inference.serving.limits import RewardSettings
from sft_judge.inference.serving.schema import Battles
from sft_judge.inference.serving.service import Service

logger = logging.getLogger(__name__)


@dataclass
class Waiting:
    """
    A group that is not whole yet.

    Attributes:
        prompt: the prompt as the first rollout gave it.
        responses: the response of each rollout by its number.
        whole: set when no more rollouts can join.
        task: waits, judges, and returns the rewards by the rollouts' numbers.
    """

    prompt: object
    responses: dict[int, object] = field(default_factory=dict)
    whole: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task | None = None


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

        Args:
            key: identifies the prompt. A group that is whole makes room for the next with the same key.
            prompt: the prompt.
            response: the rollout's response.

        Raises:
            HttpError: 409, no other rollout of the prompt came in time; or what the judge raises.
        """
        group = self._open.get(key)
        if group is None:
            group = self._open[key] = Waiting(prompt)
            group.task = asyncio.create_task(self._run(key, group))
        number = next(self._numbers)
        group.responses[number] = response
        if len(group.responses) == self._settings.group_size:
            self._close(key, group)
        try:
            found = await asyncio.shield(group.task)
        except asyncio.CancelledError:  # the client is gone, and may send the rollout again
            if not group.whole.is_set():
                del group.responses[number]
            raise
        return found[number], len(found)

    def _close(self, key: str, group: Waiting) -> None:
        group.whole.set()
        self._open.pop(key, None)

    async def _run(self, key: str, group: Waiting) -> dict[int, float]:
        events = [asyncio.ensure_future(event.wait()) for event in (group.whole, self._stopping)]
        await asyncio.wait(events, timeout=self._settings.group_seconds, return_when=asyncio.FIRST_COMPLETED)
        for event in events:
            event.cancel()
        if not group.whole.is_set():
            self._close(key, group)
            size = self._settings.group_size
            if not group.responses:  # their clients are gone
                return {}
            logger.warning(f"a group has {len(group.responses)} of {size} rollouts; it is judged as it is")
        if len(group.responses) == 1:
            alone = "No other rollout of this prompt came in time, so there is nothing to compare with."
            raise HttpError(409, CODES[409], alone)
        numbers = list(group.responses)
        return dict(zip(numbers, await self._judge(group.prompt, list(group.responses.values())), strict=True))


def as_group(prompt, responses: list, reference=None) -> Group:
    """
    Return a prompt's responses as a group, with the reference at its end if there is one.

    Args:
        prompt: a text or a chat.
        responses: a text or messages each.
        reference: an answer to compare with, or None.

    Raises:
        HttpError: 400, the prompt or a response has another form.
    """
    try:
        group = make_group(prompt, [*responses, *([] if reference is None else [reference])])
    except RowError as error:
        raise HttpError(400, CODES[400], f"{error.field}: {error.reason}.") from None
    group.has_reference = reference is not None
    return group


def _checked(service: Service, battles: list[dict]) -> Battles:
    return Battles([service.requests.row(battle, "") for battle in battles])


async def judge_group(service: Service, group: Group, method: str) -> list[float]:
    """
    Return the rewards of a group's candidates, see `contests.rewards`. Its requests have a place in the queue already.

    Args:
        service: the service.
        group: the group; with a reference, the method is `anchor`.
        method: round-robin, anchor or knockout.

    Raises:
        HttpError: a text is above the limits, or the judge gives no finite numbers for a battle.
    """
    entry = Entry.of(group, "anchor" if group.has_reference else method)
    play = rounds([entry])
    battles = next(play, None)
    while battles is not None:
        _, judged = await service.judge(partial(_checked, service, battles), held=True)
        if any(one.judgement is None for one in judged):
            raise no_finite_scores()
        try:
            battles = play.send([one.judgement for one in judged])
        except StopIteration:
            battles = None
    return rewards(entry).tolist()
