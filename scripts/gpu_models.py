"""
Models for gpu_check.py: real shapes with random weights, what a step of them takes by formula, and what a GPU gives.

Model FLOPs of a LoRA step, the head left out: 4 x the layers' linear weights x tokens, as the forward pass multiplies
each weight with each token once (2 FLOPs) and the backward pass once more, for the gradient of the input alone; and
attention, forward and twice that backward, of which the causal half is counted: 6 x tokens of a row x width of all
heads, a token and layer. Neither the adapters' own products nor what checkpointing computes again is counted, so that
utilisation (MFU) is the lower for them: by an eighth for r 64 on the 0.5B, by a third for checkpointing.
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

WARMING = 16  # prompts, read backwards so that vLLM's cache knows none of those that are timed
TOLERANCE = 1.1  # the plan's peak over the measured one, or the other way round
COMMON = {"max_position_embeddings": 32_768, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}


@dataclass(frozen=True)
class Shape:
    """A model by its sizes, and the rows of a step by their tokens."""

    name: str
    sizes: dict
    rows: dict[int, int]

    @property
    def config(self) -> Qwen2Config:
        return Qwen2Config(**COMMON, **self.sizes)

    @property
    def bytes(self) -> int:
        """Of the weights in bfloat16, the head's apart where it is."""
        config = self.config
        ends = (1 if config.tie_word_embeddings else 2) * config.vocab_size * config.hidden_size
        return 2 * (ends + linear_weights(config))


def _sizes(hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocabulary: int, tied: bool) -> dict:
    return {
        **{"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "vocab_size": vocabulary},
        **{"num_attention_heads": heads, "num_key_value_heads": kv_heads, "tie_word_embeddings": tied},
    }


# as the config.json of Qwen/Qwen2.5-0.5B and of Qwen/Qwen2.5-7B have them
SHAPES = (
    Shape("0.5B", _sizes(896, 4864, 24, 14, 2, 151_936, True), {2048: 4, 6144: 1}),
    Shape("7B", _sizes(3584, 18_944, 28, 28, 4, 152_064, False), {2048: 2, 6144: 1}),
)
SMALL_SHAPES = (
    Shape("0.5B, shrunken", _sizes(64, 128, 2, 2, 1, 2048, True), {32: 4, 96: 1}),
    Shape("7B, shrunken", _sizes(128, 256, 2, 4, 1, 2048, False), {96: 1}),
)


def draw_model(config: Qwen2Config, device: str):
    """A model of random weights in bfloat16, in training mode, made where it is to stand."""
    set_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).train()


def draw_four_bits(config: Qwen2Config, device: str):
    """The same in NF4, quantised as `sft-judge train` does it: from a folder of weights."""
    settings, adapters = settings_of(device, True)
    with TemporaryDirectory() as folder:
        draw_model(config, device).save_pretrained(folder)
        free_memory()
        adapters.model_name_or_path = folder
        return load_base(adapters, settings)


def layer_products(config: Qwen2Config) -> dict[str, tuple[int, int]]:
    """A layer's linear weights by name: features in and out."""
    hidden, inner = config.hidden_size, config.intermediate_size
    width = hidden // config.num_attention_heads
    heads, kv_heads = config.num_attention_heads * width, config.num_key_value_heads * width
    attention = {"q": (hidden, heads), "k": (hidden, kv_heads), "v": (hidden, kv_heads), "o": (heads, hidden)}
    return attention | {"gate": (hidden, inner), "up": (hidden, inner), "down": (inner, hidden)}


def linear_weights(config: Qwen2Config) -> int:
    """Of all layers."""
    return config.num_hidden_layers * sum(wide * high for wide, high in layer_products(config).values())


def model_flops(config: Qwen2Config, rows: int, tokens: int, last_layer: bool = False) -> float:
    """Model FLOPs of a LoRA step; with `last_layer`, that layer's query, output and MLP at one position a row."""
    sizes = {name: wide * high for name, (wide, high) in layer_products(config).items()}
    linear = 4 * linear_weights(config) * rows * tokens
    if last_layer:
        linear -= 4 * sum(sizes[name] for name in ("q", "o", "gate", "up", "down")) * rows * (tokens - 1)
    return linear + config.num_hidden_layers * rows * 6 * tokens**2 * config.hidden_size


def utilisation(flops: float, seconds: float, rate: float | None) -> float | None:
    """The share of a rate in FLOP/s that a step reaches; None where the rate is not known."""
    return None if rate is None else flops / seconds / rate


