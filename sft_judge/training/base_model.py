"""Load a recipe's base model, and check that the model fits the recipe's settings and the launcher."""

import copy
import re

import torch
from peft import get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.utils import is_bitsandbytes_available, is_kernels_available, is_liger_kernel_available
from transformers.utils.import_utils import KERNELS_MAX_VERSION, KERNELS_MIN_VERSION
from trl import get_quantization_config

from sft_judge.core.environment import install_command
from sft_judge.core.errors import InputError, one_line
from sft_judge.core.model_files import is_adapter
from sft_judge.modeling.loading import dtype_of, load_config, load_model, modules_beyond_text
from sft_judge.training.adapters import adapter_config, check_start
from sft_judge.training.config import JudgeConfig, JudgeModelConfig
from sft_judge.training.machine_defaults import uses_fsdp

KERNELS = f"kernels>={KERNELS_MIN_VERSION},<{KERNELS_MAX_VERSION}"  # the versions that transformers accepts


def check_base(model_config: JudgeModelConfig, config: JudgeConfig) -> None:
    """
    Check a recipe's base model without loading its weights, and check that the adapter fits the model.

    Args:
        model_config: names the model, its adapter and its quantisation.
        config: the recipe's other settings.

    Raises:
        InputError: the model is an adapter or quantised, has fewer positions than `total_budget`, or does not support
            the recipe's attention, adapter or quantisation.
    """
    name = model_config.model_name_or_path
    if is_adapter(name):
        raise InputError(f"{name} is an adapter; merge it into its base first: sft-judge merge {name} --output DIR.")
    _check_quantization(model_config, config)
    _check_kernels(model_config, config)
    base = load_config(name)
    text = base.get_text_config()
    method = _quantization_of(base)
    if method not in (None, "bitsandbytes") or (method and not model_config.use_peft):
        raise InputError(f"{name} is quantised ({method}) and cannot be trained. Use the unquantised model.")
    positions = getattr(text, "max_position_embeddings", None)
    if positions and config.total_budget > positions:
        raise InputError(f"total_budget is {config.total_budget}, but {name} has {positions} positions. Lower it.")
    if config.router_aux_loss_coef and not hasattr(text, "output_router_logits"):
        raise InputError(f"router_aux_loss_coef is set, but {name} is not a mixture of experts; remove the setting.")
    if config.fp16 and not model_config.use_peft and dtype_of(name, model_config.dtype or "float32") == "float16":
        raise InputError("fp16 is mixed precision, but the trained weights are float16; set dtype to float32.")
    if _zero_stage(config) != 3:  # ZeRO-3 would partition the model on the meta device too
        _check_adapter(model_config, config, base)


def _check_adapter(model_config: JudgeModelConfig, config: JudgeConfig, base) -> None:
    """Build the model on the meta device and put the adapter on it, as PEFT will do with the real model."""
    name, wanted = model_config.model_name_or_path, model_config.attn_implementation
    wanted = None if wanted == "flash_attention_2" else wanted  # replaced by another one if it is not installed
    if str(wanted).startswith("paged|"):
        raise InputError(f"attn_implementation is {wanted!r}, which is for generation; use sdpa or eager.")
    base.quantization_config = None
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(base, **({"attn_implementation": wanted} if wanted else {}))
    except (ImportError, ValueError, KeyError) as error:
        raise InputError(f"{name} with attn_implementation {wanted}: {one_line(error)}.") from error
    if config.gradient_checkpointing and not model.supports_gradient_checkpointing:
        raise InputError(f"{type(model).__name__} does not support gradient_checkpointing; set it to false.")
    if wanted == "flex_attention" and config.device.type == "cpu":
        raise InputError("flex_attention has no backward pass on a CPU; use attn_implementation sdpa or eager.")
    lora = adapter_config(model_config, model)
    check_dropout(config, model, lora)
    if lora is None:
        return
    start, lora.init_lora_weights = lora.init_lora_weights, True  # other initialisations read the weights
    try:
        model = get_peft_model(model, lora)
    except (ValueError, TypeError, RuntimeError, re.error) as error:
        raise InputError(f"no adapter for lora_target_modules {lora.target_modules}: {one_line(error)}.") from error
    if isinstance(model.get_output_embeddings(), BaseTunerLayer):
        raise InputError("lora_target_modules names the LM head, whose rows are read without an adapter; remove it.")
    check_start(start, lora, model)


