"""The moving average of what is trained: the judge is that of each step, and a killed run goes on with it."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.training_runs import ADAPTER_WEIGHTS, CRASH, weights
from sft_judge.training.trainer import JudgeTrainer

engine = pytest.mark.engine


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
def test_the_figures_of_a_judge_are_those_of_the_average_that_is_kept(train, tmp_path):
    """A decay of nearly one keeps the start: its figures are those of a run that learns nothing."""
    settings = {"max_steps": 3, "fold": 0, "eval_strategy": "steps", "eval_steps": 1}
    training = {}
    for name, more in {"start": {"learning_rate": 1e-30}, "kept": {"learning_rate": 1e-2}, "last": {}}.items():
        more |= {} if name == "last" else {"ema_decay": 0.99999}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sft_judge.training.callbacks.min", lambda decay, warm_up: decay, raising=False)
            folder = train(name, **settings, **more)
        training[name] = json.loads((folder / "judge.json").read_text())["training"]["eval"]
    assert training["kept"]["eval_log_loss"] == pytest.approx(training["start"]["eval_log_loss"], abs=1e-4)
    assert abs(training["last"]["eval_log_loss"] - training["start"]["eval_log_loss"]) > 5e-3


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