def published_rate(name: str) -> float | None:
    """FLOP/s in bfloat16 as published for a GPU of this name, of those that `--plan` knows."""
    words = set(re.split(r"[\s-]+", name))
    known = {re.sub(r" \d+ GB$", "", gpu): rate for gpu, (_, rate) in GPUS.items()}
    found = [rate for gpu, rate in known.items() if set(gpu.split()) <= words]
    return found[0] * 1e12 if found else None


def measure_ceiling(shape: Shape, device: str) -> float:
    """FLOP/s of the layer's matrix products alone, in bfloat16, with the tokens of a step."""
    tokens, flops, seconds = max(rows * length for length, rows in shape.rows.items()), 0, 0.0
    for wide, high in layer_products(shape.config).values():
        given = torch.randn(tokens, wide, device=device, dtype=torch.bfloat16)
        weight = torch.randn(high, wide, device=device, dtype=torch.bfloat16)
        seconds += median_seconds(lambda given=given, weight=weight: given @ weight.T, device)
        flops += 2 * tokens * wide * high
    return flops / seconds


def settings_of(device: str, four_bits: bool = False, **changes) -> tuple[JudgeConfig, JudgeModelConfig]:
    """The recipes' settings for one GPU: LoRA of r 64 on all linear layers, bfloat16; in NF4 as the 14B's teacher."""
    bits = {"load_in_4bit": four_bits, "use_bnb_nested_quant": four_bits}
    here = {"use_cpu": device == "cpu", "bf16": True, "gradient_checkpointing": False, "optim": "adamw_torch"}
    adapters = JudgeModelConfig("random", dtype="bfloat16", use_peft=True, **bits)
    return JudgeConfig(gettempdir(), **here, **changes), adapters


class MixedBench(Bench):
    """Steps in mixed precision, as `sft-judge train` has them on a GPU; TRL's with PEFT's casts, as in its trainer."""

    def __init__(self, shape: Shape, device: str, four_bits: bool = False, rows: int = 1, **changes):
        """Draw a model, in NF4 with `four_bits`, and put the recipes' adapter on it; `rows` are for the trainer."""
        self.config, self.adapters = settings_of(device, four_bits, **changes)
        self.shape, self.before = shape, held_bytes(device)
        model = draw_four_bits(shape.config, device) if four_bits else draw_model(shape.config, device)
        super().__init__(model, adapter_config(self.adapters, model), self.config, rows, min(shape.rows))

    def set_rows(self, rows: int, tokens: int) -> None:
        super().set_rows(rows, tokens)
        self.trunk_seconds = self.trainer.optimizer = None

    def checkpoint(self) -> None:
        """Compute activations again from here on, as Trainer and SFTTrainer set it up."""
        self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.model.enable_input_require_grads()
        self.config = self.config.with_changes(gradient_checkpointing=True)

    def measure_leg(self, leg: str, published: float | None, ceiling: float | None) -> dict:
        """A leg's step time, tokens a second, peak memory, and utilisation of two rates in FLOP/s."""
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
        """A step with the optimizer's: its time, and its peak memory beside the plan's."""
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
        if self.device.type == "cuda":  # a CPU's peak is of the whole process
            found |= {"goal": "within 10 %", "met": 1 / TOLERANCE <= ratio <= TOLERANCE}
        return found


def make_tiny(folder: Path) -> tuple[Path, Path]:
    """A random model and synthetic battles in two folds."""
    rows = [{**row, "fold": place % 2} for place, row in enumerate(long_battles(40))]
    write_battles(folder / "battles.parquet", battle_table(rows))
    texts = [turn for row in rows for name in ("prompt", "response_a", "response_b") for turn in row[name]]
    make_base(folder / "base", "qwen2", texts, hidden=64, layers=1)
    return folder / "base", folder / "battles.parquet"


def make_judge(folder: Path, shape: Shape, device: str, battles: int) -> list[list[int]]:
    """A judge of random weights of a shape; returns token ids of so many battles, each in both orders."""
    rows = long_battles(battles)
    bench_predict.make_judge(folder, "qwen2", 2000, rows)
    tokenizer, config = load_tokenizer(str(folder)), shape.config
    config.update({name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")})
    draw_model(config, device).save_pretrained(folder)
    prompt = JudgePrompt.of(tokenizer, read_spec(folder))
    return [ids for both in prompt.encode(rows, ORDERS) for ids in both]


def time_scores(engine: str, folder: str, prompts: list[list[int]], device: str | None = None):
    """Log-probabilities [N, K] of the prompts on an engine, and the seconds that it took for them, warmed up."""
    with open_engine(engine, folder, read_spec(folder), "bfloat16", device=device) as opened:
        opened.score([ids[::-1] for ids in prompts[:WARMING]])
        start = time.perf_counter()
        logp = opened.score(prompts)
        return logp, time.perf_counter() - start
