"""
TRL's SFTTrainer with the loss on the verdict only, on rows that are already token ids.

A step runs the backbone (the model without its LM head) once and computes K rows of the LM head at the answer
position. A battle is one example and may hold both of its orders, so that both are always in the same step. Soft
labels are a column of the data set, not another trainer.

Shapes: B battles, V orders shown (1 or 2), K verdicts, R = B * V rows, N teachers.
"""

import logging

import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from peft.helpers import disable_input_dtype_casting
from torch import Tensor
from transformers import PrinterCallback
from transformers.modeling_outputs import CausalLMOutput
from trl import SFTTrainer

from sft_judge.core.cpu_memory import prepare_cpu_memory
from sft_judge.core.errors import GateError
from sft_judge.modeling.loading import has_dora, keep_unpacked
from sft_judge.modeling.verdict_head import VerdictHead, dense_gradients
from sft_judge.training.callbacks import PlainLines
from sft_judge.training.collator import VerdictCollator, repeat_batch
from sft_judge.training.config import JudgeConfig
from sft_judge.training.guards import COLLAPSED, FINISHED, NOT_FINITE, SPIKE, CollapseGuard, SpikeGuard
from sft_judge.training.losses import agreement_loss, hard_loss, judge_loss, log_choice_mass, symmetric_kl
from sft_judge.training.samplers import BalancedSampler, TokenBatches

logger = logging.getLogger(__name__)

MODEL_INPUTS = ("input_ids", "attention_mask", "position_ids")


