"""
Two other ways to train a judge on the same battles as scripts/mtbench.py: a plain TRL SFTTrainer, and pairjudge 0.3.

*Plain TRL* is an SFTTrainer with its defaults but for the recipe's settings: the same prompts in one order, the answer
letter and what the chat template puts behind it as the completion, and TRL's loss over both. The trained model is
read as an untrained judge. *pairjudge* has its own prompts and a classification head; on a CPU it runs in float32.
"""

import random
import subprocess
import sys
from pathlib import Path

import yaml

from sft_judge.core.resources import find_resource
from sft_judge.core.swap_orders import ORDERS
from sft_judge.core.verdicts import VERDICTS
from sft_judge.data.battles import read_battles, rows_of_fold

JUDGE = [sys.executable, "-m", "sft_judge"]
RECIPE = "smollm2-135m/teacher"
SHARED = (  # settings of the recipe that TRL has under the same names
    "bf16 gradient_checkpointing num_train_epochs per_device_train_batch_size gradient_accumulation_steps "
    "learning_rate lr_scheduler_type warmup_steps max_grad_norm optim logging_steps save_strategy save_steps "
    "save_total_limit"
).split()


def train_trl(base: str, battles: str, work: Path, seed: int) -> Path:
    """Train by TRL's SFTTrainer on the completions A, B and tie; returns the folder of the judge."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM
    from transformers.trainer_utils import get_last_checkpoint
    from trl import SFTConfig, SFTTrainer

    recipe = yaml.safe_load(find_resource("recipes", RECIPE).read_text())
    untrained, trained, judge = work / "untrained", work / "trained", work / "judge"
    call([*JUDGE, "untrained", base, "--output", untrained, "--total-budget", recipe["total_budget"]])
    tokenizer, rows = tokenized(untrained, battles, seed)
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.bfloat16, attn_implementation=recipe["attn_implementation"]
    )
    lora = LoraConfig(
        r=recipe["lora_r"],
        lora_alpha=recipe["lora_alpha"],
        lora_dropout=recipe["lora_dropout"],
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    settings = {name: recipe[name] for name in SHARED}
    config = SFTConfig(
        str(trained), seed=seed, use_cpu=not torch.cuda.is_available(), max_length=None, report_to="none", **settings
    )
    trainer = SFTTrainer(
        model, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, peft_config=lora
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(trained) if trained.is_dir() else None)
    merged = work / "merged"
    trainer.model.merge_and_unload().save_pretrained(merged)
    tokenizer.save_pretrained(merged)
    call([*JUDGE, "untrained", merged, "--output", judge, "--total-budget", recipe["total_budget"]])
    return judge


def tokenized(judge: Path, battles: str, seed: int):
    """The tokenizer, and `input_ids` and `completion_mask` of each battle in an order that the seed draws."""
    from sft_judge.modeling.judge_spec import read_spec
    from sft_judge.modeling.loading import load_tokenizer
    from sft_judge.prompts.prompt import JudgePrompt

    spec, tokenizer = read_spec(judge), load_tokenizer(str(judge))
    prompt = JudgePrompt.of(tokenizer, spec)
    table = read_battles(Path(battles)).to_pylist()
    draw, rows = random.Random(seed), []
    answered = [{"role": "user", "content": ""}, {"role": "assistant", "content": "@"}]
    end = tokenizer.apply_chat_template(answered, tokenize=False)
    closing = tokenizer.encode(end.rpartition("@")[2], add_special_tokens=False)
    for battle, by_order in zip(table, prompt.encode(table, ORDERS), strict=True):
        place = draw.randrange(2)
        shown = {0: battle["verdict"], 1: {"a": "b", "b": "a", "tie": "tie"}[battle["verdict"]]}[place]
        completion = [prompt.verdict_ids[VERDICTS.index(shown)], *closing]
        mask = [0] * len(by_order[place]) + [1] * len(completion)
        rows.append({"input_ids": [*by_order[place], *completion], "completion_mask": mask})
    return tokenizer, rows


def train_pairjudge(base: str, battles: str, work: Path, seed: int) -> Path:
    """Train by `python -m pairjudge.training`; returns the folder of its merged bundle."""
    recipe = yaml.safe_load(find_resource("recipes", RECIPE).read_text())
    work.mkdir(parents=True, exist_ok=True)
    rows = read_battles(Path(battles)).to_pandas()
    for verdict, name in zip(VERDICTS, ("winner_model_a", "winner_model_b", "winner_tie"), strict=True):
        rows[name] = (rows["verdict"] == verdict).astype(float)
    for name in ("prompt", "response_a", "response_b"):
        rows[name] = rows[name].map(list)
    rows.to_parquet(work / "train.parquet")
    settings = {
        "train_path": str(work / "train.parquet"),
        "eval_holdout": 0.02,  # it wants rows to select on; with one pass there is one candidate
        "seed": seed,
        "model_name": str(Path(base).resolve()),
        "max_length": recipe["total_budget"],
        "lora_r": recipe["lora_r"],
        "lora_alpha": recipe["lora_alpha"],
        "lora_dropout": recipe["lora_dropout"],
        "lr": recipe["learning_rate"],
        "warmup_steps": recipe["warmup_steps"],
        "per_device_train_batch_size": recipe["per_device_train_batch_size"],
        "gradient_accumulation_steps": 1,
        "output_dir": str(work / "bundle"),
    }
    (work / "config.yaml").write_text(yaml.safe_dump(settings))
    call([sys.executable, "-m", "pairjudge.training", "--cfg", work / "config.yaml"])
    return work / "bundle" / "merged"


def predict_pairjudge(judge: Path, battles: str, fold: int, output: Path) -> None:
    """Write a probs file of both orders of a fold's battles, as pairjudge's model sees them."""
    import numpy as np
    from pairjudge import PairwiseJudge, from_pairs

    from sft_judge.data.probs import Probs, write_probs

    rows = rows_of_fold(read_battles(Path(battles)), fold, Path(battles)).to_pylist()
    model, ids, orders, logp = PairwiseJudge.from_pretrained(str(judge)), [], [], []
    texts = {name: [row[name] for row in rows] for name in ("prompt", "response_a", "response_b")}
    for order, names in zip(ORDERS, (("response_a", "response_b"), ("response_b", "response_a")), strict=True):
        found = np.array(model.predict(from_pairs(texts["prompt"], *(texts[name] for name in names))), dtype=float)
        found = found[:, [0, 1, 2] if order == ORDERS[0] else [1, 0, 2]]
        ids += [row["id"] for row in rows]
        orders += [order] * len(rows)
        logp.append(np.log(found / found.sum(axis=1, keepdims=True)))
    write_probs(output, Probs(np.array(ids, dtype=object), np.array(orders, dtype=object), np.concatenate(logp)))


def call(command: list) -> None:
    """Show a command and run it; raises where it fails."""
    command = [str(part) for part in command]
    print("$", " ".join(command), flush=True)
    subprocess.run(command, check=True)


TRAIN = {"plain TRL": train_trl, "pairjudge 0.3": train_pairjudge}
