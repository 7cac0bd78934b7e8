"""
Baselines for scripts/mtbench.py, trained on the same battles: a plain TRL SFTTrainer, and pairjudge 0.3.

*Plain TRL* is an SFTTrainer with its defaults, apart from the recipe's settings. Prompts are the same, in one order.
The completion is the answer letter and the text that the chat template adds after it, and TRL's loss is over both.
The trained model is used as an untrained judge. *pairjudge* has its own prompts and a classification head; on a CPU it
runs in float32.
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
SHARED = (  # settings of the recipe that have the same names in TRL
    "bf16 gradient_checkpointing num_train_epochs per_device_train_batch_size gradient_accumulation_steps "
    "learning_rate lr_scheduler_type warmup_steps max_grad_norm optim logging_steps save_strategy save_steps "
    "save_total_limit"
).split()


def train_trl(base: str, battles: str, work: Path, seed: int) -> Path:
    """
    Train with TRL's SFTTrainer on the completions A, B and tie, and return the folder of the judge.

    Args:
        base: folder of the base model.
        battles: file of the training battles.
        work: folder to work in.
        seed: seed of the training.
    """
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
    """
    Return the tokenizer, and `input_ids` and `completion_mask` of each battle in a random order.

    Args:
        judge: folder of the untrained judge, whose prompts are used.
        battles: file of the battles.
        seed: seed of the orders.
    """
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
    """
    Train with `python -m pairjudge.training`, and return the folder of its merged bundle.

    Args:
        base: folder of the base model.
        battles: file of the training battles.
        work: folder to work in.
        seed: seed of the training.
    """
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
        "eval_holdout": 0.02,  # it needs rows to select a checkpoint on; one pass has one checkpoint
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
    """
    Write a probs file of pairjudge's model, for the battles of a fold in both orders.

    Args:
        judge: folder of the model.
        battles: file of the battles.
        fold: fold to predict.
        output: file to write.
    """
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
    """Print a command and run it; raise an error if it fails."""
    command = [str(part) for part in command]
    print("$", " ".join(command), flush=True)
    subprocess.run(command, check=True)


TRAIN = {"plain TRL": train_trl, "pairjudge 0.3": train_pairjudge}
