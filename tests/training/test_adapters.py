"""Adapters of every kind, and the moving average of what is trained."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from helpers.training_runs import ADAPTER_WEIGHTS, CRASH, log_loss_of, losses, weights
from sft_judge.cli import main
from sft_judge.modeling.judge_spec import read_spec
from sft_judge.modeling.loading import load_model, load_tokenizer
from sft_judge.prompts.prompt import JudgePrompt
from sft_judge.training.trainer import JudgeTrainer

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
    changes, train, bases, planted_table, tmp_path, capsys
):
    folder = train(max_steps=4, learning_rate=5e-3, lora_dropout=0.0, **changes)
    assert "LoRA r 4, alpha 32" in (said := capsys.readouterr().out) or "DoRA r 4, alpha 32" in said
    spec, base = read_spec(folder), load_model(str(bases["qwen2"]), "float32")
    rows = planted_table.slice(0, 6).to_pylist()
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
def test_pissa_starts_as_the_base_and_is_saved_as_what_it_learnt(train, bases, planted_file):
    """W = residual + BA at the start, so the first loss is LoRA's, whose start adds nothing; later ones differ."""
    settings = {"lora_dropout": 0.0, "max_steps": 4, "learning_rate": 5e-3, "fold": 1, "eval_strategy": "steps"}
    plain = train("plain", **settings, eval_steps=4)
    pissa = train("pissa", **settings, eval_steps=4, lora_init="pissa")
    assert losses(pissa)[0] == pytest.approx(losses(plain)[0], abs=1e-5)
    assert abs(losses(pissa)[3] - losses(plain)[3]) > 1e-4
    seen, told = log_loss_of(pissa, planted_file), read_spec(pissa).training["eval"]["eval_log_loss"]
    assert seen == pytest.approx(told, abs=1e-4)


@engine
def test_the_judge_is_the_average_of_the_weights_after_each_step(train, command, tmp_path):
    """Against the checkpoints of a run without: the same steps, averaged by hand with the decay's warm-up."""
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1}
    kept = []
    save = JudgeTrainer._save_checkpoint

    def keep(self, model, trial):
        save(self, model, trial)
        kept.append(load_file(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}" / ADAPTER_WEIGHTS))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JudgeTrainer, "_save_checkpoint", keep)
        last = weights(train("plain", **settings))
    start = {name: torch.zeros_like(value) for name, value in last.items()}
    average = weights(train("start", **settings, ema_decay=0.99999, learning_rate=1e-30)) | start
    average = {name: value for name, value in average.items() if "lora_B" in name}  # A starts at random, B at zero
    for step, after in enumerate(kept, 1):
        decay = min(0.9, (1 + step) / (10 + step))
        average = {name: decay * value + (1 - decay) * after[name] for name, value in average.items()}
    seen = weights(train("averaged", **settings, ema_decay=0.9))
    assert len(kept) == 4
    for name, value in average.items():
        torch.testing.assert_close(seen[name], value, atol=1e-7, rtol=1e-4)
        assert not torch.allclose(seen[name], last[name], atol=1e-6)


@engine
def test_a_killed_run_goes_on_with_its_average(train, command, tmp_path, capsys):
    settings = {"save_strategy": "steps", "save_steps": 2, "ema_decay": 0.9}
    whole = weights(train("whole", **settings))
    run = subprocess.run([sys.executable, "-c", CRASH, "5", *command("killed", **settings)], capture_output=True)
    assert run.returncode == -signal.SIGKILL
    killed = weights(train("killed", **settings))
    assert "Going on from" in capsys.readouterr().out
    for name, value in whole.items():
        torch.testing.assert_close(killed[name], value, atol=1e-6, rtol=0)
