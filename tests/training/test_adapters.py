"""Adapters of every kind: they open in plain PEFT, merge to the same, and PiSSA starts as the base."""

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from helpers.training_runs import log_loss_of, losses, weights
from sft_judge.cli import main
from sft_judge.modeling.judge_spec import read_spec
from sft_judge.modeling.loading import load_model, load_tokenizer
from sft_judge.prompts.prompt import JudgePrompt

unit, engine = pytest.mark.unit, pytest.mark.engine


@engine
@pytest.mark.parametrize(
    "changes",
    [
        {"use_dora": "true"},
        {"use_rslora": "true"},
        {"lora_init": "pissa"},
        {"lora_target_modules": "qkv"},
        {"ema_decay": "0.9"},
    ],
    ids=lambda changes: next(iter(changes.values())) + next(iter(changes)),
)
def test_adapters_of_every_kind_open_in_plain_peft_and_merge_to_the_same(
    changes, train, bases, synthetic_table, tmp_path, capsys
):
    folder = train(max_steps=4, learning_rate=5e-3, lora_dropout=0.0, **changes)
    assert "LoRA r 4, alpha 32" in (said := capsys.readouterr().out) or "DoRA r 4, alpha 32" in said
    spec, base = read_spec(folder), load_model(str(bases["qwen2"]), "float32")
    rows = synthetic_table.slice(0, 6).to_pylist()
    prompt = JudgePrompt.of(load_tokenizer(str(folder)), spec)
    ids = torch.tensor([shown[0][:60] for shown in prompt.encode(rows, ("ab",))])
    with torch.no_grad():
        untrained = base(input_ids=ids).logits
        adapted = PeftModel.from_pretrained(base, folder)
        seen = adapted(input_ids=ids).logits
        whole = adapted.merge_and_unload()
        merged = whole(input_ids=ids).logits
    assert main(["merge", str(folder), "--output", str(tmp_path / "merged")]) == 0
    for name, weight in load_file(tmp_path / "merged" / "model.safetensors").items():
        assert torch.equal(weight, whole.get_parameter(name))
    torch.testing.assert_close(merged, seen, atol=1e-4, rtol=1e-4)
    assert (seen - untrained).abs().max() > 1e-3
    names = {name.split(".")[-3] for name in weights(folder) if "lora_A" in name}
    others = set() if "lora_target_modules" in changes else {"o_proj", "gate_proj", "up_proj", "down_proj"}
    assert names == {"q_proj", "k_proj", "v_proj"} | others


@engine
def test_pissa_starts_as_the_base_and_is_saved_as_what_it_learnt(train, bases, synthetic_file):
    """W = residual + BA at the start, so the first loss is LoRA's, whose start adds nothing; later ones differ."""
    settings = {"lora_dropout": 0.0, "max_steps": 4, "learning_rate": 5e-3, "fold": 1, "eval_strategy": "steps"}
    plain = train("plain", **settings, eval_steps=4)
    pissa = train("pissa", **settings, eval_steps=4, lora_init="pissa")
    assert losses(pissa)[0] == pytest.approx(losses(plain)[0], abs=1e-5)
    assert abs(losses(pissa)[3] - losses(plain)[3]) > 1e-4
    seen, told = log_loss_of(pissa, synthetic_file), read_spec(pissa).training["eval"]["eval_log_loss"]
    assert seen == pytest.approx(told, abs=1e-4)
