"""Load a judge or its base: safetensors only, no remote code, and no network access for a local path."""

import logging
from collections.abc import Iterable
from pathlib import Path

import torch
from huggingface_hub.errors import HfHubHTTPError
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import is_flash_attn_2_available

from sft_judge.core import model_files
from sft_judge.core.choices import DTYPES
from sft_judge.core.cpu_memory import prepare_cpu_memory
from sft_judge.core.errors import InputError, one_line
from sft_judge.core.model_files import ADAPTER, ADAPTER_WEIGHTS, is_adapter, is_local
from sft_judge.modeling.hub import explain_hub_error, hub_folder

logger = logging.getLogger(__name__)

# If a folder has a tekken.json and mistral-common is installed, as with vLLM, transformers would use the tokenizer of
# mistral-common, which has no tokenizer.json and other rules for chats.
READ_BY_TRANSFORMERS = {"trust_remote_code": False, "mistral_format": False}
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
CLASSIFIER = "ForSequenceClassification"


def base_of(model: str) -> str:
    """
    Return the folder of an adapter's base, or of the model itself. Raise `InputError` if the base is missing or
    changed.
    """
    base = model_files.base_of(model)
    if is_adapter(model) and not Path(base).is_dir():
        return str(hub_folder(base, model_files.revision_of(model)))
    return base


