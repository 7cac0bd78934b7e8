"""
Models for gpu_check.py: real shapes with random weights, the FLOPs of their steps, and the rate of a GPU.

Model FLOPs of a LoRA step, without the head, have two parts. Linear weights: 4 x weights of the layers x tokens, as
the forward pass multiplies each weight with each token once (2 FLOPs), and the backward pass once more, for the
gradient of the input alone. Attention, of which the causal half is counted, with a backward pass of twice the forward
pass: 6 x tokens of a row x width of all heads, per token and layer. Products of the adapters and recomputation by
checkpointing are not counted, so both lower the utilisation (MFU): by an eighth for r 64 on the 0.5B, and by a third
for checkpointing.
"""

import re
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

import bench_predict
import torch
from bench_predict import long_battles
from bench_training import Bench
from measuring import free_memory, held_bytes, median_seconds, peak_bytes, start_peak
from transformers import AutoModelForCausalLM, Qwen2Config, set_seed

from sft_judge.core.swap_orders import ORDERS
from sft_judge.data.battles import battle_table, write_battles
from sft_judge.inference.engines import open_engine
from sft_judge.modeling.judge_spec import read_spec
from sft_judge.modeling.loading import load_tokenizer
from sft_judge.modeling.tiny_models import make_base
from sft_judge.modeling.verdict_head import dense_gradients
from sft_judge.pipelines.planning.step_cost import deep_step_cost
from sft_judge.pipelines.planning.training_cost import GPUS
from sft_judge.prompts.prompt import JudgePrompt
from sft_judge.training.adapters import adapter_config
from sft_judge.training.base_model import load_base
from sft_judge.training.config import JudgeConfig, JudgeModelConfig

WARMING = 16  # prompts, reversed so that vLLM's cache has none of the timed prompts
TOLERANCE = 1.1  # largest ratio of the planned to the measured peak, or of the measured to the planned
COMMON = {"max_position_embeddings": 32_768, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}


@dataclass(frozen=True)
class Shape:
    """Store the sizes of a model, and the number of rows of a step by tokens per row."""

    name: str
    sizes: dict
    rows: dict[int, int]

    @property
    def config(self) -> Qwen2Config:
        return Qwen2Config(**COMMON, **self.sizes)

    @property
    def bytes(self) -> int:
        """Return the bytes of the weights in bfloat16, with those of an untied head."""
        config = self.config
        ends = (1 if config.tie_word_embeddings else 2) * config.vocab_size * config.hidden_size
        return 2 * (ends + linear_weights(config))


def _sizes(hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocabulary: int, tied: bool) -> dict:
    return {
        **{"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "vocab_size": vocabulary},
        **{"num_attention_heads": heads, "num_key_value_heads": kv_heads, "tie_word_embeddings": tied},
    }


# from the config.json of Qwen/Qwen2.5-0.5B and of Qwen/Qwen2.5-7B
SHAPES = (
    Shape("0.5B", _sizes(896, 4864, 24, 14, 2, 151_936, True), {2048: 4, 6144: 1}),
    Shape("7B", _sizes(3584, 18_944, 28, 28, 4, 152_064, False), {2048: 2, 6144: 1}),
)
SMALL_SHAPES = (
    Shape("0.5B, shrunken", _sizes(64, 128, 2, 2, 1, 2048, True), {32: 4, 96: 1}),
    Shape("7B, shrunken", _sizes(128, 256, 2, 4, 1, 2048, False), {96: 1}),
)


def draw_model(config: Qwen2Config, device: str):
    """
    Make a model with random weights in bfloat16, in training mode.

    Args:
        config: configuration of the model.
        device: device to make it on.
    """
    set_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).train()


def draw_four_bits(config: Qwen2Config, device: str):
    """
    Make a model with random weights in NF4, quantised from a folder of weights as in `sft-judge train`.

    Args:
        config: configuration of the model.
        device: device to make it on.
    """
    settings, adapters = settings_of(device, True)
    with TemporaryDirectory() as folder:
        draw_model(config, device).save_pretrained(folder)
        free_memory()
        adapters.model_name_or_path = folder
        return load_base(adapters, settings)


