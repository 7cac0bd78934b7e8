"""
K rows of the LM head at the answer position, and nothing else.

The head's forward is replaced, not the model's: the family's own forward still runs around it, so its logit scale and
soft-cap are applied by its own code, and the hooks by which DeepSpeed and FSDP gather the head's weights still fire.
Rows without an answer position set fall through to the full head, so the model can still generate.
"""

from collections.abc import Callable
from types import MethodType

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import ModelOutput

from sft_judge.core.errors import InputError


class VerdictHead:
    """Calling it runs a (wrapped) model once, its head at one position a row; no [R, T, V] is ever built."""

    def __init__(
        self,
        model,
        verdict_ids: list[int],
        scatter: bool = False,
        last_layer: bool = False,
        in_float32: bool = False,
    ):
        """
        Attach to `model`'s output embeddings. `model` may be a PEFT model; wrap it for training afterwards.

        `scatter` gives the head's weight a sparse gradient of K rows: see `dense_gradients`. Not for launchers whose
        hooks expect dense ones (DDP, DeepSpeed, FSDP). `last_layer`: that at the answers alone, until `release`.
        `in_float32`: the K rows are multiplied in float32 whatever the model is in. In bfloat16 a logit of 16 to 32 is
        rounded to eighths, and SmolLM2's probabilities were off by up to 0.027 instead of 0.015.
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
        plain = type(head) is torch.nn.Linear  # an adapter on the head, or a quantised one, has rows of its own making
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
        The model's output for `inputs` (`input_ids` [B, T] and what goes with them), its `logits` [R, K].

        `positions` [R] is the last prompt token of each row; rows of one sequence (padding-free, B = 1) are told apart
        by it alone. `whole` gives logits [R, V] over the vocabulary.
        """
        first = torch.arange(len(positions), device=positions.device)
        self._positions = (first if len(inputs["input_ids"]) == len(positions) else 0, positions)
        self._answers = self._positions  # gradient checkpointing runs the layer again in the backward pass
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
        """To be called after the backward pass: the last layer computes every position again."""
        self._answers = None


class _Rows(torch.autograd.Function):
    """
    `weight[rows]` whose gradient is sparse.

    Indexing makes a dense one, as large as the head, while all activations are still held. Where the head is tied,
    torch adds the sparse one to the embedding's own.
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
    """Make sparse gradients dense, for the optimiser; to be called after a backward pass, when its memory is free."""
    for weight in model.parameters():
        if weight.grad is not None and weight.grad.is_sparse:
            weight.grad = weight.grad.to_dense()


Answers = Callable[[], tuple[Tensor | int, Tensor] | None]  # rows and places in [B, T]; None: every position


def at_answers_alone(model: nn.Module, answers: Answers) -> None:
    """
    Let the last layer of `model` (which may be PEFT's) compute for `answers()` alone, as long as that names any.

    Raises `InputError` for a mixture of experts, whose router is balanced over all tokens, and for unknown layers.
    """
    layer = model.get_decoder().layers[-1]
    mlp, attention = getattr(layer, "mlp", None), getattr(layer, "self_attn", None)
    if mlp is None or attention is None or hasattr(mlp, "experts"):
        raise InputError(
            f"last_layer_at_answer: a {type(layer).__name__} is not a layer of attention and one MLP for all tokens. "
            "Leave it out; the loss is the same."
        )
    projections = (getattr(attention, name, None) for name in ("q_proj", "o_proj"))  # some families fuse the first
    for module in filter(None, (*projections, mlp)):
        module.forward = _only(module.forward, answers)


def _only(forward: Callable[[Tensor], Tensor], answers: Answers) -> Callable[[Tensor], Tensor]:
    def at_answers(hidden: Tensor) -> Tensor:  # [B, T, D] -> [B, T, E]
        where = answers()
        if where is None:
            return forward(hidden)
        updated = forward(hidden[where][:, None])[:, 0]  # [R, E]
        whole = updated.new_zeros(*hidden.shape[:-1], updated.shape[-1])
        whole[where] = updated
        return whole

    return at_answers
