"""
Compare a training step with the trunk alone, with TRL's default loss and with full logits; and evaluation with TRL's.

The model is a Qwen2 with 4 layers, hidden size 256 and random weights, on 4 rows of 1,024 tokens, with vocabularies of
32k, 152k and 256k. *Trunk alone* is the same model with LoRA on all linear layers. Its head is frozen and not run; the
backward pass starts from the product of a fixed vector and the hidden state at the answer. All legs run in each round,
in alternating order, so that load from other processes hits all of them. A ratio is the median over rounds with a
bootstrap interval. `trunk again` measures the noise of the machine. Memory is the peak of resident memory in two steps
of one leg in a separate process, without that of the libraries.

`last_layer_at_answer` saves most of one layer: a quarter of this model, one of 28 layers of Qwen2.5-7B.

bfloat16 is skipped on a CPU without instructions for it, on which a matrix product takes 80 times as long. Full logits
are then measured for 32k alone, as those of 152k in float32 take more than ten minutes.
"""

import json
import sys
import time

from measuring import apart, chosen, new_peak, over_rounds, peak, resident, return_freed_memory, wait

ROWS, TOKENS, WIDTH, LAYERS = 4, 1024, 256, 4
VOCABULARIES = {"32k": 32_000, "152k": 152_064, "256k": 256_000}
ROUNDS, SLOW_ROUNDS = 9, 3
VERDICTS = [17, 33, 421]


def random_rows(vocabulary: int, rows: int, tokens: int) -> list[dict]:
    """
    Return examples of random token ids, each in one order and with the first verdict as its answer.

    Args:
        vocabulary: size of the vocabulary.
        rows: number of examples.
        tokens: tokens of an example.
    """
    import torch

    ids = torch.randint(0, vocabulary, (rows, tokens - 1), generator=torch.Generator().manual_seed(0)).tolist()
    return [{"input_ids": [[*row, VERDICTS[0]]], "targets": [[1.0, 0.0, 0.0]], "length": tokens} for row in ids]


class Bench:
    """Hold one model and run steps of its legs; gradients are cleared before each step."""

    def __init__(self, model, lora, config, rows: int, tokens: int):
        """
        Build the trainer and the first batch.

        Args:
            model: a Qwen2 in training mode.
            lora: PEFT's configuration, or None.
            config: a `JudgeConfig`.
            rows: rows of a step.
            tokens: tokens of a row.
        """
        from datasets import Dataset

        from sft_judge.modeling.tiny_models import qwen2_tokenizer
        from sft_judge.modeling.verdict_head import at_answers_alone
        from sft_judge.training.verdict_trainer import VerdictTrainer

        self.trainer = VerdictTrainer(
            model=model,
            args=config,
            processing_class=qwen2_tokenizer(["A B"], 300),
            train_dataset=Dataset.from_list(random_rows(model.config.vocab_size, rows, tokens)),
            verdict_ids=VERDICTS,
            peft_config=lora,
        )
        self.model, self.device = self.trainer.model, self.trainer.model.device
        self.alone = None
        at_answers_alone(self.model, lambda: self.alone)
        self.set_rows(rows, tokens)

    def set_rows(self, rows: int, tokens: int) -> None:
        """
        Make a new batch for the next steps.

        Args:
            rows: rows of a step.
            tokens: tokens of a row.
        """
        import torch

        examples = random_rows(self.model.config.vocab_size, rows, tokens)
        batch = self.trainer.data_collator(examples)
        self.batch = {name: value.to(self.device) for name, value in batch.items()}
        self.tokens = {name: self.batch[name] for name in ("input_ids", "attention_mask")}
        draw = torch.Generator().manual_seed(0)
        self.direction = torch.randn(self.model.config.hidden_size, generator=draw).to(self.device, self.model.dtype)
        self.answers = (torch.arange(rows, device=self.device), self.batch["positions"])

    def around(self, leg: str):
        """Return the context of a leg's forward and backward pass, as in its trainer, which is ours or TRL's."""
        from peft.helpers import disable_input_dtype_casting

        return disable_input_dtype_casting(self.model, leg != "trl" and self.trainer._casts_by_itself())

    def step(self, leg: str) -> float:
        """Run one step of a leg, and return its seconds."""
        self.model.zero_grad(set_to_none=True)
        name = leg.split()[0]
        self.alone = self.answers if name == "last_layer" else None  # the backward pass may run the forward again
        with self.around(name):
            wait(self.device.type)
            start = time.perf_counter()
            with self.trainer.accelerator.autocast():
                loss = getattr(self, name)()
            if loss is not None:
                loss.backward()
            wait(self.device.type)
        self.alone = None
        return time.perf_counter() - start

    def trunk(self):
        trunk = getattr(self.model, "get_base_model", lambda: self.model)().model
        hidden = trunk(**self.tokens, use_cache=False).last_hidden_state
        return (hidden[self.answers] @ self.direction).sum()

    def ours(self):
        return self.trainer.compute_loss(self.model, dict(self.batch), num_items_in_batch=len(self.answers[0]))

    def last_layer(self):
        return self.ours()

    def trl(self):
        from trl import SFTTrainer

        inputs = {**self.tokens, "labels": self.batch["labels"]}
        return SFTTrainer.compute_loss(self.trainer, self.model, inputs, num_items_in_batch=len(self.answers[0]))

    def full(self):
        import torch.nn.functional as F

        logits = self.model(**self.tokens, use_cache=False).logits
        return F.cross_entropy(logits[self.answers].float(), self.batch["labels"][:, -1])

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


