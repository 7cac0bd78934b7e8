"""Trainings through the command line: the recipe and what tests read from a judge's folder. Fixtures: conftest.py."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from sklearn.metrics import log_loss

from sft_judge.cli import main
from sft_judge.core.files import content_hash
from sft_judge.data.battles import read_battles
from sft_judge.data.probs import Probs, write_probs
from sft_judge.inference.engines.transformers_engine import TransformersEngine
from sft_judge.modeling.judge_spec import Budget, read_spec
from sft_judge.modeling.loading import load_model, load_tokenizer
from sft_judge.prompts.prompt import JudgePrompt
from sft_judge.prompts.templates import read_template

RECIPE = """
dtype: float32
prompt_template: compact
total_budget: 256
swap: both
learning_rate: 1.0e-3
per_device_train_batch_size: 4
max_steps: 6
logging_steps: 1
save_strategy: "no"
disable_tqdm: true
use_peft: true
lora_r: 4
"""
ADAPTER_WEIGHTS = "adapter_model.safetensors"
CRASH = """
import os, signal, sys
from transformers import TrainerCallback
import sft_judge.training.train as training
from sft_judge.cli import main

class Crash(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)

whole = training.JudgeTrainer
training.JudgeTrainer = lambda **options: whole(**options, callbacks=[Crash()])
sys.exit(main(sys.argv[2:]))
"""


def trained_models(monkeypatch) -> list:
    """The models of the trainings to come in this process, as their trainers have them."""
    from sft_judge.training import train as training

    models = []

    class Watched(training.JudgeTrainer):
        def train(self, **options):
            models.append(self.model)
            return super().train(**options)

    monkeypatch.setattr(training, "JudgeTrainer", Watched)
    return models


def losses(folder: Path) -> list[float]:
    log = json.loads((folder / "trainer_log.json").read_text())
    return [entry["loss"] for entry in log if "loss" in entry]


def weights(folder: Path) -> dict:
    return load_file(folder / ADAPTER_WEIGHTS)


def soft_labels(path: Path, battles: Path, folds: dict | None, drop: int = 0) -> Path:
    """A teacher's file: drawn probabilities for both orders, with the proof that `folds` gives."""
    ids = read_battles(battles)["id"].to_pylist()[drop:]
    probs = np.random.default_rng(3).dirichlet(np.ones(3), 2 * len(ids))
    metadata = {} if folds is None else {"folds": folds, "battles_sha256": content_hash(battles)}
    write_probs(path, Probs(np.repeat(ids, 2), np.tile(["ab", "ba"], len(ids)), np.log(probs), metadata))
    return path


def proof(seen: dict) -> dict:
    return {str(fold): {"model": f"fold-{fold}", "folds_seen": folds} for fold, folds in seen.items()}


CLEAN = proof({0: [1, 2], 1: [0, 2], 2: [0, 1]})


def log_loss_of(folder: Path, battles: Path) -> float:
    """The log loss of a saved judge on fold 1, both orders averaged, by the reference engine."""
    spec = read_spec(folder)
    held = [row for row in read_battles(battles).to_pylist() if row["fold"] == 1]
    with TransformersEngine(str(folder), spec, "float32") as engine:
        both = JudgePrompt.of(engine.tokenizer, spec).encode(held, ("ab", "ba"))
        probs = np.exp(engine.score([ids for shown in both for ids in shown])).reshape(-1, 2, 3)
    probs = (probs[:, 0] + probs[:, 1][:, [1, 0, 2]]) / 2
    return log_loss(["a b tie".split().index(row["verdict"]) for row in held], probs, labels=[0, 1, 2])


def base_logits(folder: Path, base: Path, rows: list[dict]) -> torch.Tensor:
    """
    Verdict logits [N, 2, K] of battles in both orders, from a judge's base under its prompt, each row alone.

    A fresh adapter adds nothing, so that they are those of the judge's first step.
    """
    spec, model = read_spec(folder), load_model(str(base), "float32")
    shown = JudgePrompt.of(load_tokenizer(str(base)), spec).encode(rows, ("ab", "ba"))
    with torch.no_grad():
        each = [model(input_ids=torch.tensor([ids])).logits[0, -1, spec.verdict_ids] for both in shown for ids in both]
    return torch.stack(each).view(len(rows), 2, -1)


def in_both_orders(labels) -> torch.Tensor:
    """Probabilities [N, K] of battles' own a and b as each order shows them [N, 2, K]."""
    labels = torch.as_tensor(labels, dtype=torch.float32)
    return torch.stack([labels, labels[:, [1, 0, 2][: labels.shape[1]]]], dim=1)


def make_prompt(bases, words=("A", "B", "tie"), template="compact", budget=(200, 200, 400), family="qwen2", **options):
    tokenizer = load_tokenizer(str(bases[family]))
    return JudgePrompt(tokenizer, read_template(template), list(words), Budget(*budget), **options)


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def refuses(words, status, reason, tmp_path, capsys):
    before = {path.name for path in tmp_path.iterdir()}
    capsys.readouterr()
    assert main(words) == status
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sft-judge:")]
    assert len(lines) == 1 and reason in lines[0], lines
    assert {path.name for path in tmp_path.iterdir()} == before