def _check_quantization(model_config: JudgeModelConfig, config: JudgeConfig) -> None:
    bits = "load_in_4bit" if model_config.load_in_4bit else "load_in_8bit" if model_config.load_in_8bit else None
    if bits is None:
        return
    if _zero_stage(config) == 3:
        raise InputError(
            "ZeRO-3 partitions the weights, which quantised weights do not support: with 8 bits the loss is ten times "
            "too high (bitsandbytes#1451). Take recipes/accelerate/zero2.yaml, or remove load_in_8bit and "
            "load_in_4bit."
        )
    if not model_config.use_peft:
        raise InputError(f"{bits} is set without use_peft, but quantised weights cannot be trained; set use_peft.")
    if not is_bitsandbytes_available():
        raise InputError(f"{bits} is set, but bitsandbytes is not installed: {install_command('qlora')}")


def _quantization_of(base) -> str | None:
    """Return the quantisation method in a model's configuration, or None if the model is not quantised."""
    stored = getattr(base, "quantization_config", None)
    return (
        (stored if isinstance(stored, dict) else stored.to_dict()).get("quant_method", "unknown") if stored else None
    )


def load_base(model_config: JudgeModelConfig, config: JudgeConfig):
    """
    Load the base model of a recipe, in training mode.

    Args:
        model_config: names the model, its precision and quantisation.
        config: the recipe's other settings.

    Returns:
        A `PreTrainedModel`. The parts of a multimodal model that read no text are frozen.

    Raises:
        InputError: the model cannot be loaded.
    """
    name = model_config.model_name_or_path
    options = {"attn_implementation": model_config.attn_implementation} if model_config.attn_implementation else {}
    precise = copy.copy(model_config)  # bitsandbytes needs a compute dtype and does not know "auto"
    precise.dtype = dtype_of(name, model_config.dtype or "float32")
    options |= {"use_kernels": True} if model_config.use_kernels else {}
    quantization = get_quantization_config(precise)
    if quantization is not None:
        options["quantization_config"] = quantization
    return freeze_beyond_text(load_model(name, model_config.dtype, **options)).train()


def freeze_beyond_text(model):
    """Freeze the parts of a model that read no text. They would get no gradient, and DDP waits for every gradient."""
    for module in modules_beyond_text(model).values():
        module.requires_grad_(False)
    return model


def describe_quantization(model) -> dict:
    """
    Describe how bitsandbytes quantised a loaded base, since its adapter depends on it; empty if it is not quantised.
    """
    config = getattr(model.config, "quantization_config", None)
    if not isinstance(config, BitsAndBytesConfig):
        return {}
    bits, prefix = (4, "bnb_4bit_") if config.load_in_4bit else (8, "llm_int8_")
    settings = config.to_dict().items()
    recorded = {name: value for name, value in settings if name == f"load_in_{bits}bit" or name.startswith(prefix)}
    dtype = str(model.get_input_embeddings().weight.dtype).removeprefix("torch.")
    return {f"loaded_in_{bits}bit": {"dtype": dtype, "quantization_config": recorded}}


def check_dropout(config: JudgeConfig, model, lora) -> None:
    """
    Raise `InputError` if R-Drop's two passes would be identical because no dropout is active.

    Args:
        config: the recipe.
        model: the base model.
        lora: the adapter's configuration, or None.
    """
    rates = [getattr(model.config.get_text_config(), "attention_dropout", 0.0), lora.lora_dropout if lora else 0.0]
    rates += [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    if config.rdrop_weight > 0 and not max(rates) > 0:
        raise InputError("rdrop_weight is set, but no dropout is active: both passes are equal. Set lora_dropout.")


def check_whole_weights(what: str, config: JudgeConfig) -> None:
    """
    Raise `InputError` if the launcher shards the weights over the processes.

    Args:
        what: the setting that needs whole weights, for the message.
        config: the recipe.
    """
    if _zero_stage(config) == 3 or uses_fsdp():
        raise InputError(f"{what} needs whole weights on each process; use ZeRO-2, ZeRO-1 or DDP, or remove it.")


def _zero_stage(config: JudgeConfig) -> int:
    return config.deepspeed_plugin.zero_stage if config.deepspeed_plugin else 0


def _check_kernels(model_config: JudgeModelConfig, config: JudgeConfig) -> None:
    """Raise `InputError` if Hub kernels or Liger kernels are asked for and cannot run here."""
    wanted = {
        "use_kernels": (model_config.use_kernels, is_kernels_available, KERNELS),
        "use_liger_kernel": (config.use_liger_kernel, is_liger_kernel_available, "liger-kernel"),
    }
    for name, (is_set, is_available, package) in wanted.items():
        if is_set and not (is_available() and torch.cuda.is_available()):
            raise InputError(
                f"{name} is set, but {package} is not installed or there is no GPU: {install_command(package)}, or "
                "remove the setting."
            )