def load_tokenizer(model: str, revision: str | None = None):
    """
    Load the tokenizer beside the weights. If it has no pad token, its end token is used.

    Args:
        model: folder or Hub id.
        revision: branch, tag or commit on the Hub.

    Raises:
        InputError: there is no tokenizer, or it cannot be loaded.
    """
    check_model_folder(model)
    # if a folder has no tokenizer, transformers would create an empty one of the family
    if Path(model).is_dir() and not any((Path(model) / name).is_file() for name in TOKENIZERS):
        raise InputError(f"{model}: no tokenizer found; expected {', '.join(TOKENIZERS[:-1])} or {TOKENIZERS[-1]}.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, revision=revision or "main", **READ_BY_TRANSFORMERS)
    except (OSError, ValueError) as error:
        raise InputError(f"{model}: no tokenizer could be loaded ({_reason(error, model, revision)}).") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_config(model: str, revision: str | None = None):
    """
    Load the configuration of a model, or of an adapter's base.

    Args:
        model: folder or Hub id.
        revision: branch, tag or commit on the Hub.

    Raises:
        InputError: the configuration cannot be read.
    """
    check_model_folder(model)
    base = base_of(model)
    try:
        return AutoConfig.from_pretrained(base, revision=revision or "main", trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{model}: its config.json cannot be read ({_reason(error, model, revision)}).") from error


def dtype_of(model: str, dtype: str = "auto") -> str:
    """
    Return the dtype that a model runs in: the given one, or the model's own for `auto`.

    auto-round's layers run in half precision only, so that float32 becomes bfloat16 for them.

    Args:
        model: folder or Hub id.
        dtype: of DTYPES.
    """
    config = load_config(model)
    wanted = str(config.dtype or "float32").removeprefix("torch.") if dtype == "auto" else dtype
    return "bfloat16" if wanted == "float32" and getattr(config, "quantization_config", None) else wanted


def is_classifier(model: str) -> bool:
    """Return True if a folder holds a classifier, as written by `sft-judge export`."""
    return not is_adapter(model) and str((load_config(model).architectures or [""])[0]).endswith(CLASSIFIER)


def is_multimodal(model: str) -> bool:
    """Return True if a model's class is multimodal, so that engines need the files of its processor."""
    config = load_config(model)
    return config.get_text_config() is not config


def load_model(model: str, dtype: str | None = "auto", kind=AutoModelForCausalLM, **options):
    """
    Load a causal language model, or a base with its adapter, in evaluation mode.

    Args:
        model: folder or Hub id.
        dtype: of DTYPES, or None.
        kind: the auto class. A classifier is refused as a causal language model, because its head would be initialised
            at random.
        options: options of `from_pretrained`.

    Raises:
        InputError: the model cannot be loaded.
    """
    check_model_folder(model)
    if dtype not in (None, *DTYPES):
        raise InputError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}.")
    precision = dtype if dtype in (None, "auto") else getattr(torch, dtype)
    if not torch.cuda.is_available():
        prepare_cpu_memory()
    try:
        base = base_of(model)
        check_model_folder(base)
        if kind is AutoModelForCausalLM and is_classifier(base):
            raise InputError(f"{base} is a classifier made by `sft-judge export`. Give the judge it was made from.")
        if stand_in := _gptq_by_auto_round(base):
            options["config"] = stand_in
        options["attn_implementation"] = _attention(base, options.get("attn_implementation"))
        loaded = kind.from_pretrained(base, dtype=precision, use_safetensors=True, trust_remote_code=False, **options)
        if is_adapter(model):
            loaded = with_adapter(loaded, base, model)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:  # raised by the readers
        raise InputError(f"{model}: cannot be loaded as a causal language model ({one_line(error)}).") from error
    if loaded.dtype == torch.float32 or has_dora(loaded):
        keep_unpacked(loaded)
    return loaded.eval()


def keep_unpacked(model) -> None:
    """
    Keep bitsandbytes' 4-bit weights as they are stored, on every CPU. Call this before the first forward pass.

    On CPUs with AVX-512 and bfloat16, the first forward pass in evaluation mode packs the weights for products in
    bfloat16 only. This has three effects. In float32, probabilities differ from those of other machines and of the
    merged model. DoRA computes its norms from the packed bytes, which are wrong. And the packed product has no
    gradient, so that a training step after an evaluation fails.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def has_dora(model) -> bool:
    """Return True if an adapter of the model is a DoRA, which has a norm for each row of a weight."""
    return any(getattr(module, "lora_magnitude_vector", None) for module in model.modules())


def _gptq_by_auto_round(base: str):
    """
    Return a configuration that makes auto-round read its weights in the GPTQ format itself; None for other weights.

    For these weights transformers would need optimum and gptqmodel, whose kernels need a GPU. vLLM reads the format as
    it is.
    """
    config = load_config(base)
    stored = getattr(config, "quantization_config", None) or {}
    if stored.get("quant_method") != "gptq" or stored.get("provider") != "auto-round":
        return None
    own = {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq"}
    config.quantization_config = {**stored, **own}
    return config


def with_adapter(model, base: str, adapter: str, **options) -> PeftModel:
    """
    Load an adapter on its base, and check that both have the same layers: peft only warns and leaves layers unchanged.

    Args:
        model: the loaded base.
        base: folder of the base, for messages.
        adapter: folder of the adapter.
        options: options of `PeftModel.from_pretrained`.

    Raises:
        InputError: the adapter was not made for the base.
    """
    not_its_own = f"{adapter}: its adapter was not made for {base}"
    config = PeftConfig.from_pretrained(adapter)
    try:
        loaded = PeftModel.from_pretrained(model, adapter, config=config, **options)
    except RuntimeError as error:  # torch lists the size mismatches below a general first line
        raise InputError(f"{not_its_own} ({str(error).splitlines()[-1].strip()}).") from error
    with safe_open(Path(adapter) / ADAPTER_WEIGHTS, "pt") as file:
        saved = {name for name in file.keys() if "lora_" in name}
    wanted = {name for name in get_peft_model_state_dict(loaded, save_embedding_layers=False) if "lora_" in name}
    if saved != wanted:
        name = min(saved ^ wanted)
        raise InputError(f"{not_its_own}: {name} is only in {'the adapter' if name in saved else 'the base'}.")
    return loaded


def modules_beyond_text(model) -> dict[str, torch.nn.Module]:
    """Return the modules, by name, that text does not pass: those of the image tower of a multimodal model."""
    text = (model.get_decoder(), model.get_output_embeddings())
    reached = {id(module) for part in text for module in part.modules()}
    above = {name for name, module in model.named_modules() if id(module) in reached}
    return {
        name: module
        for name, module in model.named_modules()
        if name not in above and not any(inner.startswith(f"{name}." if name else "") for inner in above)
    }


def _attention(base: str, wanted: str | None) -> str | None:
    """
    Return the attention implementation to load with.

    If flash attention is not installed or there is no GPU, it is replaced and a warning is logged.
    """
    if wanted == "flash_attention_2" and not is_flash_attn_2_available():
        logger.warning(f"flash_attention_2 is not available here: {base} is loaded with the default attention.")
        wanted = None
    return attention_for(base, load_config(base), wanted)


def attention_for(name: str, config, wanted: str | None) -> str | None:
    """
    Return the attention implementation as wanted, or eager by default for Gemma-2.

    transformers' own default, sdpa, silently omits Gemma-2's soft-cap.

    Args:
        name: name of the model, for messages.
        config: its configuration.
        wanted: the attention implementation that was asked for, or None.

    Raises:
        InputError: sdpa is wanted for a model with a soft-cap.
    """
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    if capped and wanted == "sdpa":
        raise InputError(f"{name} soft-caps its attention, which sdpa omits; use eager or flash_attention_2.")
    return wanted or ("eager" if capped else None)


def check_model_folder(model: str) -> None:
    """
    Raise `InputError` if a local path is not a model folder, which is clearer than the Hub's 404 for a misspelt path.

    Also check that no weights file is truncated, which each engine would report differently.
    """
    path = Path(model)
    if not is_local(model):
        return
    if not path.is_dir():
        raise InputError(f"{model}: no such model folder.")
    if not any((path / name).is_file() for name in ("config.json", ADAPTER)):
        raise InputError(f"{model}: not a model folder, it has neither config.json nor {ADAPTER}.")
    if is_adapter(model):
        model_files.read_adapter_config(model)
    check_weights(path.glob("*.safetensors"))
    model_files.check_parts(path)


def check_weights(files: Iterable[Path]) -> None:
    """Raise `InputError` if a safetensors file is not there, or if its header shows that it is truncated."""
    for file in sorted(files):
        model_files.check_is_file(file)
        try:
            with safe_open(file, "pt"):
                pass
        except SafetensorError as error:
            raise InputError(f"{file}: damaged or truncated ({one_line(error)}). Copy it again.") from error


def _reason(error: Exception, model: str, revision: str | None) -> str:
    """Return one line for an error: what to do for an error of the Hub, the message for any other."""
    on_hub = isinstance(error.__cause__, HfHubHTTPError)
    return explain_hub_error(error.__cause__, model, revision) if on_hub else one_line(error)
