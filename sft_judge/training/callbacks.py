"""An exponential moving average of what is trained, which becomes the judge when training ends."""

import logging
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

logger = logging.getLogger(__name__)

FILE = "ema.safetensors"


class EmaCallback(TrainerCallback):
    """
    Keeps a float32 average of the trained weights, moved by 1 - decay after each step; it goes into checkpoints too.

    In the first steps the decay is (1 + t) / (10 + t), so that the start is soon forgotten.
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
    """On a pipe, a line for each logged step instead of Trainer's raw dictionaries."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or not {"loss", "eval_loss"} & logs.keys():
            return
        shown = [f"{key} {float(logs[key]):.4g}" for key in ("loss", "learning_rate", "eval_log_loss") if key in logs]
        logger.info(f"step {state.global_step}/{state.max_steps}  {'  '.join(shown)}")
