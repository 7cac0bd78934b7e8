"""Set a recipe's end and pad tokens and its chat template on the tokenizer, before any row is made."""

import logging
from pathlib import Path

from sft_judge.core.errors import InputError
from sft_judge.prompts.templates import PLAIN_CHAT_NOTE, plain_chat
from sft_judge.training.config import JudgeConfig

logger = logging.getLogger(__name__)


def set_tokens(tokenizer, config: JudgeConfig) -> None:
    """
    Set the end and pad tokens and the chat template that a recipe asks for.

    SFTTrainer would set them after the rows are made.

    Args:
        tokenizer: the tokenizer, changed in place.
        config: settings of the training.

    Raises:
        InputError: `eos_token` or `pad_token` is not in the vocabulary, or `chat_template_path` is not a template
            file.
    """
    for name in ("eos_token", "pad_token"):
        token = getattr(config, name)
        if token is not None and token not in tokenizer.get_vocab():
            raise InputError(f"{name} is {token!r}, which is not in the vocabulary of {tokenizer.name_or_path}.")
        if token is not None:
            setattr(tokenizer, name, token)
    if config.chat_template_path is not None:
        tokenizer.chat_template = _read_chat_template(Path(config.chat_template_path))
    elif tokenizer.chat_template is None:
        tokenizer.chat_template = plain_chat(tokenizer)
        logger.warning("%s has no chat template: %s", tokenizer.name_or_path, PLAIN_CHAT_NOTE)


def _read_chat_template(file: Path) -> str:
    if not file.is_file() or file.suffix not in (".jinja", ".j2"):
        raise InputError(
            f"chat_template_path is {file}, expected a .jinja file. To use another model's template, save its text to "
            "a file, and check that this tokenizer has its special tokens."
        )
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not a chat template, it is not UTF-8 text ({error.reason}).") from error
