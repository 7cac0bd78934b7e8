"""
Measure SmolLM2-135M's shapes on a CPU: utilisation of a training step, and prediction relative to the trunk alone.

Weights are random, in bfloat16, with 8 rows of 512 tokens and the settings of recipes/smollm2-135m/teacher.yaml. The
machine's rate is that of the layers' matrix products in bfloat16, measured alternately with the steps. Model FLOPs of
a step are those of LoRA without the head (gpu_models.py). Attention is counted in full, as eager attention computes it
and as PaLM's report counts it (appendix B, https://arxiv.org/abs/2204.02311). The utilisation with half of it, which
causal attention needs, is printed on standard error. The benchmark is skipped on a CPU without bfloat16 products, on
which a step takes minutes.

`python scripts/bench_smollm2.py memory` prints the resident memory over 300 steps of varying lengths.
"""

import json
import random
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from bench_training import Bench, ratio
from measuring import chosen, resident

ROWS, TOKENS, ROUNDS = 8, 512, 5
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
RECIPE = "smollm2-135m/teacher"
STEPS, SHORTEST, LONGEST = 300, 32, 256  # of the memory test


def recipe_bench(rows: int, tokens: int) -> Bench:
    """
    Return a benchmark of the recipe's steps on a model with random weights.

    Args:
        rows: rows of a step.
        tokens: tokens of a row.
    """
    import torch
    from transformers import AutoModelForCausalLM, set_seed

    from sft_judge.modeling.architectures import model_config_of
    from sft_judge.training.adapters import adapter_config
    from sft_judge.training.recipes import read_recipe

    set_seed(0)
    config, adapters = read_recipe(RECIPE, ["--output_dir", "unused"]).configs()
    model = AutoModelForCausalLM.from_config(
        model_config_of(MODEL), dtype=torch.bfloat16, attn_implementation=adapters.attn_implementation
    )
    return Bench(model.train(), adapter_config(adapters, model), config, rows, tokens)


def training() -> list[dict]:
    """Measure the utilisation of a training step."""
    from gpu_models import layer_products, measure_ceiling, model_flops

    bench = recipe_bench(ROWS, TOKENS)
    config = bench.trainer.model.config
    shape = SimpleNamespace(config=config, rows={TOKENS: ROWS})
    half = config.num_hidden_layers * ROWS * 6 * TOKENS**2 * config.hidden_size
    flops = model_flops(config, ROWS, TOKENS) + half
    assert layer_products(config)["k"][1] == config.num_key_value_heads * config.head_dim
    bench.step("ours")
    bench.step("ours")  # warm-up: the first two steps grow the heap
    rates, steps = [], []
    for _ in range(ROUNDS):
        rates.append(measure_ceiling(shape, "cpu"))
        steps.append(bench.step("ours"))
    shown = [f"{value / 1e9:.0f} GFLOP/s" for value in sorted(rates)][ROUNDS // 2]
    print(
        f"  {shown}, a step {sorted(steps)[ROUNDS // 2]:.2f} s; with half of attention "
        f"{sorted((flops - half) / step / rate for step, rate in zip(steps, rates, strict=True))[ROUNDS // 2]:.3f}",
        file=sys.stderr,
    )
    least = [flops / rate for rate in rates]
    return [ratio("SmolLM2's step, share of the machine's rate", least, steps, ">= 0.6")]


def prediction() -> list[dict]:
    """Compare `TransformersEngine` with the forward pass of the trunk on the same batches."""
    import torch
    from gpu_models import make_judge

    from sft_judge.inference.engines.transformers_engine import TOKENS_A_BATCH, TransformersEngine
    from sft_judge.modeling.architectures import model_config_of
    from sft_judge.modeling.judge_spec import read_spec

    at_once, taken = TOKENS_A_BATCH // TOKENS, {"engine": [], "trunk": []}
    with tempfile.TemporaryDirectory() as folder:
        make_judge(Path(folder), SimpleNamespace(config=model_config_of(MODEL)), "cpu", 2)
        engine = TransformersEngine(folder, read_spec(Path(folder)), "bfloat16")
    ids = torch.randint(100, 1000, (2 * at_once, TOKENS), generator=torch.Generator().manual_seed(0))
    prompts, trunk = ids.tolist(), engine.model.model

    def bare() -> None:
        with torch.inference_mode():
            for part in ids.split(at_once):
                trunk(input_ids=part, use_cache=False)

    legs = {"engine": lambda: engine.score(prompts), "trunk": bare}
    for number in range(ROUNDS + 1):
        for name in sorted(legs, reverse=bool(number % 2)):
            start = time.perf_counter()
            legs[name]()
            if number:
                taken[name].append(time.perf_counter() - start)
    rate = len(prompts) / sorted(taken["engine"])[ROUNDS // 2]
    print(f"  {rate:.1f} rows a second", file=sys.stderr)
    return [ratio("SmolLM2's prediction against the trunk", taken["engine"], taken["trunk"], "<= 1.1")]


def memory() -> list[dict]:
    """Compare resident memory after many steps of varying lengths with that after half of them."""
    bench, draw, line = recipe_bench(2, LONGEST), random.Random(0), []
    for number in range(STEPS):
        bench.set_rows(2, draw.randint(SHORTEST, LONGEST))
        bench.step("ours")
        if (number + 1) % 50 == 0:
            line.append(resident())
            print(f"  step {number + 1}: {line[-1] / 2**20:.0f} MB", file=sys.stderr, flush=True)
    half = line[len(line) // 2 - 1]
    grown = {"ratio": line[-1] / half, "low": min(line) / half, "high": max(line) / half}
    return [{"name": "SmolLM2's memory after 300 lengths against 150", **grown, "goal": "<= 1.05", "rounds": 1}]


PARTS = {"training": training, "prediction": prediction, "memory": memory}


def main() -> None:
    names = chosen(__doc__, PARTS)
    import torch

    import sft_judge.core.third_party  # noqa: F401
    import sft_judge.training.trainer  # noqa: F401

    results = []
    if torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        for name in names:
            results += PARTS[name]()
    else:
        print("  skipped: this CPU has no matrix products in bfloat16", file=sys.stderr)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
