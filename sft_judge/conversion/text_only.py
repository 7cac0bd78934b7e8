"""
The text model within a multimodal one.

A judge reads text alone, and an image tower costs it memory and more: vLLM and auto-round ask for the files of its
processor before they take a single token. The text's own class has the same weights under other names.
"""

from dataclasses import dataclass

from transformers import PretrainedConfig

from sft_judge.conversion.merge_adapter import make_meta_model, names_in_model
from sft_judge.conversion.weight_files import WeightFiles


@dataclass
class TextPart:
    """The configuration of the text's own class, and what its weights are called there by their names in the files."""

    config: PretrainedConfig
    names: dict[str, str]


def find_text_only(config: PretrainedConfig, files: WeightFiles) -> TextPart | None:
    """The text model in a model's `files`; None for one that is text alone, or whose text has no class of its own."""
    inner = config.get_text_config()
    if inner is config:
        return None
    inner.tie_word_embeddings, inner.dtype = config.tie_word_embeddings, config.dtype
    try:
        text = make_meta_model(inner)
    except ValueError:  # transformers: no causal language model for this class of configuration
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
