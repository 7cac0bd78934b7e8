"""vLLM's asynchronous engine as the server uses it: an engine that dies with requests in it, and its flags."""

import asyncio

import pytest

from sft_judge.core.errors import InputError
from sft_judge.inference.serving.async_engine import AsyncVllm, vllm_arguments
from sft_judge.inference.serving.errors import HttpError
from sft_judge.modeling.judge_spec import Budget, JudgeSpec, read_spec

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


def parsed(judge, flags: str, **options):
    pytest.importorskip("vllm")
    return vllm_arguments(str(judge), read_spec(judge), "float32", "judge", flags.split(), **options)


@pytest.mark.parametrize(
    "flags, said",
    [
        ("--api-key secret", "--api-key of vLLM has no effect here; give --api-key-file before"),
        ("--port 9", "give --port before"),
        ("--ssl-keyfile f", "give --ssl-keyfile before"),
        ("--root-path /x", "give --root-path before"),
        ("--served-model-name x", "give --name before"),
        ("another/model", "give --model before"),
        ("--middleware a.b", "--middleware of vLLM is of its HTTP server"),
        ("--headless", "--headless of vLLM is of its HTTP server"),
        ("--chat-template x", "add --with-openai before"),
        ("--trust-remote-code", "--trust-remote-code of vLLM would change what the judge computes or loads"),
        ("--quantization fp8", "--quantization of vLLM would change"),
        ("--logprobs-mode processed_logits", "--logprobs-mode of vLLM would change"),
        ("--max-model-len 100", "--max-model-len 100 of vLLM is below the judge's total_budget, 400"),
        ("--max-logprobs 2", "--max-logprobs 2 of vLLM is below the number of verdicts, 3"),
        ("--max-model-len", "expected one argument"),
        ("--no-such-flag", "unrecognized arguments: --no-such-flag"),
    ],
)
def test_a_flag_that_would_do_nothing_or_change_the_judge_is_refused_by_name(judge, flags, said):
    with pytest.raises(InputError) as refusal:
        parsed(judge, flags)
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "flags", ["", "--tensor-parallel-size 2", "--max-model-len 401", "--seed 3", "--max-logprobs 3"]
)
def test_flags_of_the_engine_are_passed_on_and_raw_logits_are_read_as_by_predict(judge, flags):
    args = parsed(judge, flags)
    assert args.logprobs_mode == "raw_logits" and args.max_model_len >= 400


def test_clients_of_the_openai_routes_get_their_own_flags_and_log_probabilities(judge):
    args = parsed(judge, "--response-role judge", with_openai=True)
    assert args.logprobs_mode == "raw_logprobs" and args.response_role == "judge"
