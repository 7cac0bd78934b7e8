"""
JudgeTrainer: TRL's SFTTrainer with the loss on the verdict alone.

One forward of the trunk a step, K rows of the head at the answer position. A battle is one example and may hold both
its orders, so the two always meet in one step. Soft labels are a column, not a second trainer.
"""

from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PrinterCallback, TrainerCallback
from transformers.modeling_outputs import CausalLMOutput
from trl import SFTTrainer

from sft_judge.battles.order import balanced_order
from sft_judge.losses import judge_loss
from sft_judge.verdict_head import VerdictHead

IGNORED = -100


@dataclass
class VerdictCollator:
    """
    Battles to one right-padded batch; the orders of a battle become rows of their own.

    An example has `input_ids` [V][T] (prompt and verdict, V orders), `targets` [V][K] and perhaps `teacher` [V][K].
    The batch has token tensors [B*V, T]; `targets` and `teacher` are [B, V, K], as B is what accelerate counts.

    >>> collator = VerdictCollator(pad_token_id=0)
    >>> collator([{"input_ids": [[5, 6, 1], [7, 2]], "targets": [[1.0, 0.0], [0.0, 1.0]]}])["labels"]
    tensor([[-100, -100,    1],
            [-100,    2, -100]])
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = None

    def __call__(self, examples: list[dict]) -> dict[str, Tensor]:
        rows = [ids for example in examples for ids in example["input_ids"]]
        width = max(map(len, rows))
        if self.pad_to_multiple_of:
            width += -width % self.pad_to_multiple_of
        lengths = torch.tensor([len(ids) for ids in rows])
        input_ids = torch.full((len(rows), width), self.pad_token_id)
        for row, ids in enumerate(rows):
            input_ids[row, : len(ids)] = torch.as_tensor(ids)
        place = torch.arange(width)
        labels = torch.where(place == lengths[:, None] - 1, input_ids, IGNORED)
        batch = {
            "input_ids": input_ids,
            "attention_mask": (place < lengths[:, None]).long(),
            "labels": labels,
            "targets": torch.tensor([example["targets"] for example in examples]),
        }
        if "teacher" in examples[0]:
            batch["teacher"] = torch.tensor([example["teacher"] for example in examples])
        return batch


class PlainLines(TrainerCallback):
    """On a pipe, a line for each logged step instead of Trainer's raw dictionaries."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_local_process_zero or not {"loss", "eval_loss"} & logs.keys():
            return
        shown = [f"{key} {float(logs[key]):.4g}" for key in ("loss", "learning_rate", "eval_log_loss") if key in logs]
        print(f"step {state.global_step}/{state.max_steps}  {'  '.join(shown)}", flush=True)


class BalancedSampler(Sampler):
    """Rows in an order of which every stretch has the verdicts and sources of the whole; another one each epoch."""

    def __init__(self, verdicts: np.ndarray, sources: np.ndarray, seed: int):
        self.verdicts, self.sources, self.seed, self.epoch = verdicts, sources, seed, 0

    @classmethod
    def of(cls, dataset: Dataset, seed: int) -> "BalancedSampler":
        """By the verdict that a row's first view shows, and its `source`."""
        targets = np.array([views[0] for views in dataset["targets"]])
        return cls(targets.argmax(axis=1), np.unique(dataset["source"], return_inverse=True)[1], seed)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.verdicts)

    def __iter__(self):
        return iter(balanced_order(self.verdicts, self.sources, self.seed + self.epoch).tolist())


class JudgeTrainer(SFTTrainer):
    """
    SFTTrainer whose loss is the cross-entropy (and distillation) over the verdicts at the answer position.

    Takes a dataset of token ids as `training_data.py` makes it; SFTTrainer's own preparation is skipped.
    """

    # The mean over rows is taken here, so Trainer must divide by the accumulation steps itself.
    def __init__(self, *args, verdict_ids: list[int], processing_class, **kwargs):
        kwargs.setdefault(
            "data_collator", VerdictCollator(processing_class.pad_token_id, kwargs["args"].pad_to_multiple_of)
        )
        super().__init__(*args, processing_class=processing_class, **kwargs)
        self.model_accepts_loss_kwargs = False
        self.verdict_head = VerdictHead(self.model, verdict_ids)
        if self.args.disable_tqdm:
            self.remove_callback(PrinterCallback)
            self.add_callback(PlainLines())

    def _set_signature_columns_if_needed(self):
        self._signature_columns = ["input_ids", "targets", "teacher", "length"]

    def _get_train_sampler(self, train_dataset=None):
        if self.args.battle_order == "balanced" and self.args.train_sampling_strategy == "random":
            return BalancedSampler.of(self.train_dataset, self.args.seed)
        return super()._get_train_sampler(train_dataset)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        # The label stands where the verdict is; the position before it is the one that predicts it.
        positions = (inputs["labels"] != IGNORED).int().argmax(dim=1) - 1  # [B*V]
        logits = self.verdict_head(model, inputs["input_ids"], inputs["attention_mask"], positions)  # [B*V, K]
        logits = logits.view_as(inputs["targets"])  # [B, V, K]
        loss = judge_loss(
            logits.flatten(0, 1),
            inputs["targets"].flatten(0, 1),
            inputs["teacher"].flatten(0, 1) if "teacher" in inputs else None,
            self.args.distill_weight,
            self.args.distill_temperature,
        )
        return (loss, CausalLMOutput(loss=loss, logits=logits)) if return_outputs else loss

    # One forward in evaluation too. `compute_metrics` sees verdict logits and targets [N, V, K], N battles: accelerate
    # cuts the first axis of the last batch to the number of examples that are left.
    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        return (loss, None, None) if prediction_loss_only else (loss, outputs.logits.float(), inputs["targets"])