class VerdictTrainer(SFTTrainer):
    """
    Train on the cross-entropy (and distillation) over the verdicts at the answer position.

    The loss of a step is the mean over all its rows: the sum of the rows' losses is divided by their number in the
    whole step, however the rows are spread over processes and accumulated batches. Trainer counts rows as the labels
    that are not -100; the collator sets one per row.

    The data sets hold token ids, as `dataset.py` makes them; SFTTrainer's own preparation is skipped.

    Args:
        model: a causal language model.
        args: settings of the training.
        processing_class: the tokenizer.
        verdict_ids: token ids of the verdicts [K].
        options: further arguments of SFTTrainer.
    """

    def __init__(self, model, args: JudgeConfig, *, processing_class, verdict_ids: list[int], **options):
        collator = VerdictCollator(processing_class.pad_token_id, args.pad_to_multiple_of, args.padding_free)
        options["data_collator"] = options.get("data_collator") or collator
        # With these settings SFTTrainer would require its own collator, or change the tokenizer after the rows were
        # made, so they are unset for it.
        changes = {"padding_free": False, "model_init_kwargs": None}
        changes |= dict.fromkeys(("chat_template_path", "eos_token", "pad_token"))
        super().__init__(model, args.with_changes(**changes), processing_class=processing_class, **options)
        keep_unpacked(self.model)  # an evaluation would otherwise repack 4-bit weights on a CPU
        self.model_accepts_loss_kwargs = True  # Trainer counts the step's rows, and compute_loss divides by them
        if self.accelerator.device.type == "cpu":
            prepare_cpu_memory()  # load_model did this already, unless the model came from memory
        alone = self.accelerator.distributed_type == DistributedType.NO
        self.verdict_head = VerdictHead(self.model, verdict_ids, alone, args.last_layer_at_answer)
        self.collapse_guard = CollapseGuard(_frequencies(self.train_dataset))
        self.spike_guard, self.skipped = SpikeGuard(args.spike_factor), 0
        self.status = FINISHED
        if self.args.disable_tqdm:
            self.remove_callback(PrinterCallback)
            self.add_callback(PlainLines(sum(self.train_dataset["length"])))

    def train(self, *args, **options):
        """Train as Trainer does, without PEFT's casts of adapter inputs if mixed precision makes them useless."""
        with disable_input_dtype_casting(self.model, active=self._casts_by_itself()):
            return super().train(*args, **options)

    def _casts_by_itself(self) -> bool:
        """
        Return True if mixed precision casts the inputs of adapters.

        PEFT casts the input of each adapter to float32, the dtype of the adapter's weights. Mixed precision then casts
        the input back: the numbers are the same, but every activation is copied twice.
        """
        alone = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
        plain = self.accelerator.native_amp and self.accelerator.distributed_type in alone
        return plain and not has_dora(self.model)  # DoRA computes a norm in float32

    def _set_signature_columns_if_needed(self):
        self._signature_columns = ["input_ids", "targets", "teacher", "weight", "margin", "row", "length"]

    def _get_train_sampler(self, train_dataset=None):
        args = self.args
        if args.battle_order == "random" or args.train_sampling_strategy != "random":
            return super()._get_train_sampler(train_dataset)
        size = args.train_batch_size if args.battle_order == "by_length" else None
        seed = args.seed if args.data_seed is None else args.data_seed
        order = BalancedSampler.of(self.train_dataset, seed, size)
        if args.token_budget is None:
            return order
        places = (args.world_size, args.process_index, args.gradient_accumulation_steps)
        return TokenBatches(order, order.lengths, args.token_budget, *places)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """
        Compute the loss of a micro-batch.

        Args:
            model: the wrapped model.
            inputs: a batch of `VerdictCollator`.
            return_outputs: return the verdict logits and the log of the probability mass on the verdict tokens too.
            num_items_in_batch: number of rows in the whole step; None for the mean over this batch.
        """
        config = self.args
        whole = config.full_vocab_weight > 0 or not model.training
        again = model.training and config.rdrop_weight > 0
        rows = repeat_batch(inputs) if again else inputs
        tokens = {name: rows[name] for name in MODEL_INPUTS if name in rows}
        output = self.verdict_head(model, tokens, rows["positions"], whole)
        passes = [self._losses(part, whole, inputs) for part in output.logits.chunk(2 if again else 1)]
        losses, logits, log_mass = passes[0]
        if again:
            losses = (losses + passes[1][0]) / 2 + config.rdrop_weight * symmetric_kl(logits, passes[1][1])
        losses = losses * inputs["weight"][:, None]
        if model.training:
            self._watch(logits, inputs, losses)
            if self._is_skipped(losses.detach(), inputs):
                losses = losses * 0.0
        if num_items_in_batch is None:
            loss = losses.mean()
        else:
            loss = losses.sum() / num_items_in_batch
            if config.average_tokens_across_devices:  # the count is over all processes, but DDP averages gradients
                loss = loss * self.accelerator.num_processes
        if self.aux_loss_enabled:  # mixture of experts: the mean over the micro-batch, as in SFTTrainer
            steps = 1 if num_items_in_batch is None else self.current_gradient_accumulation_steps
            loss = loss + self.router_aux_loss_coef * output.aux_loss / steps
        return (loss, CausalLMOutput(loss=loss, logits=(logits, log_mass))) if return_outputs else loss

    def _losses(self, logits, whole: bool, inputs) -> tuple[Tensor, Tensor, Tensor | None]:
        """
        Compute the losses of one forward pass.

        Args:
            logits: verdict logits [B * V, K], or logits over the vocabulary if `whole`.
            whole: True if `logits` are over the vocabulary.
            inputs: the batch.

        Returns:
            Losses [B, V], verdict logits [B, V, K], and the log of the probability mass on the verdict
            tokens [B, V] (None unless `whole`).
        """
        config, targets, log_mass = self.args, inputs["targets"], None
        if whole:
            log_mass = log_choice_mass(logits, self.verdict_head.verdict_ids).view(targets.shape[:2])
            logits = logits[:, self.verdict_head.verdict_ids]
        logits = logits.view_as(targets)
        losses = self._row_losses(logits, inputs)
        if config.full_vocab_weight > 0:
            losses = losses - config.full_vocab_weight * log_mass
        if config.agreement_weight > 0 and targets.shape[1] == 2:
            losses = losses + config.agreement_weight * agreement_loss(logits)[:, None]
        return losses, logits, log_mass

    def _row_losses(self, logits, inputs) -> Tensor:
        """Compute the hard and distillation losses [B, V] from verdict logits [B, V, K]."""
        config, shape = self.args, logits.shape[:2]
        logits, targets = logits.flatten(0, 1), inputs["targets"].flatten(0, 1)
        margin = None
        if config.margin_scale > 0:
            margin = config.margin_scale * inputs["margin"].repeat_interleave(shape[1])
        hard = hard_loss(logits, targets, config.label_smoothing_factor, margin)
        teachers = inputs["teacher"].flatten(0, 1) if "teacher" in inputs else None  # [R, N, K]
        weights, temperatures = config.teacher_weights, config.teacher_temperatures
        kind, confidence = config.distill_kind, config.distill_confidence
        return judge_loss(hard, logits, teachers, weights, temperatures, kind, confidence).view(shape)

    def _watch(self, logits, inputs, losses) -> None:
        """Raise before a loss that is not finite reaches the weights, and feed the collapse guard."""
        wrong = ~torch.isfinite(losses).all(dim=1)
        if wrong.any():
            raise self._stop_error(
                NOT_FINITE, f"the loss of battles {self._names(inputs['row'][wrong])} is not finite"
            )
        if self.state.global_step + 1 >= self.args.collapse_after:
            self.collapse_guard.add(logits.detach().float(), inputs["targets"])

    def _is_skipped(self, losses, inputs) -> bool:
        """Return True if the micro-batch is a spike and is skipped; raise if spikes stop the run."""
        if self.args.on_spike == "none" or not self.spike_guard.is_spike(losses.mean().item()):
            return False
        seen = f"a loss of {losses.mean():.3g} against {self.spike_guard.mean:.3g} on average"
        if self.args.on_spike == "stop":
            raise self._stop_error(SPIKE, f"{seen}, in battles {self._names(inputs['row'])}")
        self.skipped += 1
        logger.warning(f"step {self.state.global_step + 1}: skipped a batch with {seen}")
        return True

    def _names(self, rows: Tensor, most: int = 8) -> str:
        names = [str(self.train_dataset[row]["id"]) for row in rows.tolist()[:most]]
        return ", ".join(names) + (" and more" if len(rows) > most else "")

    def _stop_error(self, status: str, what: str) -> GateError:
        self.status = status
        rate = self._get_learning_rate()
        return GateError(
            f"Stopped at step {self.state.global_step + 1}: {what}. If the cause is not the data, try a lower "
            f"learning rate (now {rate:.3g})."
        )

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self.verdict_head.release()
        if self.verdict_head.scatter:
            dense_gradients(self.model)
        step = self.state.global_step + 1
        if self.accelerator.sync_gradients and (
            step % max(1, self.state.logging_steps) == 0 or step == self.state.max_steps
        ):
            self._look_for_collapse(step)
        return loss

    def _look_for_collapse(self, step: int) -> None:
        """Stop if the judge has collapsed. With `on_collapse` warn, log a collapse and a recovery once each."""
        moments = self.collapse_guard.moments.to(self.accelerator.device)
        wrong = self.collapse_guard.look(self.accelerator.reduce(moments, "sum"))
        if wrong and self.args.on_collapse == "stop":
            raise self._stop_error(COLLAPSED, f"{wrong} (set on_collapse: warn to continue anyway)")
        status = COLLAPSED if wrong else FINISHED
        if status != self.status:
            logger.warning(f"step {step}: {wrong or 'the judge beats the class frequencies again'}")
        self.status = status

    # Evaluation, like training, runs one forward pass. `compute_metrics` gets verdict logits [B, V, K], the log of the
    # probability mass on the verdict tokens [B, V], and targets, with all battles of the data set on the first axis,
    # because accelerate truncates this axis in the last batch.
    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        self.verdict_head.release()
        logits, log_mass = outputs.logits
        return (loss, None, None) if prediction_loss_only else (loss, (logits.float(), log_mass), inputs["targets"])


def _frequencies(dataset: Dataset) -> Tensor:
    """Compute the frequency of each verdict in the rows [K], with add-one smoothing so that none is 0."""
    targets = torch.tensor([target for views in dataset["targets"] for target in views])
    return (targets.sum(dim=0) + 1) / (len(targets) + targets.shape[1])
