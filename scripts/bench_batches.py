"""
Compare batches grouped by length with plain batches: share of padding, tokens per second, and waiting for batches.

Lengths are those of MT-Bench votes (3.5 characters per token) if SFT_JUDGE_DATA names the folder with them, else drawn
with the same mean and spread. Both kinds of steps are VerdictTrainer's, run alternately on a Qwen2 with LoRA, 4 layers
and hidden size 256. The ratios of padding and waiting are shares, and so are their goals.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from measuring import over_rounds

SIZE, LONGEST, ROUNDS, VERDICTS = 4, 3072, 8, [17, 33, 421]
VOTES = "mtbench_votes_q1to7.jsonl"


def lengths_and_verdicts(folder: Path):
    """Return tokens per row `[N]` and verdict codes `[N]` of the battles, and the name of the data."""
    import numpy as np

    from sft_judge.cli import main
    from sft_judge.core.verdicts import VERDICTS as NAMES
    from sft_judge.data.battles import read_battles
    from sft_judge.pipelines.planning.training_cost import load_of
    from sft_judge.training.config import JudgeConfig

    votes = Path(os.environ.get("SFT_JUDGE_DATA", "")) / VOTES
    if not votes.is_file():
        draw = np.random.default_rng(0)
        drawn = draw.lognormal(6.6, 0.7, 2313).clip(60, LONGEST).astype(int)
        return drawn, draw.integers(0, 3, 2313), "drawn lengths"
    assert main(["import", str(votes), "--output", str(folder / "votes.parquet")]) == 0
    battles = read_battles(folder / "votes.parquet")
    config = JudgeConfig(output_dir=str(folder), total_budget=LONGEST)
    codes = np.array([NAMES.index(verdict) for verdict in battles["verdict"].to_pylist()])
    return load_of(battles, config, None).lengths[::2], codes, "MT-Bench"


def trainers(lengths, codes, folder: Path) -> dict:
    """
    Return a VerdictTrainer for each order of battles, all on one model.

    Args:
        lengths: tokens per row `[N]`.
        codes: verdict codes `[N]`.
        folder: output folder of the trainers.
    """
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM, set_seed

    from sft_judge.modeling.tiny_models import qwen2_tokenizer
    from sft_judge.training.config import JudgeConfig
    from sft_judge.training.verdict_trainer import VerdictTrainer

    set_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "vocab_size": 32_000}
    model = Qwen2ForCausalLM(Qwen2Config(**sizes, num_attention_heads=4, num_key_value_heads=2))
    lora = LoraConfig(r=64, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, lora).train()
    draw = torch.Generator().manual_seed(0)
    rows = []
    for length, code in zip(lengths.tolist(), codes.tolist(), strict=True):
        ids = torch.randint(0, 32_000, (length - 1,), generator=draw).tolist()
        target = [float(place == code) for place in range(3)]
        row = {"input_ids": [[*ids, VERDICTS[code]]] * 2, "targets": [target] * 2, "length": 2 * length}
        rows.append(row | {"source": "votes", "id": "", "row": len(rows), "weight": 1.0, "margin": 0.0})
    dataset, common = Dataset.from_list(rows), {"use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    return {
        order: VerdictTrainer(
            model=model,
            args=JudgeConfig(
                output_dir=str(folder), battle_order=order, per_device_train_batch_size=SIZE, max_steps=9, **common
            ),
            processing_class=qwen2_tokenizer(["A B"], 300),
            train_dataset=dataset,
            verdict_ids=VERDICTS,
        )
        for order in ("by_length", "balanced")
    }


def padding(trainer, lengths) -> float:
    """Return the share of padding in the batches of an epoch; `lengths` are tokens per row `[N]`."""
    import numpy as np

    order = np.array(list(trainer._get_train_sampler()))
    batches = lengths[order[: len(order) // SIZE * SIZE]].reshape(-1, SIZE)
    return 1 - batches.sum() / (batches.max(axis=1) * SIZE).sum()


def steps(both: dict) -> dict[str, list]:
    """Return for each order `[rounds, 3]`: tokens without padding, seconds, and seconds of waiting for the batch."""
    loaders = {order: iter(trainer.get_train_dataloader()) for order, trainer in both.items()}
    taken = {order: [] for order in both}
    for number in range(ROUNDS + 1):
        for order in list(both) if number % 2 else list(both)[::-1]:
            start = time.perf_counter()
            batch = next(loaders[order])
            there = time.perf_counter()
            both[order].compute_loss(both[order].model, batch, num_items_in_batch=2 * SIZE).backward()
            both[order].model.zero_grad(set_to_none=True)
            end = time.perf_counter()
            if number:
                taken[order].append((int(batch["attention_mask"].sum()), end - start, there - start))
    return taken


def main() -> None:
    import numpy as np

    import sft_judge.core.third_party  # noqa: F401

    printed, sys.stdout = sys.stdout, sys.stderr  # results only
    with tempfile.TemporaryDirectory() as folder:
        lengths, codes, what = lengths_and_verdicts(Path(folder))
        both = trainers(lengths, codes, Path(folder))
        padded = {order: padding(trainer, lengths) for order, trainer in both.items()}
        taken = {order: np.array(rounds) for order, rounds in steps(both).items()}
    what += f", {SIZE} battles a batch"
    print(f"  {what}: share of padding in plain batches {padded['balanced']:.3f}", flush=True)
    sums = {order: lambda rounds, seen=seen: seen[rounds].sum(axis=0) for order, seen in taken.items()}

    def gain(rounds):
        grouped, plain = (sums[order](rounds) for order in ("by_length", "balanced"))
        return grouped[0] / grouped[1] / (plain[0] / plain[1])

    def wait(rounds):
        _, seconds, waited = sums["by_length"](rounds)
        return waited / seconds

    results = [
        over_rounds(f"share of padding by length, {what}", lambda _: padded["by_length"], 1, "<= 0.03"),
        over_rounds(f"tokens a second by length against plain, {what}", gain, ROUNDS, ">= 1.0"),
        over_rounds("share of a step spent waiting for its batch", wait, ROUNDS, "<= 0.02"),
    ]
    print(json.dumps(results), file=printed)


if __name__ == "__main__":
    main()