def layer_products(config: Qwen2Config) -> dict[str, tuple[int, int]]:
    """Return the input and output features of each linear weight of a layer."""
    hidden, inner = config.hidden_size, config.intermediate_size
    width = hidden // config.num_attention_heads
    heads, kv_heads = config.num_attention_heads * width, config.num_key_value_heads * width
    attention = {"q": (hidden, heads), "k": (hidden, kv_heads), "v": (hidden, kv_heads), "o": (heads, hidden)}
    return attention | {"gate": (hidden, inner), "up": (hidden, inner), "down": (inner, hidden)}


def linear_weights(config: Qwen2Config) -> int:
    """Return the number of linear weights of all layers."""
    return config.num_hidden_layers * sum(wide * high for wide, high in layer_products(config).values())


def model_flops(config: Qwen2Config, rows: int, tokens: int, last_layer: bool = False) -> float:
    """
    Return the model FLOPs of a LoRA step.

    Args:
        config: configuration of the model.
        rows: rows of the step.
        tokens: tokens of a row.
        last_layer: compute query, output and MLP of the last layer only at one position per row.
    """
    sizes = {name: wide * high for name, (wide, high) in layer_products(config).items()}
    linear = 4 * linear_weights(config) * rows * tokens
    if last_layer:
        linear -= 4 * sum(sizes[name] for name in ("q", "o", "gate", "up", "down")) * rows * (tokens - 1)
    return linear + config.num_hidden_layers * rows * 6 * tokens**2 * config.hidden_size


def utilisation(flops: float, seconds: float, rate: float | None) -> float | None:
    """
    Return the utilisation of a step: its share of a rate.

    Args:
        flops: model FLOPs of the step.
        seconds: time of the step.
        rate: FLOP/s, or None if it is unknown, which returns None.
    """
    return None if rate is None else flops / seconds / rate


def published_rate(name: str) -> float | None:
    """Return the published FLOP/s in bfloat16 of a GPU, or None if `--plan` does not know it."""
    words = set(re.split(r"[\s-]+", name))
    known = {re.sub(r" \d+ GB$", "", gpu): rate for gpu, (_, rate) in GPUS.items()}
    found = [rate for gpu, rate in known.items() if set(gpu.split()) <= words]
    return found[0] * 1e12 if found else None


def measure_ceiling(shape: Shape, device: str) -> float:
    """
    Measure the FLOP/s of the layer's matrix products alone, in bfloat16, with the tokens of a step.

    Args:
        shape: sizes of the model.
        device: "cuda" or "cpu".
    """
    tokens, flops, seconds = max(rows * length for length, rows in shape.rows.items()), 0, 0.0
    for wide, high in layer_products(shape.config).values():
        given = torch.randn(tokens, wide, device=device, dtype=torch.bfloat16)
        weight = torch.randn(high, wide, device=device, dtype=torch.bfloat16)
        seconds += median_seconds(lambda given=given, weight=weight: given @ weight.T, device)
        flops += 2 * tokens * wide * high
    return flops / seconds


def settings_of(device: str, four_bits: bool = False, **changes) -> tuple[JudgeConfig, JudgeModelConfig]:
    """
    Return the recipes' settings for one GPU: LoRA of r 64 on all linear layers, in bfloat16.

    Args:
        device: "cuda" or "cpu".
        four_bits: load the base in NF4, as for the teacher of 14B.
        changes: further settings.
    """
    bits = {"load_in_4bit": four_bits, "use_bnb_nested_quant": four_bits}
    here = {"use_cpu": device == "cpu", "bf16": True, "gradient_checkpointing": False, "optim": "adamw_torch"}
    adapters = JudgeModelConfig("random", dtype="bfloat16", use_peft=True, **bits)
    return JudgeConfig(gettempdir(), **here, **changes), adapters


