"""vLLM's asynchronous engine as the server uses it: what becomes of an engine that dies with requests in it."""

import asyncio

import pytest

from sft_judge.inference.serving.async_engine import AsyncVllm
from sft_judge.inference.serving.errors import HttpError
from sft_judge.modeling.judge_spec import Budget, JudgeSpec

pytestmark = pytest.mark.engine


class Failing:
    """An engine's client of which every request fails in its turn."""

    def __init__(self, error):
        self.error, self.errored = error, True

    async def generate(self, *arguments):
        await asyncio.sleep(0)
        raise self.error
        yield


def score(error):
    engine = AsyncVllm(Failing(error), JudgeSpec(["A", "B"], [1, 2], "t", Budget()))
    return asyncio.run(engine.score([[1, 2], [3]]))


def test_an_engine_that_dies_with_requests_in_it_is_503_and_not_a_fault_of_the_server():
    """Python 3.11.2 groups what is raised inside `except*`; 3.11.7 does not, so that this cannot fail there."""
    exceptions = pytest.importorskip("vllm.v1.engine.exceptions")
    with pytest.raises(HttpError) as caught:  # itself, and in no group, which no handler takes
        score(exceptions.EngineDeadError())
    assert caught.value.status == 503


def test_another_fault_is_not_told_as_a_dead_engine():
    pytest.importorskip("vllm.v1.engine.exceptions")
    with pytest.raises(ExceptionGroup):
        score(RuntimeError("no"))
