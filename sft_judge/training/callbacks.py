"""
Trainer callbacks: an exponential moving average of the weights, and plain log lines for output without a terminal.
"""

import logging
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

logger = logging.getLogger(__name__)

FILE = "ema.safetensors"


class EmaCallback(TrainerCallback):
    """
    Keep a float32 exponential moving average (EMA) of the trained weights.

    Each step moves the average by 1 - decay. In the first steps the decay is (1 + t) / (10 + t), so that the initial
    weights are soon forgotten. The average is saved in each checkpoint and replaces the weights when training ends.

    Args:
        decay: weight of the old average in each step, from 0 to 1.
    """

    def __init__(self, decay: float):
        self.decay = decay
        self.average: dict[str, torch.Tensor] = {}

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        file = _file(args, state)
        saved = load_file(file) if state.global_step and file.is_file() else {}
        self.average = {
            name: saved.get(name, weight.detach()).to(weight.device, torch.float32, copy=True)
            for name, weight in model.named_parameters()
            if weight.requires_grad
        }

    @torch.no_grad()
    def on_step_end(self, args, state, control, model=None, **kwargs):
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        for name, weight in model.named_parameters():
            if name in self.average:
                self.average[name].lerp_(weight.detach().float(), 1 - decay)

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            save_file(self.average, _file(args, state))

    @torch.no_grad()
    def on_train_end(self, args, state, control, model=None, **kwargs):
        for name, weight in model.named_parameters():
            if name in self.average:
                weight.copy_(self.average[name])


def _file(args, state) -> Path:
    return Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}" / FILE


class PlainLines(TrainerCallback):
    """
    Log one line for each logged step instead of Trainer's raw dictionaries: loss, speed and time left.

    Used if the output is not a terminal.

    Args:
        tokens_per_epoch: number of tokens in all rows of the training set.
    """

    def __init__(self, tokens_per_epoch: int):
        self.tokens_per_epoch = tokens_per_epoch
        self._start = None  # clock, step and epoch at which this run started or resumed

    def on_train_begin(self, args, state, control, **kwargs):
        self._start = time.monotonic(), state.global_step, state.epoch or 0.0

    def on_train_end(self, args, state, control, **kwargs):
        self._start = None

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or not {"loss", "eval_loss"} & logs.keys():
            return
        shown = [f"{key} {float(logs[key]):.4g}" for key in ("loss", "learning_rate", "eval_log_loss") if key in logs]
        logger.info("  ".join([f"step {state.global_step}/{state.max_steps}", *shown, *self._speed(state)]))

    def _speed(self, state) -> list[str]:
        """
        Return the tokens per second since the start and the time left at this speed; empty before the first step.
        """
        clock, step, epoch = self._start or (0, state.global_step, 0)
        if state.global_step == step:
            return []
        seconds = time.monotonic() - clock
        left = seconds / (state.global_step - step) * (state.max_steps - state.global_step)
        tokens = self.tokens_per_epoch * (state.epoch - epoch) / seconds
        return [f"{tokens:,.0f} tokens/s", f"{tqdm.format_interval(left)} left"]