class MixedBench(Bench):
    """Run steps in mixed precision as `sft-judge train` does on a GPU; TRL's loss has PEFT's casts."""

    def __init__(self, shape: Shape, device: str, four_bits: bool = False, rows: int = 1, **changes):
        """
        Make a model with the recipes' adapter.

        Args:
            shape: sizes of the model.
            device: "cuda" or "cpu".
            four_bits: load the base in NF4.
            rows: rows of the trainer's data.
            changes: further settings.
        """
        self.config, self.adapters = settings_of(device, four_bits, **changes)
        self.shape, self.before = shape, held_bytes(device)
        model = draw_four_bits(shape.config, device) if four_bits else draw_model(shape.config, device)
        super().__init__(model, adapter_config(self.adapters, model), self.config, rows, min(shape.rows))

    def set_rows(self, rows: int, tokens: int) -> None:
        super().set_rows(rows, tokens)
        self.trunk_seconds = self.trainer.optimizer = None

    def checkpoint(self) -> None:
        """Enable gradient checkpointing for the next steps, as Trainer and SFTTrainer do."""
        self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.model.enable_input_require_grads()
        self.config = self.config.with_changes(gradient_checkpointing=True)

    def measure_leg(self, leg: str, published: float | None, ceiling: float | None) -> dict:
        """
        Measure a leg: step time, tokens per second, peak memory, and utilisation.

        Args:
            leg: name of the leg.
            published: published rate of the GPU in FLOP/s, or None.
            ceiling: measured rate in FLOP/s, or None.
        """
        rows, tokens = self.tokens["input_ids"].shape
        self.step(leg)
        start_peak(self.device.type)
        seconds = median_seconds(lambda: self.step(leg), self.device.type)
        self.trunk_seconds = seconds if leg == "trunk" else self.trunk_seconds
        flops = model_flops(self.shape.config, rows, tokens, leg == "last_layer")
        return {
            "seconds": seconds,
            "against_trunk": seconds / self.trunk_seconds if self.trunk_seconds else None,
            "tokens_per_second": rows * tokens / seconds,
            "peak_bytes": peak_bytes(self.device.type) - self.before,
            "flops": flops,
            "mfu": utilisation(flops, seconds, published),
            "of_ceiling": utilisation(flops, seconds, ceiling),
        }

    def measure_whole(self) -> dict:
        """Measure a whole step with the optimizer: its time, and its peak memory beside the plan's."""
        optimizer = self.trainer.create_optimizer()
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        start_peak(self.device.type)

        def step() -> None:
            self.step("ours")
            dense_gradients(self.model)
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()

        seconds = median_seconds(step, self.device.type)
        measured = peak_bytes(self.device.type) - self.before
        planned = deep_step_cost(self.shape.config, self.config, self.adapters, *self.tokens["input_ids"].shape).peak
        ratio = planned / measured
        found = {"seconds": seconds, "planned_bytes": planned, "peak_bytes": measured, "ratio": ratio}
        if self.device.type == "cuda":  # a CPU's peak is that of the whole process
            found |= {"goal": "within 10 %", "met": 1 / TOLERANCE <= ratio <= TOLERANCE}
        return found


def make_tiny(folder: Path) -> tuple[Path, Path]:
    """Write a random model and synthetic battles in two folds, and return both paths."""
    rows = [{**row, "fold": place % 2} for place, row in enumerate(long_battles(40))]
    write_battles(folder / "battles.parquet", battle_table(rows))
    texts = [turn for row in rows for name in ("prompt", "response_a", "response_b") for turn in row[name]]
    make_base(folder / "base", "qwen2", texts, hidden=64, layers=1)
    return folder / "base", folder / "battles.parquet"


def make_judge(folder: Path, shape: Shape, device: str, battles: int) -> list[list[int]]:
    """
    Write a judge with random weights, and return token ids of battles, each in both orders.

    Args:
        folder: folder to write.
        shape: sizes of the model.
        device: device to make it on.
        battles: number of battles.
    """
    rows = long_battles(battles)
    bench_predict.make_judge(folder, "qwen2", 2000, rows)
    tokenizer, config = load_tokenizer(str(folder)), shape.config
    config.update({name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")})
    draw_model(config, device).save_pretrained(folder)
    prompt = JudgePrompt.of(tokenizer, read_spec(folder))
    return [ids for both in prompt.encode(rows, ORDERS) for ids in both]


def time_scores(engine: str, folder: str, prompts: list[list[int]], device: str | None = None):
    """
    Score prompts on an engine after a warm-up.

    Args:
        engine: name of the engine.
        folder: folder of the judge.
        prompts: token ids.
        device: device, or None for the engine's default.

    Returns:
        Log-probabilities `[N, K]`, and seconds.
    """
    with open_engine(engine, folder, read_spec(folder), "bfloat16", device=device) as opened:
        opened.score([ids[::-1] for ids in prompts[:WARMING]])
        start = time.perf_counter()
        logp = opened.score(prompts)
        return logp, time.perf_counter() - start
