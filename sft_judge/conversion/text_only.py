"""
Extract the text model from a multimodal one.

A judge reads text only, and an image tower costs memory and more: vLLM and auto-round need the files of its processor
before they run. The text-only class has the same weights under other names.
"""

from dataclasses import dataclass

from transformers import PretrainedConfig

from sft_judge.conversion.merge_adapter import make_meta_model, names_in_model
from sft_judge.conversion.weight_files import WeightFiles


@dataclass
class TextPart:
    """Hold the configuration of the text-only class, and for each stored weight its name in this class."""

    config: PretrainedConfig
    names: dict[str, str]


def find_text_only(config: PretrainedConfig, files: WeightFiles) -> TextPart | None:
    """
    Find the text model in a model's files.

    Args:
        config: configuration of the model.
        files: its weights.

    Returns:
        The text model; None if the model is text-only or its text model has no class of its own.
    """
    inner = config.get_text_config()
    if inner is config:
        return None
    inner.tie_word_embeddings, inner.dtype = config.tie_word_embeddings, config.dtype
    try:
        text = make_meta_model(inner)
    except ValueError:  # transformers has no causal language model for this configuration class
        return None
    whole = make_meta_model(config)
    inside, above = (next(name for name, each in m.named_modules() if each is m.get_decoder()) for m in (text, whole))
    wanted = text.state_dict().keys()
    names = {}
    for stored, own in names_in_model(whole, files).items():
        moved = f"{inside}.{own.removeprefix(f'{above}.')}" if own.startswith(f"{above}.") else own
        if moved in wanted:
            names[stored] = moved
    tied = set(text.all_tied_weights_keys) if inner.tie_word_embeddings else set()
    if wanted - tied - set(names.values()):
        return None
    inner.architectures = [type(text).__name__]
    return TextPart(inner, names)
