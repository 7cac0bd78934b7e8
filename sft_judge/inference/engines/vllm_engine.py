"""
Verdict probabilities from vLLM, by one of two paths with the same numbers.

`classify` lets vLLM take K rows of the head for a score layer, in float32, and build no vocabulary's logits; where
that would lose something of the family (a soft-cap), `generate` asks for one token and, by `logprob_token_ids`, for
exactly the verdicts' logits, which are normalised over the verdicts here; the softmax over a vocabulary of 256k, which
vLLM would do for log-probabilities, took a tenth of a row's time. `logprobs=K` would return the top K tokens, which
need not hold all the verdicts.
"""

import os
from pathlib import Path

import numpy as np
import torch

from sft_judge.core.environment import install_command
from sft_judge.core.errors import InputError
from sft_judge.modeling import loading
from sft_judge.modeling.judge_spec import JudgeSpec
from sft_judge.modeling.logit_scale import scale_after_head

# In our own process: a SIGKILL leaves no engine behind (one of its own outlived us), and it starts in half the time.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
# Read on a CPU only. The cache is in GiB; W4A8 would round the activations of a W4A16 judge to 8 bits, where the CPU
# has AMX, and the same judge would answer differently on another machine.
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_INT4_W4A8", "0")

PROCESSOR = "preprocessor_config.json"  # what makes pixels of an image


def why_not(model: str) -> str | None:
    """Why vLLM cannot run a model on this machine; None where nothing is known against it."""
    try:
        from vllm.platforms import current_platform
    except ModuleNotFoundError:
        return f"vLLM is not installed (`{install_command('vllm')}` installs it)"
    if loading.is_adapter(model):
        return "vLLM takes whole weights (`sft-judge merge` makes them of an adapter)"
    if loading.is_multimodal(model) and not (Path(model) / PROCESSOR).is_file():
        return f"its class also takes images, and {PROCESSOR} is not there (`sft-judge merge` leaves the text's class)"
    if getattr(loading.load_config(model), "quantization_config", None) and current_platform.is_cpu():
        current_platform.import_kernels()
        if not hasattr(torch.ops._C, "cpu_gemm_wna16"):
            return "vLLM's 4-bit kernel for CPUs needs AVX-512, which this one has not"
    return None


class VllmEngine:
    """It takes tens of seconds to start, so score all files with one."""

    def __init__(self, model: str, spec: JudgeSpec, dtype: str, path: str | None = None, gpus: int = 1):
        """
        `path`: classify or generate; by default classify where the family allows it.

        `dtype` is said: vLLM's own "auto" takes float16 for the one path and bfloat16 for the other. `gpus` share the
        layers. Raises `InputError` where vLLM cannot start, for want of memory above all.
        """
        check_usable(model, "Use --engine transformers.")
        from vllm import LLM

        # vLLM 0.32 takes the verdicts' rows from a head of which each GPU has but a part
        split = gpus > 1 and not loading.is_classifier(model)
        self._ids = spec.verdict_ids
        self._scale = None if path == "generate" or split else classify_scale(model, spec)
        self.path = "generate" if self._scale is None else "classify"
        if path not in (None, self.path):
            raise InputError(f"{model}: vLLM cannot read it by {path}, which would change its probabilities.")
        settings = engine_settings(model, spec, dtype) | {"tensor_parallel_size": gpus}
        if self.path == "generate":
            settings["logprobs_mode"] = "raw_logits"
        else:
            settings |= {"runner": "pooling", "convert": "classify"}
            if not loading.is_classifier(model):
                settings["hf_overrides"] = _score_layer(model, spec)
        try:
            self._llm = LLM(**settings, disable_log_stats=True)
        except (RuntimeError, ValueError, AssertionError) as error:  # what vLLM raises; out of memory is the first
            why = " ".join(str(error).split())[:300] or type(error).__name__  # an assertion may say nothing
            raise InputError(
                f"{model}: vLLM does not start ({why}). Where memory is short: fewer bits (sft-judge quantize, "
                "--dtype bfloat16), more GPUs (--tensor-parallel N), a judge of a smaller total_budget; on a CPU "
                "VLLM_CPU_KVCACHE_SPACE is its cache in GiB."
            ) from error

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._llm.llm_engine.engine_core.shutdown()

    def score(self, prompts: list[list[int]]) -> np.ndarray:
        """Log-probabilities [N, K] over the verdicts, in float64."""
        requests = [{"prompt_token_ids": ids} for ids in prompts]
        if self.path == "generate":
            return verdict_logp(self._llm.generate(requests, sampling_params(self._ids), use_tqdm=False), self._ids)
        from vllm import PoolingParams

        outputs = self._llm.classify(requests, pooling_params=PoolingParams(use_activation=False), use_tqdm=False)
        logits = np.array([output.outputs.probs for output in outputs], dtype=float) * self._scale
        return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def classify_scale(model: str, spec: JudgeSpec) -> float | None:
    """What the score layer's output is multiplied by to be the judge's logits; None where it cannot be."""
    if loading.is_classifier(model):
        return 1.0
    config, tokenizer = loading.load_config(model), loading.load_tokenizer(model)
    tokens = tokenizer.convert_ids_to_tokens(spec.verdict_ids)  # vLLM takes them by name
    # in a class with an image tower it would look for them in another place
    if loading.is_multimodal(model) or tokenizer.convert_tokens_to_ids(tokens) != spec.verdict_ids:
        return None
    return scale_after_head(config, tokenizer)


def _score_layer(model: str, spec: JudgeSpec) -> dict:
    """What makes vLLM take the verdicts' rows of a judge's head for a score layer."""
    tokens = loading.load_tokenizer(model).convert_ids_to_tokens(spec.verdict_ids)
    return {"classifier_from_token": tokens, "method": "no_post_processing", "num_labels": spec.num_verdicts}


def check_usable(model: str, instead: str) -> None:
    """Raise `InputError` where vLLM cannot run a judge here; `instead` says what a person may do."""
    loading.check_model_folder(model)
    if loading.is_adapter(model):
        raise InputError(f"{model} is an adapter; vLLM takes whole weights: sft-judge merge {model} --output DIR.")
    if Path(model).is_dir() and not any(Path(model).glob("*.safetensors")):
        raise InputError(f"{model}: no weights in it; expected safetensors, as nothing pickled is opened.")
    reason = why_not(model)
    if reason is not None:
        raise InputError(f"{model}: {reason}. {instead}")


def engine_settings(model: str, spec: JudgeSpec, dtype: str) -> dict:
    """vLLM's engine arguments for a judge, the same to predict and to serve."""
    return {
        "model": model,
        "load_format": "safetensors",  # "auto" would open pickled weights where there are no others
        "dtype": dtype,
        "max_model_len": spec.budget.total,
        "enforce_eager": not torch.cuda.is_available(),
        "enable_prefix_caching": True,
        "use_tqdm_on_load": False,
    }


def sampling_params(ids: list[int]):
    """One token, with exactly these tokens' log-probabilities."""
    from vllm import SamplingParams

    return SamplingParams(max_tokens=1, temperature=0, logprob_token_ids=ids)


def verdict_logp(outputs: list, ids: list[int]) -> np.ndarray:
    """Log-probabilities [N, K] over the verdicts of vLLM's finished requests, in float64."""
    raw = np.array([[output.outputs[0].logprobs[0][token].logprob for token in ids] for output in outputs])
    return raw - np.logaddexp.reduce(raw, axis=1, keepdims=True)
