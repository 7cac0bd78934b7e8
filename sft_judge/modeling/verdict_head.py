"""
Compute only K rows of the LM head, at the answer position.

The forward of the LM head is replaced, not that of the model. The model's own forward still runs around it, so its
code applies the logit scale and the soft-cap, and the hooks with which DeepSpeed and FSDP gather the head's weights
still run. While no answer position is set, the full head is used, so that the model can still generate.

Shapes: B sequences of T tokens, R rows with an answer position each, D hidden units, K verdicts, V tokens of the
vocabulary.
"""

from collections.abc import Callable
from types import MethodType

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import ModelOutput

from sft_judge.core.errors import InputError


class VerdictHead:
    """Run a (wrapped) model once and its LM head at one position per row; logits [R, T, V] are never computed."""

    def __init__(
        self,
        model,
        verdict_ids: list[int],
        scatter: bool = False,
        last_layer: bool = False,
        in_float32: bool = False,
    ):
        """
        Attach to the output embeddings of a model.

        Args:
            model: the model, which may be a PEFT model. Wrap it for training afterwards.
            verdict_ids: token ids of the verdicts [K].
            scatter: give the head's weight a sparse gradient of K rows, see `dense_gradients`. Not for launchers whose
                hooks expect dense gradients (DDP, DeepSpeed, FSDP).
            last_layer: compute the last layer at the answer positions only; call `release` after each step.
            in_float32: multiply the K rows in float32 whatever the model's dtype. In bfloat16 a logit of 16 to 32 is
                rounded to a multiple of 1/8.
        """
        self.scatter = scatter
        self.verdict_ids = list(verdict_ids)
        self._positions: Tensor | None = None
        self._whole = False
        self._answers: tuple[Tensor | int, Tensor] | None = None
        if last_layer:
            at_answers_alone(model, lambda: self._answers)
        head = model.get_output_embeddings()
        full_forward = head.forward
        plain = type(head) is torch.nn.Linear  # a head with an adapter or a quantised head computes its rows itself
        verdict_head = self

        def forward(self, hidden: Tensor) -> Tensor:  # [B, T, D] -> [R, 1, K], or [R, 1, V]
            positions = verdict_head._positions
            if positions is None:
                return full_forward(hidden)
            rows, place = positions
            answer = hidden[rows, place][:, None]  # [R, 1, D]
            if verdict_head._whole:
                return full_forward(answer)
            verdicts = torch.tensor(verdict_head.verdict_ids, device=hidden.device)
            if not plain:
                return full_forward(answer)[..., verdicts]
            weight = _Rows.apply(self.weight, verdicts) if verdict_head.scatter else self.weight[verdicts]
            bias = None if self.bias is None else self.bias[verdicts]
            if in_float32:
                answer, weight, bias = answer.float(), weight.float(), None if bias is None else bias.float()
            return F.linear(answer, weight, bias)

        head.forward = MethodType(forward, head)

    def __call__(self, model, inputs: dict[str, Tensor], positions: Tensor, whole: bool = False) -> ModelOutput:
        """
        Run the model.

        Args:
            model: the (wrapped) model.
            inputs: `input_ids` [B, T] and further inputs of the model.
            positions: last prompt token of each row [R]. In a padding-free batch (B = 1) the positions alone separate
                the rows.
            whole: return logits [R, V] over the vocabulary.

        Returns:
            The model's output with `logits` [R, K].
        """
        first = torch.arange(len(positions), device=positions.device)
        self._positions = (first if len(inputs["input_ids"]) == len(positions) else 0, positions)
        self._answers = self._positions  # kept, because gradient checkpointing reruns the layer in the backward pass
        self._whole = whole
        try:
            output = model(**inputs, use_cache=False)
        except BaseException:
            self.release()
            raise
        finally:
            self._positions, self._whole = None, False
        output.logits = output.logits[:, 0]
        return output

    def release(self) -> None:
        """Let the last layer compute every position again. Call this after the backward pass."""
        self._answers = None


class _Rows(torch.autograd.Function):
    """
    Select `weight[rows]` with a sparse gradient.

    Plain indexing creates a dense gradient as large as the head, while all activations are still in memory. If the
    head is tied, torch adds the sparse gradient to that of the embedding.
    """

    @staticmethod
    def forward(ctx, weight: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape = weight.shape
        return weight[rows]

    @staticmethod
    def backward(ctx, gradient: Tensor):
        (rows,) = ctx.saved_tensors
        return torch.sparse_coo_tensor(rows[None], gradient, ctx.shape, check_invariants=False), None


def dense_gradients(model) -> None:
    """
    Convert sparse gradients to dense ones for the optimiser. Call this after a backward pass, when its memory is free.
    """
    for weight in model.parameters():
        if weight.grad is not None and weight.grad.is_sparse:
            weight.grad = weight.grad.to_dense()


Answers = Callable[[], tuple[Tensor | int, Tensor] | None]  # rows and places in [B, T]; None for every position


def at_answers_alone(model: nn.Module, answers: Answers) -> None:
    """
    Make the last layer compute only the positions of `answers()`, whenever it returns any.

    Args:
        model: the model, which may be a PEFT model.
        answers: returns the positions, or None for all.

    Raises:
        InputError: the layer is a mixture of experts, whose router is balanced over all tokens, or has an unknown
            structure.
    """
    layer = model.get_decoder().layers[-1]
    mlp, attention = getattr(layer, "mlp", None), getattr(layer, "self_attn", None)
    if mlp is None or attention is None or hasattr(mlp, "experts"):
        raise InputError(
            f"last_layer_at_answer: a {type(layer).__name__} is not a layer of attention and one MLP for all tokens. "
            "Remove the setting; the loss is the same without it."
        )
    projections = (getattr(attention, name, None) for name in ("q_proj", "o_proj"))  # some families fuse the first
    for module in filter(None, (*projections, mlp)):
        module.forward = _restrict_to_answers(module.forward, answers)


def _restrict_to_answers(forward: Callable[[Tensor], Tensor], answers: Answers) -> Callable[[Tensor], Tensor]:
    def at_answers(hidden: Tensor) -> Tensor:  # [B, T, D] -> [B, T, E]
        where = answers()
        if where is None:
            return forward(hidden)
        updated = forward(hidden[where][:, None])[:, 0]  # [R, E]
        whole = updated.new_zeros(*hidden.shape[:-1], updated.shape[-1])
        whole[where] = updated
        return whole

    return at_answers
