"""
Engines read the verdicts out: token ids in, log-probabilities over the verdicts out, the same on each.

An engine is a context manager with `score(prompts) -> [N, K]`; vLLM is imported only by its own module.
"""

ENGINES = ("transformers", "vllm")


def usable_engines(model: str) -> list[str]:
    """
    The engines that can run a model on this machine, transformers first: what `auto` chooses from.

    Says in a line why vLLM is left out where it is.
    """
    from sft_judge.engines.vllm_engine import why_not

    reason = why_not(model)
    if reason is None:
        return list(ENGINES)
    print(f"{reason}: transformers reads {model} instead.")
    return ["transformers"]


def open_engine(name: str, model: str, spec, dtype: str = "auto", **options):
    """
    The engine of that name over a judge's folder: `with open_engine(...) as engine: engine.score(ids)`.

    `auto` is settled here: vLLM would run a float32 judge in bfloat16, transformers a quantised one in float16.
    `options` are those of `load_model`, for transformers alone.
    """
    from sft_judge.models import dtype_of

    dtype = dtype_of(model, dtype)
    if name == "vllm":
        from sft_judge.engines.vllm_engine import VllmEngine

        return VllmEngine(model, spec, dtype)
    from sft_judge.engines.transformers_engine import TransformersEngine

    return TransformersEngine(model, spec, dtype, **options)
