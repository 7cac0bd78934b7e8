"""
The last layer at the answers alone.

Only its keys and values are read at other positions: the query, the output projection and the MLP feed the head, which
looks at the answers (tascj's 2nd place of LMSYS, modeling_gemma2_fast.py). The family's own layer still runs; these
modules of it compute the answers' rows and leave zeros elsewhere, which nothing reads.
"""

from collections.abc import Callable

from torch import Tensor, nn

from sft_judge.errors import InputError

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
        found = forward(hidden[where][:, None])[:, 0]  # [R, E]
        whole = found.new_zeros(*hidden.shape[:-1], found.shape[-1])
        whole[where] = found
        return whole

    return at_answers
