"""
Check whether judges can be averaged: same prompt, architecture and tokenizer; otherwise say in one line what differs.
"""

import json

from sft_judge.core.errors import InputError
from sft_judge.modeling.judge_spec import JudgeSpec
from sft_judge.modeling.loading import load_config, load_tokenizer

PROMPT = ("verdict_words", "verdict_ids", "template", "budget", "language")
# fields of a configuration that do not belong to the architecture
IGNORED_CONFIG_KEYS = ("_name_or_path", "transformers_version", "dtype", "use_cache", "quantization_config")


def check_compatible(models: list[str], specs: list[JudgeSpec]) -> None:
    """
    Raise `InputError` if a judge differs from the first one in the prompt, the architecture or the tokenizer.

    Args:
        models: folders of the judges.
        specs: judge.json of each judge.
    """
    configs = [load_config(model) for model in models]
    tokenizers = [_tokenizer_parts(model) for model in models] if len(models) > 1 else []
    for place in range(1, len(models)):
        pair = f"{models[0]} and {models[place]}"
        for name in PROMPT:
            if getattr(specs[0], name) != getattr(specs[place], name):
                raise InputError(
                    f"{pair} differ in {name!r} of judge.json; judges with different prompts cannot merge."
                )
        _check_same_architecture(models[0], configs[0], models[place], configs[place])
        for name, part in tokenizers[0].items():
            if part != tokenizers[place][name]:
                raise InputError(
                    f"The tokenizers of {pair} differ in {name}; only judges with the same tokenizer can be merged."
                )


def _check_same_architecture(one: str, first, other: str, second) -> None:
    names = [(config.architectures or [type(config).__name__])[0] for config in (first, second)]
    if names[0] != names[1]:
        raise InputError(f"{one} is a {names[0]}, {other} a {names[1]}; different architectures cannot be merged.")
    sizes = [config.get_text_config().vocab_size for config in (first, second)]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"{one} has a vocabulary of {sizes[0]:,} tokens, {other} one of {sizes[1]:,}; different vocabularies "
            "cannot be merged."
        )
    ours, theirs = _fields(first.to_dict()), _fields(second.to_dict())
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise InputError(
                f"{one} and {other} differ in {name!r} of config.json ({ours.get(name)} and {theirs.get(name)}); "
                "different architectures cannot be merged."
            )


def _fields(config: dict, above: str = "") -> dict:
    """Return the fields of a configuration; those of its parts have dotted names."""
    fields = {}
    for name, value in config.items():
        if isinstance(value, dict):
            fields |= _fields(value, f"{above}{name}.")
        elif name not in IGNORED_CONFIG_KEYS and not str(name).endswith("_token_id"):
            fields[f"{above}{name}"] = value
    return fields


def _tokenizer_parts(model: str) -> dict:
    """Return the parts of a tokenizer that determine the ids of a prompt, by a description of each."""
    tokenizer = load_tokenizer(model)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    return {
        "their vocabulary": (state["model"], len(tokenizer)),
        "their added tokens": state["added_tokens"],
        "how they split a text": [state[name] for name in ("normalizer", "pre_tokenizer", "post_processor")],
        "their special tokens": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "their chat template": tokenizer.chat_template,
    }
