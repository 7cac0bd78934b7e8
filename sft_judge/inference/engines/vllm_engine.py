"""
Verdict probabilities from vLLM, by one of two paths with the same results.

`classify` makes vLLM use K rows of the LM head as a score layer in float32, so that no logits over the vocabulary are
computed. If the model family does something after the head that this would lose (a soft-cap), `generate` asks for one
token and, with `logprob_token_ids`, for exactly the verdicts' logits. They are normalised over the verdicts here,
which avoids vLLM's softmax over the whole vocabulary. `logprobs=K` would return the top K tokens, which need not
include all verdicts.
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

# Run the engine in this process: after a SIGKILL no engine process is left behind, and it starts faster.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
# Both are read on a CPU only. The cache size is in GiB. On CPUs with AMX, W4A8 would round the activations of a W4A16
# judge to 8 bits, and the same judge would give other probabilities than on other machines.
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_INT4_W4A8", "0")

PROCESSOR = "preprocessor_config.json"  # configuration of the image processor


def why_not(model: str) -> str | None:
    """Return the reason why vLLM cannot run a model on this machine, or None."""
    try:
        from vllm.platforms import current_platform
    except ModuleNotFoundError:
        return f"vLLM is not installed (`{install_command('vllm')}` installs it)"
    if loading.is_adapter(model):
        return "vLLM needs merged weights (`sft-judge merge` merges an adapter)"
    if loading.is_multimodal(model) and not (Path(model) / PROCESSOR).is_file():
        return f"the model is multimodal and {PROCESSOR} is missing (`sft-judge merge` writes a text-only model)"
    if getattr(loading.load_config(model), "quantization_config", None) and current_platform.is_cpu():
        current_platform.import_kernels()
        if not hasattr(torch.ops._C, "cpu_gemm_wna16"):
            return "vLLM's 4-bit kernel for CPUs needs AVX-512, which this CPU does not have"
    return None


class VllmEngine:
    """Score rows with vLLM. It takes tens of seconds to start, so use one engine for all files."""

    def __init__(self, model: str, spec: JudgeSpec, dtype: str, path: str | None = None, gpus: int = 1):
        """
        Load a judge.

        Args:
            model: its folder.
            spec: its judge.json.
            dtype: the dtype, not `auto`: vLLM's own `auto` is float16 for one path and bfloat16 for the other.
            path: `classify` or `generate`; by default classify if the model family allows it.
            gpus: number of GPUs over which the layers are sharded.

        Raises:
            InputError: vLLM cannot start, most often because memory is too small.
        """
        check_usable(model, "Use --engine transformers.")
        from vllm import LLM

        # vLLM 0.32 reads the verdicts' rows from an LM head that is sharded over the GPUs
        split = gpus > 1 and not loading.is_classifier(model)
        self._ids, self._exact, self._calls = spec.verdict_ids, None, 0
        self._model, self._spec = model, spec
        self._scale = None if path == "generate" or split else classify_scale(model, spec)
        self.path = "generate" if self._scale is None else "classify"
        if path not in (None, self.path):
            raise InputError(f"{model}: vLLM's path {path} would change its probabilities. Leave path out.")
        settings = engine_settings(model, spec, dtype) | {"tensor_parallel_size": gpus}
        if self.path == "generate":
            settings["logprobs_mode"] = "raw_logits"
        else:
            settings |= {"runner": "pooling", "convert": "classify"}
            if not loading.is_classifier(model):
                settings["hf_overrides"] = _score_layer(model, spec)
        try:
            self._llm = LLM(**settings, disable_log_stats=True)
        except (RuntimeError, ValueError, AssertionError) as error:  # vLLM raises RuntimeError if memory is too small
            why = " ".join(str(error).split())[:300] or type(error).__name__  # an assertion may have no message
            raise InputError(
                f"{model}: vLLM does not start ({why}). If memory is too small, use fewer bits (sft-judge quantize, "
                "--dtype bfloat16), more GPUs (--tensor-parallel N) or a judge with a smaller total_budget; on a CPU "
                "VLLM_CPU_KVCACHE_SPACE sets the size of the cache in GiB."
            ) from error

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._llm.llm_engine.engine_core.shutdown()
        self._exact = None

    def in_float32(self):
        """
        Return this judge in transformers and float32, or None if it is quantised or memory is too small.

        Also if it is in float32 here: vLLM's cache can keep NaN of other rows, which transformers does not see.
        """
        if self._exact is None:
            from sft_judge.inference.engines.transformers_engine import open_in_float32

            self._exact = open_in_float32(self._model, self._spec, torch.device("cpu"))
        return self._exact

    def score(self, prompts: list[list[int]], fresh: bool = False) -> np.ndarray:
        """
        Compute log-probabilities [N, K] over the verdicts, in float64.

        Args:
            prompts: token ids of each row.
            fresh: compute every token, without the prefix cache, which may hold NaN of an earlier row.
        """
        self._calls += 1
        salt = {"cache_salt": f"{self._calls}"} if fresh else {}
        requests = [{"prompt_token_ids": ids, **salt} for ids in prompts]
        if self.path == "generate":
            return verdict_logp(self._llm.generate(requests, sampling_params(self._ids), use_tqdm=False), self._ids)
        from vllm import PoolingParams

        outputs = self._llm.classify(requests, pooling_params=PoolingParams(use_activation=False), use_tqdm=False)
        logits = np.array([output.outputs.probs for output in outputs], dtype=float) * self._scale
        return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def classify_scale(model: str, spec: JudgeSpec) -> float | None:
    """
    Return the factor from the score layer's output to the judge's logits, or None if `classify` cannot be used.

    Args:
        model: the judge's folder.
        spec: its judge.json.
    """
    if loading.is_classifier(model):
        return 1.0
    config, tokenizer = loading.load_config(model), loading.load_tokenizer(model)
    tokens = tokenizer.convert_ids_to_tokens(spec.verdict_ids)  # vLLM takes the tokens' text
    # in a multimodal class vLLM would look for the LM head in another place
    if loading.is_multimodal(model) or tokenizer.convert_tokens_to_ids(tokens) != spec.verdict_ids:
        return None
    return scale_after_head(config, tokenizer)


def _score_layer(model: str, spec: JudgeSpec) -> dict:
    """Return the configuration that makes vLLM use the verdicts' rows of a judge's LM head as a score layer."""
    tokens = loading.load_tokenizer(model).convert_ids_to_tokens(spec.verdict_ids)
    return {"classifier_from_token": tokens, "method": "no_post_processing", "num_labels": spec.num_verdicts}


def check_usable(model: str, instead: str) -> None:
    """
    Raise `InputError` if vLLM cannot run a judge on this machine.

    Args:
        model: the judge's folder.
        instead: advice, for the message.
    """
    loading.check_model_folder(model)
    if loading.is_adapter(model):
        raise InputError(f"{model} is an adapter; vLLM needs merged weights: sft-judge merge {model} --output DIR.")
    if Path(model).is_dir() and not any(Path(model).glob("*.safetensors")):
        raise InputError(f"{model}: it has no safetensors files, and pickled weights are not opened.")
    reason = why_not(model)
    if reason is not None:
        raise InputError(f"{model}: {reason}. {instead}")


def engine_settings(model: str, spec: JudgeSpec, dtype: str) -> dict:
    """
    Return vLLM's engine arguments for a judge, the same for prediction and serving.

    Args:
        model: the judge's folder.
        spec: its judge.json.
        dtype: the dtype, not `auto`.
    """
    return {
        "model": model,
        "load_format": "safetensors",  # "auto" would open pickled weights if there are no others
        "dtype": dtype,
        "max_model_len": spec.budget.total,
        "enforce_eager": not torch.cuda.is_available(),
        "enable_prefix_caching": True,
        "use_tqdm_on_load": False,
    }


def sampling_params(ids: list[int]):
    """Return sampling parameters for one token, with the log-probabilities of exactly these token ids."""
    from vllm import SamplingParams

    return SamplingParams(max_tokens=1, temperature=0, logprob_token_ids=ids)


def verdict_logp(outputs: list, ids: list[int]) -> np.ndarray:
    """
    Compute log-probabilities over the verdicts from vLLM's finished requests.

    Args:
        outputs: the finished requests [N].
        ids: token ids of the verdicts [K].

    Returns:
        Log-probabilities [N, K] in float64.
    """
    raw = np.array([[output.outputs[0].logprobs[0][token].logprob for token in ids] for output in outputs])
    return raw - np.logaddexp.reduce(raw, axis=1, keepdims=True)
