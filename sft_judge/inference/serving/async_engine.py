"""vLLM's asynchronous engine for one judge: token ids in, log-probabilities over the verdicts out."""

import argparse
import asyncio
import itertools
import subprocess
import sys
from argparse import Namespace
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import numpy as np

from sft_judge.core.errors import InputError, one_line
from sft_judge.inference.engines.vllm_engine import check_usable, engine_settings, sampling_params, verdict_logp
from sft_judge.inference.serving.errors import unavailable
from sft_judge.inference.serving.vllm_flags import check_flags
from sft_judge.modeling.judge_spec import JudgeSpec
from sft_judge.modeling.loading import is_classifier


class AsyncVllm:
    """
    Score rows with vLLM in a process of its own. If `score` is cancelled, its requests are aborted.

    Args:
        client: vLLM's engine client.
        spec: the judge's judge.json.
    """

    def __init__(self, client, spec: JudgeSpec):
        self.client = client
        self._params, self._ids = sampling_params(spec.verdict_ids), spec.verdict_ids
        self._numbers = itertools.count()

    @property
    def alive(self) -> bool:
        """Return True if the engine's process is running."""
        return not self.client.errored

    async def score(self, prompts: list[list[int]], fresh: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """
        Compute log-probabilities over the verdicts.

        Args:
            prompts: token ids of each row.
            fresh: compute every token, without vLLM's prefix cache, which may hold NaN of an earlier row.

        Returns:
            Log-probabilities [N, K] in float64, and the number of tokens of each row taken from the prefix cache [N].

        Raises:
            HttpError: 503, the engine is dead.
        """
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._last(ids, fresh)) for ids in prompts]
        except ExceptionGroup as errors:  # an error raised under `except*` would be wrapped in a group again
            if errors.subgroup(EngineDeadError) is None:
                raise
            raise unavailable("The judge's engine has stopped.") from None
        outputs = [task.result() for task in tasks]
        return verdict_logp(outputs, self._ids), np.array([output.num_cached_tokens or 0 for output in outputs])

    async def _last(self, ids: list[int], fresh: bool):
        name = f"judge-{next(self._numbers)}"
        prompt = {"prompt_token_ids": ids} | ({"cache_salt": name} if fresh else {})
        async for output in self.client.generate(prompt, self._params, name):
            last = output
        return last


_KILL = """
import os, sys
sys.stdin.read()
for pid in map(int, sys.argv[1:]):
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        pass
"""


def vllm_arguments(
    model: str, spec: JudgeSpec, dtype: str, name: str, words: list[str], with_openai: bool = False
) -> Namespace:
    """
    Build vLLM's server arguments for a judge.

    Args:
        model: the judge's folder.
        spec: its judge.json.
        dtype: the dtype, not `auto`.
        name: name of the judge in answers.
        words: further flags of vLLM.
        with_openai: True if vLLM's OpenAI routes are served, whose clients expect log-probabilities.

    Raises:
        InputError: vLLM cannot run the judge, or a flag is invalid, has no effect or contradicts judge.json.
    """
    check_usable(model, "Serve the judge it was made from, or use another machine.")
    if is_classifier(model):
        raise InputError(f"{model} is a classifier made by `sft-judge export`. Serve the judge it was made from.")
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser(prog="vLLM", add_help=False, exit_on_error=False))
    parser.error = _refuse
    settings = engine_settings(model, spec, dtype) | {"served_model_name": [name]}
    if not with_openai:
        settings["logprobs_mode"] = "raw_logits"  # as `predict` reads them
    parser.set_defaults(**settings)
    try:
        args = parser.parse_args(words)
    except (argparse.ArgumentError, ValueError) as error:  # ValueError: a file of --config
        _refuse(one_line(error))
    check_flags(args, parser.get_default, spec, with_openai)
    try:
        validate_parsed_serve_args(args)
    except (TypeError, ValueError) as error:
        _refuse(one_line(error))
    return args


def _refuse(message: str):
    raise InputError(f"vLLM's flags, after `--`: {message}.")


@asynccontextmanager
async def open_client(args: Namespace):
    """
    Open vLLM's engine client, and shut it down at the end.

    Raises:
        InputError: vLLM does not start.
    """
    from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client

    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(build_async_engine_client(args))
        except (RuntimeError, ValueError, AssertionError) as error:  # also the errors of pydantic
            why = one_line(error) or type(error).__name__
            raise InputError(f"{args.model}: vLLM does not start ({why[:300]}). See its messages above.") from error
        with _kill_with_parent():
            yield client


@contextmanager
def _kill_with_parent():
    """
    End vLLM's processes when this process is killed; otherwise they would keep running and hold the GPU.

    A helper process waits for the end of its standard input, which is closed when this process ends for any reason.
    """
    import psutil

    engines = [child for child in psutil.Process().children(recursive=True) if child.name().startswith("VLLM")]
    words = [sys.executable, "-c", _KILL, *(str(engine.pid) for engine in engines)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True) as waiting:
        yield
        waiting.kill()
