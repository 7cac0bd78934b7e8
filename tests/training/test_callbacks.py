"""The moving average of what is trained, the bar of a run on a terminal, and its lines on a pipe."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerState

from helpers.training_runs import ADAPTER_WEIGHTS, CRASH, weights
from sft_judge.training.callbacks import PlainLines
from sft_judge.training.trainer import JudgeTrainer

unit, engine = pytest.mark.unit, pytest.mark.engine


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
    assert "Resuming from" in capsys.readouterr().out
    for name, value in whole.items():
        torch.testing.assert_close(killed[name], value, atol=1e-6, rtol=0)


@pytest.fixture
def progress_words(command, tmp_path):
    """The words of a training whose recipe leaves it to the machine how its progress is shown."""
    words = command(max_steps=4, logging_steps=2)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("disable_tqdm: true\n", ""))
    return [sys.executable, "-m", "sft_judge", *words]


@engine
def test_a_terminal_shows_a_bar_with_the_time_left(progress_words):
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    with subprocess.Popen(progress_words, stdout=terminal, stderr=terminal) as process:
        os.close(terminal)
        shown = b""
        try:
            while part := os.read(main, 65536):
                shown += part
        except OSError:  # Linux: the other end is closed
            pass
    os.close(main)
    text = shown.decode()
    assert process.returncode == 0, text
    assert re.search(r"50%\|█+ +\| 2/4 \[\d\d:\d\d<\d\d:\d\d", text), text
    assert "step 2/4" not in text


@engine
def test_a_pipe_gets_lines_with_the_speed_and_the_time_left(progress_words):
    finished = subprocess.run(progress_words, capture_output=True, text=True)
    lines = [line for line in finished.stdout.splitlines() if line.startswith("step ")]
    assert finished.returncode == 0 and "%|" not in finished.stdout + finished.stderr
    number = r"[\d.e-]+"
    for line, step in zip(lines, (2, 4), strict=True):
        speed = r"[\d,]*[1-9][\d,]* tokens/s  \d\d:\d\d left"
        assert re.fullmatch(rf"step {step}/4  loss {number}  learning_rate {number}  {speed}", line), line


@unit
def test_the_time_left_and_the_speed_are_those_since_the_run_went_on(monkeypatch):
    clock = iter([100.0, 110.0])
    monkeypatch.setattr("sft_judge.training.callbacks.time.monotonic", lambda: next(clock))
    lines, logged = PlainLines(tokens_per_epoch=4000), []
    monkeypatch.setattr("sft_judge.training.callbacks.logger.info", logged.append)
    state = TrainerState(global_step=10, epoch=0.5, max_steps=200)
    lines.on_train_begin(None, state, None)
    lines.on_log(None, state, None, {"eval_loss": 1.0, "eval_log_loss": 1.0})
    state.global_step, state.epoch = 20, 1.0
    lines.on_log(None, state, None, {"loss": 1.0, "learning_rate": 0.1})
    assert logged == [
        "step 10/200  eval_log_loss 1",
        "step 20/200  loss 1  learning_rate 0.1  200 tokens/s  03:00 left",
    ]
