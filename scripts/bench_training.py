"""
A training step against the trunk alone, TRL's default loss and full logits; evaluation against TRL's.

The model is a 4-layer, 256-wide Qwen2 with random weights on 4 rows of 1,024 tokens; vocabularies of 32k, 152k and
256k. *Trunk alone* is the same model and LoRA on all linear layers, the head frozen and not run, backward from a fixed
vector times the hidden state at the answer. Legs take turns within a round, who comes first too, so that a busy moment
hits all of them; a ratio is the median over rounds with a bootstrap interval. `trunk again` is the machine's noise.
Memory is the peak of resident memory in two steps of one leg in a process of its own, less what the libraries hold.

`last_layer_at_answer` saves most of a layer: a quarter of this model's, one of 28 of a Qwen2.5-7B's.

bfloat16 is left out on a CPU that has no instructions for it, where a matrix product takes 80 times as long; full
logits are then measured for 32k alone, as those of 152k in float32 take more than ten minutes.
"""

import json
import sys
import time

from measuring import apart, chosen, new_peak, over_rounds, peak, resident, return_freed_memory

ROWS, TOKENS, WIDTH, LAYERS = 4, 1024, 256, 4
VOCABULARIES = {"32k": 32_000, "152k": 152_064, "256k": 256_000}
ROUNDS, SLOW_ROUNDS = 9, 3
VERDICTS = [17, 33, 421]


