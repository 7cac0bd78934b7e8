"""
Engines read the verdicts out: token ids in, log-probabilities over the verdicts out, the same on each.

An engine is a context manager with `score(prompts) -> [N, K]`; vLLM is imported only by its own module.
"""

import logging

from sft_judge.core.choices import ENGINES

logger = logging.getLogger(__name__)


def usable_engines(model: str) -> list[str]:
    """
    The engines that can run a model on this machine, transformers first: what `auto` chooses from.

    Says in a line why vLLM is left out where it is.
    """
    from sft_judge.inference.engines.vllm_engine import why_not

    reason = why_not(model)
    if reason is None:
        return list(ENGINES)
    logger.info(f"{reason}: transformers reads {model} instead.")
    return ["transformers"]


def open_engine(
    name: str,
    model: str,
    spec,
    dtype: str = "auto",
    onto: str = "trained",
    gpus: int = 1,
    device: str | None = None,
    batch_size: int | None = None,
):
    """
    The engine of that name over a judge's folder: `with open_engine(...) as engine: engine.score(ids)`.

    `auto` is settled here: vLLM would run a float32 judge in bfloat16, transformers a quantised one in float16. An
    adapter that learnt on a base in 4 or 8 bits is read on one, by transformers alone, or on the base as it is stored
    where `onto` is `plain`. `gpus`: how many vLLM spreads the model's layers over (tensor parallel).
    `device` and `batch_size` are of transformers: see `TransformersEngine`.
    """
    from sft_judge.core.errors import InputError, nearest
    from sft_judge.core.model_files import is_adapter
    from sft_judge.modeling.loading import dtype_of

    training = spec.training if is_adapter(model) and onto == "trained" else {}
    recorded = training.get("loaded_in_4bit") or training.get("loaded_in_8bit")
    if name not in ENGINES:
        raise InputError(f"engine is {name!r}, expected one of {', '.join(ENGINES)}.{nearest(name, ENGINES)}")
    if name == "vllm":
        if device is not None or batch_size is not None:
            raise InputError(
                "device and batch_size are of the engine transformers; vLLM finds its own. Leave them out."
            )
        from sft_judge.inference.engines.vllm_engine import VllmEngine

        return VllmEngine(model, spec, dtype_of(model, dtype), gpus=gpus)
    from sft_judge.inference.engines.transformers_engine import TransformersEngine

    if not recorded:
        return TransformersEngine(model, spec, dtype_of(model, dtype), device, batch_size)
    from sft_judge.modeling.bnb import settings_of

    dtype = recorded["dtype"] if dtype == "auto" else dtype
    return TransformersEngine(model, spec, dtype, device, batch_size, quantization_config=settings_of(recorded))
