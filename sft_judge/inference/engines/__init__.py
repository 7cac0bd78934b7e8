"""
Engines: token ids in, log-probabilities over the verdicts out, with the same results on each engine.

An engine is a context manager with `score(prompts) -> [N, K]`. vLLM is imported only by its own module.
"""

import logging

from sft_judge.core.choices import ENGINES

logger = logging.getLogger(__name__)


def usable_engines(model: str) -> list[str]:
    """
    Return the engines that can run a model on this machine: transformers and, if possible, vLLM.

    If vLLM cannot be used, log the reason in one line.
    """
    from sft_judge.inference.engines.vllm_engine import why_not

    reason = why_not(model)
    if reason is None:
        return list(ENGINES)
    logger.info(f"{reason}: {model} is run with transformers instead.")
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
    Open the engine of a judge: `with open_engine(...) as engine: engine.score(ids)`.

    The dtype `auto` is resolved here, because vLLM would run a float32 judge in bfloat16 and transformers a quantised
    one in float16. An adapter trained on a base in 4 or 8 bits is loaded on such a base, with transformers.

    Args:
        name: of ENGINES.
        model: the judge's folder.
        spec: the judge's judge.json.
        dtype: of DTYPES.
        onto: `trained` to load an adapter on the base it was trained on, `plain` to load it on the unquantised base.
        gpus: number of GPUs over which vLLM shards the model (tensor parallel).
        device: torch device, for transformers; see `TransformersEngine`.
        batch_size: maximum number of rows in a batch, for transformers; see `TransformersEngine`.

    Raises:
        InputError: the engine is unknown or cannot run the judge, or the settings cannot be combined.
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
            raise InputError("device and batch_size are for the engine transformers; vLLM sets its own. Remove them.")
        from sft_judge.inference.engines.vllm_engine import VllmEngine

        return VllmEngine(model, spec, dtype_of(model, dtype), gpus=gpus)
    from sft_judge.inference.engines.transformers_engine import TransformersEngine

    if not recorded:
        return TransformersEngine(model, spec, dtype_of(model, dtype), device, batch_size)
    from sft_judge.modeling.bnb import settings_of

    dtype = recorded["dtype"] if dtype == "auto" else dtype
    return TransformersEngine(model, spec, dtype, device, batch_size, quantization_config=settings_of(recorded))