def small_bench(vocabulary: int, dtype: str, adapter: bool) -> Bench:
    """
    Return a benchmark of the small model on a CPU.

    Args:
        vocabulary: size of the vocabulary.
        dtype: of the weights, such as "bfloat16".
        adapter: use LoRA; False trains all parameters.
    """
    import torch
    from peft import LoraConfig
    from transformers import Qwen2Config, Qwen2ForCausalLM, set_seed

    from sft_judge.training.config import JudgeConfig

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
    lora = LoraConfig(r=64, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM") if adapter else None
    settings = JudgeConfig(output_dir="unused", use_cpu=True, bf16=False, gradient_checkpointing=False)
    return Bench(model, lora, settings, ROWS, TOKENS)


def seconds(name: str, dtype: str, adapter: bool, legs: list[str], rounds: int) -> dict[str, list[float]]:
    """
    Return the seconds of each leg in each round, after a warm-up round.

    Args:
        name: vocabulary, of VOCABULARIES.
        dtype: of the weights.
        adapter: use LoRA.
        legs: names of the legs.
        rounds: number of rounds.
    """
    bench = small_bench(VOCABULARIES[name], dtype, adapter)
    taken = {leg: [] for leg in legs}
    for number in range(rounds + 1):
        for leg in legs if number % 2 else legs[::-1]:
            elapsed = bench.step(leg)
            if number:
                taken[leg].append(elapsed)
    return taken


def peak_of(name: str, dtype: str, adapter: bool, leg: str) -> float:
    """
    Return the peak memory of two steps beyond that of the libraries, in bytes.

    Args:
        name: vocabulary, of VOCABULARIES.
        dtype: of the weights.
        adapter: use LoRA.
        leg: name of the leg.
    """
    before = resident()
    bench = small_bench(VOCABULARIES[name], dtype, adapter)
    bench.step(leg)
    new_peak()
    bench.step(leg)
    bench.step(leg)
    return peak() - before


def ratio(label: str, ours: list[float], other: list[float], goal: str) -> dict:
    """
    Return the median ratio over rounds, with its interval, as a result for `bench.py`.

    Args:
        label: name of the result.
        ours: values of the numerator in each round.
        other: values of the denominator.
        goal: such as "<= 1.0".
    """
    import numpy as np

    values = np.array(ours) / np.array(other)
    return over_rounds(label, lambda rounds: np.median(values[rounds]), len(values), goal)


def measure(name: str, dtype: str, adapter: bool) -> list[dict]:
    """
    Compare our step with the trunk alone, in time and memory.

    Args:
        name: vocabulary, of VOCABULARIES.
        dtype: of the weights.
        adapter: use LoRA.
    """
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
    """
    Compare our step and evaluation with TRL's loss and with full logits.

    Args:
        name: vocabulary, of VOCABULARIES.
        dtype: of the weights.
    """
    what, results = f"{name} {dtype}", []
    taken = apart(seconds, name, dtype, True, ["ours", "trl", "full"], SLOW_ROUNDS)
    held = apart(seconds, name, dtype, True, ["evaluate", "evaluate_trl"], SLOW_ROUNDS)
    peaks = {leg: apart(peak_of, name, dtype, True, leg) for leg in ("ours", "trl", "full")}
    for leg, label in (("trl", "TRL's loss on a CPU"), ("full", "full logits")):
        results.append(ratio(f"step against {label}, {what}", taken["ours"], taken[leg], "<= 1.0"))
        results.append(ratio(f"peak memory against {label}, {what}", [peaks["ours"]], [peaks[leg]], "<= 1.0"))
    results.append(
        ratio(f"TRL's evaluation on a CPU against ours, {what}", held["evaluate_trl"], held["evaluate"], ">= 1.8")
    )
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