class Bench:
    """One model and its legs; each call of a leg is one step, gradients cleared before."""

    def __init__(self, vocabulary: int, dtype: str, adapter: bool):
        import torch
        from datasets import Dataset
        from peft import LoraConfig
        from transformers import Qwen2Config, Qwen2ForCausalLM, set_seed

        from sft_judge.modeling.tiny_models import qwen2_tokenizer
        from sft_judge.modeling.verdict_head import at_answers_alone
        from sft_judge.training.config import JudgeConfig
        from sft_judge.training.verdict_trainer import VerdictTrainer

        set_seed(0)
        config = Qwen2Config(
            vocab_size=vocabulary,
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=not adapter,
        )
        model = Qwen2ForCausalLM(config).to(getattr(torch, dtype)).train()
        draw = torch.Generator().manual_seed(0)
        ids = torch.randint(0, vocabulary, (ROWS, TOKENS - 1), generator=draw).tolist()
        rows = [{"input_ids": [[*row, VERDICTS[0]]], "targets": [[1.0, 0.0, 0.0]], "length": TOKENS} for row in ids]
        settings = JudgeConfig(output_dir="unused", use_cpu=True, bf16=False, gradient_checkpointing=False)
        lora = LoraConfig(r=64, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM") if adapter else None
        self.trainer = VerdictTrainer(
            model=model,
            args=settings,
            processing_class=qwen2_tokenizer(["A B"], 300),
            train_dataset=Dataset.from_list(rows),
            verdict_ids=VERDICTS,
            peft_config=lora,
        )
        self.model, self.batch = self.trainer.model, self.trainer.data_collator(rows)
        self.tokens = {name: self.batch[name] for name in ("input_ids", "attention_mask")}
        self.direction = torch.randn(WIDTH, generator=draw).to(model.dtype)
        self.answers = (torch.arange(ROWS), self.batch["positions"])
        self.alone = None
        at_answers_alone(self.model, lambda: self.alone)

    def step(self, leg: str) -> float:
        """Seconds of one step."""
        self.model.zero_grad(set_to_none=True)
        start = time.perf_counter()
        getattr(self, leg.split()[0])()
        return time.perf_counter() - start

    def trunk(self):
        trunk = getattr(self.model, "get_base_model", lambda: self.model)().model
        hidden = trunk(**self.tokens, use_cache=False).last_hidden_state
        (hidden[self.answers] @ self.direction).sum().backward()

    def ours(self):
        self.trainer.compute_loss(self.model, dict(self.batch), num_items_in_batch=ROWS).backward()

    def last_layer(self):
        self.alone = self.answers
        self.ours()
        self.alone = None

    def trl(self):
        from trl import SFTTrainer

        inputs = {**self.tokens, "labels": self.batch["labels"]}
        SFTTrainer.compute_loss(self.trainer, self.model, inputs, num_items_in_batch=ROWS).backward()

    def full(self):
        import torch.nn.functional as F

        logits = self.model(**self.tokens, use_cache=False).logits
        F.cross_entropy(logits[self.answers].float(), self.batch["labels"][:, -1]).backward()

    def evaluate(self):
        self.model.eval()
        self.trainer.prediction_step(self.model, dict(self.batch), False)
        self.model.train()

    def evaluate_trl(self):
        import torch
        from trl import SFTTrainer

        self.model.eval()
        inputs = {**self.tokens, "labels": self.batch["labels"]}
        with torch.no_grad():  # as SFTTrainer's prediction_step does where metrics are computed
            SFTTrainer.compute_loss(self.trainer, self.model, inputs, return_outputs=True)
        self.model.train()


def seconds(name: str, dtype: str, adapter: bool, legs: list[str], rounds: int) -> dict[str, list[float]]:
    """Seconds of each leg in each round, after a round that does not count."""
    bench = Bench(VOCABULARIES[name], dtype, adapter)
    taken = {leg: [] for leg in legs}
    for number in range(rounds + 1):
        for leg in legs if number % 2 else legs[::-1]:
            elapsed = bench.step(leg)
            if number:
                taken[leg].append(elapsed)
    return taken


def peak_of(name: str, dtype: str, adapter: bool, leg: str) -> float:
    """Bytes at the peak of two steps above what the libraries hold."""
    before = resident()
    bench = Bench(VOCABULARIES[name], dtype, adapter)
    bench.step(leg)
    new_peak()
    bench.step(leg)
    bench.step(leg)
    return peak() - before


def ratio(label: str, ours: list[float], other: list[float], goal: str) -> dict:
    """The median of the rounds' ratios and its interval."""
    import numpy as np

    values = np.array(ours) / np.array(other)
    return over_rounds(label, lambda rounds: np.median(values[rounds]), len(values), goal)


def measure(name: str, dtype: str, adapter: bool) -> list[dict]:
    """Ours against the trunk, time and memory."""
    what = f"{name} {dtype}, " + ("LoRA" if adapter else "all parameters")
    time_goal, memory_goal = ("<= 1.03", "<= 1.02") if adapter else ("<= 1.10", "<= 1.10")
    taken = apart(seconds, name, dtype, adapter, ["trunk", "ours", "last_layer", "trunk again"], ROUNDS)
    peaks = {leg: apart(peak_of, name, dtype, adapter, leg) for leg in ("trunk", "ours")}
    middle = {leg: sorted(values)[len(values) // 2] for leg, values in taken.items()}
    shown = ", ".join(f"{leg} {value:.3f} s" for leg, value in middle.items())
    noise = ratio("", taken["trunk again"], taken["trunk"], "")
    print(
        f"  {what}: {shown}; {peaks['trunk'] / 2**20:.0f} and {peaks['ours'] / 2**20:.0f} MB; "
        f"noise, the trunk against itself: {noise['ratio']:.3f} [{noise['low']:.3f}, {noise['high']:.3f}]",
        file=sys.stderr,
        flush=True,
    )
    return [
        ratio(f"step against the trunk, {what}", taken["ours"], taken["trunk"], time_goal),
        ratio(f"peak memory against the trunk's, {what}", [peaks["ours"]], [peaks["trunk"]], memory_goal),
        ratio(f"step with last_layer_at_answer against without, {what}", taken["last_layer"], taken["ours"], "<= 1.0"),
    ]


def measure_others(name: str, dtype: str) -> list[dict]:
    """Against TRL's loss and full logits, in training and evaluation."""
    what, results = f"{name} {dtype}", []
    taken = apart(seconds, name, dtype, True, ["ours", "trl", "full"], SLOW_ROUNDS)
    held = apart(seconds, name, dtype, True, ["evaluate", "evaluate_trl"], SLOW_ROUNDS)
    peaks = {leg: apart(peak_of, name, dtype, True, leg) for leg in ("ours", "trl", "full")}
    for leg, label in (("trl", "TRL's loss"), ("full", "full logits")):
        results.append(ratio(f"step against {label}, {what}", taken["ours"], taken[leg], "<= 1.0"))
        results.append(ratio(f"peak memory against {label}, {what}", [peaks["ours"]], [peaks[leg]], "<= 1.0"))
    results.append(ratio(f"TRL's evaluation against ours, {what}", held["evaluate_trl"], held["evaluate"], ">= 1.8"))
    return results


def main() -> None:
    names = chosen(__doc__, VOCABULARIES)
    return_freed_memory()
    import torch

    import sft_judge.core.third_party  # noqa: F401
    import sft_judge.training.trainer  # noqa: F401

    fast = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    dtypes = ["bfloat16", "float32"] if fast else ["float32"]
    results = []
    for name in names:
        for dtype in dtypes:
            results += measure(name, dtype, True)
        results += measure(name, dtypes[0], False)
        if fast or name == "32k":
            results += measure_others(name, dtypes[0])
    print(json.dumps(results))


if __name__ == "__main__":
    main()
