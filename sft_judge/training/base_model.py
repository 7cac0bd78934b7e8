"""Load the tokenizer and model that a recipe starts from, and check that its settings go with both."""

import logging
from pathlib import Path

import torch
from transformers import BitsAndBytesConfig
from transformers.utils import is_liger_kernel_available
from trl import get_quantization_config

from sft_judge.core.errors import InputError
from sft_judge.core.model_files import is_adapter
from sft_judge.modeling.loading import load_model, modules_beyond_text
from sft_judge.prompts.templates import PLAIN_CHAT_NOTE, plain_chat
from sft_judge.training.config import JudgeConfig, JudgeModelConfig

logger = logging.getLogger(__name__)


def set_tokens(tokenizer, config: JudgeConfig) -> None:
    """
    Give a tokenizer the end and pad tokens and the chat template that a recipe asks for.

    SFTTrainer would do so after the rows are made.

    Raises:
        InputError: `eos_token` or `pad_token` is not in the vocabulary, or `chat_template_path` is no template file.
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
            f"chat_template_path is {file}, expected a .jinja file. Another model's template may need "
            "tokens that this one has not: save its text to a file."
        )
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not a chat template, it is not UTF-8 text ({error.reason}).") from error


def load_base(model_config: JudgeModelConfig, config: JudgeConfig, folder: str | None = None):
    """
    Load the base model of a recipe, in training mode.

    Args:
        model_config: names the model, its precision and quantisation.
        config: the recipe's other settings; its token budget must fit the model's positions.
        folder: of the model's files, where it was downloaded.

    Returns:
        A `PreTrainedModel`. Parts that read no text are frozen.

    Raises:
        InputError: the model is an adapter, is quantised under ZeRO-3, or has fewer positions than `total_budget`.
    """
    name = folder or model_config.model_name_or_path
    if is_adapter(name):
        raise InputError(f"{name} is an adapter; put it into its base first: sft-judge merge {name} --output DIR.")
    options = {"attn_implementation": model_config.attn_implementation} if model_config.attn_implementation else {}
    if _zero_stage(config) == 3 and (model_config.load_in_8bit or model_config.load_in_4bit):
        raise InputError(
            "ZeRO-3 divides weights, which quantised ones do not bear: with 8 bits the loss is ten times too high "
            "(bitsandbytes#1451). Take recipes/accelerate/zero2.yaml, or leave out load_in_8bit and load_in_4bit."
        )
    _check_liger(config)
    quantization = get_quantization_config(model_config)
    if quantization is not None:
        options["quantization_config"] = quantization
    model = load_model(name, model_config.dtype, **options)
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions and config.total_budget > positions:
        raise InputError(f"total_budget is {config.total_budget}, but {name} has {positions} positions.")
    for module in modules_beyond_text(model).values():  # it would get no gradient, which DDP waits for
        module.requires_grad_(False)
    return model.train()


def describe_quantization(model) -> dict:
    """Describe how bitsandbytes quantised a loaded base, on which its adapter depends; empty without quantisation."""
    config = getattr(model.config, "quantization_config", None)
    if not isinstance(config, BitsAndBytesConfig):
        return {}
    bits, prefix = (4, "bnb_4bit_") if config.load_in_4bit else (8, "llm_int8_")
    settings = config.to_dict().items()
    recorded = {name: value for name, value in settings if name == f"load_in_{bits}bit" or name.startswith(prefix)}
    dtype = str(model.get_input_embeddings().weight.dtype).removeprefix("torch.")
    return {f"loaded_in_{bits}bit": {"dtype": dtype, "quantization_config": recorded}}


def check_dropout(config: JudgeConfig, model, lora) -> None:
    """Raise `InputError` where R-Drop's two passes would be the same."""
    rates = [getattr(model.config.get_text_config(), "attention_dropout", 0.0), lora.lora_dropout if lora else 0.0]
    rates += [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    if config.rdrop_weight > 0 and not max(rates) > 0:
        raise InputError("rdrop_weight is set, but nothing drops out: two passes are the same. Set lora_dropout.")


def check_whole_weights(what: str, config: JudgeConfig) -> None:
    """Raise `InputError` where a launcher divides the weights among the processes."""
    if _zero_stage(config) == 3 or config.fsdp_plugin_args:
        raise InputError(f"{what} needs whole weights on each process; take ZeRO-2, ZeRO-1 or DDP, or leave it out.")


def _zero_stage(config: JudgeConfig) -> int:
    return config.deepspeed_plugin.zero_stage if config.deepspeed_plugin else 0


def _check_liger(config: JudgeConfig) -> None:
    """Raise `InputError` if Liger's kernels are asked for where they cannot run."""
    if config.use_liger_kernel and not (is_liger_kernel_available() and torch.cuda.is_available()):
        raise InputError(
            "use_liger_kernel is set, but liger-kernel is not installed or there is no GPU: pip install liger-kernel, "
            "or leave the setting out."
        )
