"""Judges of random weights, and what they predict: through the command line, and a second way."""

import numpy as np
import torch

from sft_judge.cli import main
from sft_judge.core.resources import find_resource
from sft_judge.data.battles import battle_table
from sft_judge.modeling.judge_spec import Budget, JudgeSpec, read_spec, write_spec
from sft_judge.modeling.loading import load_model, load_tokenizer
from sft_judge.modeling.tiny_models import perturb_weights
from sft_judge.prompts.prompt import JudgePrompt

TEMPLATE = find_resource("prompts", "compact").read_text(encoding="utf-8")


def make_judge(folder, base, seed=0, words=("A", "B", "tie"), adapter=False, **training):
    """A judge of random weights, large enough that its probabilities differ from row to row."""
    torch.manual_seed(seed)
    model = load_model(str(base), "float32")
    perturb_weights(model)
    if adapter:
        from peft import LoraConfig, get_peft_model

        model.save_pretrained(folder.with_name(folder.name + "-base"))
        model = load_model(str(folder.with_name(folder.name + "-base")))
        config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        model = get_peft_model(model, config)
    model.save_pretrained(folder)
    tokenizer = load_tokenizer(str(base))
    tokenizer.save_pretrained(folder)
    budget = Budget(200, 200, 400)
    ids = JudgePrompt(tokenizer, TEMPLATE, list(words), budget).verdict_ids
    write_spec(folder, JudgeSpec(list(words), ids, TEMPLATE, budget, training=training))
    return folder


def predict(model, battles, output, *options) -> int:
    return main(["predict", "--model", str(model), "--battles", str(battles), "--output", str(output), *options])


def naive(folder, rows) -> np.ndarray:
    """Probabilities [rows, 2, K] of both orders by whole logits, one row a forward, un-swapped."""
    spec = read_spec(folder)
    prompt, model = JudgePrompt.of(load_tokenizer(str(folder)), spec), load_model(str(folder), "float32")
    probs = []
    for row in rows:
        exchanged = {**row, "response_a": row["response_b"], "response_b": row["response_a"]}
        for shown in (row, exchanged):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor(prompt.encode([shown], ("ab",))[0])).logits[0, -1]
            probs.append(torch.softmax(logits[spec.verdict_ids].double(), 0).numpy())
    probs = np.array(probs).reshape(len(rows), 2, -1)
    probs[:, 1, :2] = probs[:, 1, 1::-1]
    return probs


def exchange(table):
    rows = [{**row, "response_a": row["response_b"], "response_b": row["response_a"]} for row in table.to_pylist()]
    return battle_table(rows)
