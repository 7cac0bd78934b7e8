"""Load a judge or its base. Safetensors only, no remote code, and nothing asks the network where a path is local."""

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

# Beside a tekken.json, transformers takes the tokenizer of mistral-common where that is installed, as with vLLM it is;
# that one has no tokenizer.json, and other rules for a chat.
READ_BY_TRANSFORMERS = {"trust_remote_code": False, "mistral_format": False}
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
CLASSIFIER = "ForSequenceClassification"


def base_of(model: str) -> str:
    """
    The folder of the base that an adapter stands on, or the model itself.

    Raises `InputError` where the base is not here, or another one stands in its place.
    """
    base = model_files.base_of(model)
    if is_adapter(model) and not Path(base).is_dir():
        return str(hub_folder(base, model_files.revision_of(model)))
    return base


def load_tokenizer(model: str, revision: str | None = None):
    """The tokenizer beside the weights; a family without a pad token pads with its end token."""
    check_model_folder(model)
    # transformers makes an empty tokenizer of the family where a folder has none
    if Path(model).is_dir() and not any((Path(model) / name).is_file() for name in TOKENIZERS):
        raise InputError(f"{model}: no tokenizer in it; expected {', '.join(TOKENIZERS[:-1])} or {TOKENIZERS[-1]}.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, revision=revision or "main", **READ_BY_TRANSFORMERS)
    except (OSError, ValueError) as error:
        raise InputError(f"{model}: no tokenizer could be loaded ({_reason(error, model, revision)}).") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_config(model: str, revision: str | None = None):
    """The configuration of a model, or of the base that an adapter stands on."""
    check_model_folder(model)
    try:
        return AutoConfig.from_pretrained(base_of(model), revision=revision or "main", trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{model}: its config.json cannot be read ({_reason(error, model, revision)}).") from error


def dtype_of(model: str, dtype: str = "auto") -> str:
    """The precision that a model runs in: as asked, or its own. auto-round's layers run in half precision alone."""
    config = load_config(model)
    wanted = str(config.dtype or "float32").removeprefix("torch.") if dtype == "auto" else dtype
    return "bfloat16" if wanted == "float32" and getattr(config, "quantization_config", None) else wanted


def is_classifier(model: str) -> bool:
    """Whether a folder holds a classifier, as `sft-judge export` writes it."""
    return not is_adapter(model) and str((load_config(model).architectures or [""])[0]).endswith(CLASSIFIER)


def is_multimodal(model: str) -> bool:
    """Whether a model's class also takes images, so that engines ask for their processor's files."""
    config = load_config(model)
    return config.get_text_config() is not config


def load_model(model: str, dtype: str | None = "auto", kind=AutoModelForCausalLM, **options):
    """
    A causal language model, or the base with its adapter, in evaluation mode. `dtype` is one of DTYPES.

    `kind` is the auto class. A classifier is refused as a language model: its head would be drawn at random.
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
            raise InputError(f"{base} is a classifier made by `sft-judge export`. Give the judge that it was made of.")
        if stand_in := _gptq_by_auto_round(base):
            options["config"] = stand_in
        options["attn_implementation"] = _attention(base, options.get("attn_implementation"))
        loaded = kind.from_pretrained(base, dtype=precision, use_safetensors=True, trust_remote_code=False, **options)
        if is_adapter(model):
            loaded = with_adapter(loaded, base, model)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:  # of torch, its readers
        raise InputError(f"{model}: cannot be loaded as a causal language model ({one_line(error)}).") from error
    if loaded.dtype == torch.float32 or has_dora(loaded):
        keep_unpacked(loaded)
    return loaded.eval()


def keep_unpacked(model) -> None:
    """
    Keep bitsandbytes' 4-bit weights as they are stored, on every CPU; before the first forward.

    Where a CPU has AVX-512 with bfloat16, that forward in evaluation packs them for products in bfloat16 alone. In
    float32, probabilities then differ by 5e-4 from those of other machines, and of the merged model; DoRA takes its
    norms of the packed bytes (predictions off by 0.04); and the packed product has no gradient, so that the training
    step after an evaluation fails.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def has_dora(model) -> bool:
    """Whether an adapter of the model is a DoRA, which has a norm for each row of a weight."""
    return any(getattr(module, "lora_magnitude_vector", None) for module in model.modules())


def _gptq_by_auto_round(base: str):
    """
    For auto-round's weights in GPTQ's form, a configuration by which auto-round reads them itself; else None.

    transformers asks for optimum and gptqmodel, whose kernels want a GPU; vLLM reads the form as it is.
    """
    config = load_config(base)
    stored = getattr(config, "quantization_config", None) or {}
    if stored.get("quant_method") != "gptq" or stored.get("provider") != "auto-round":
        return None
    own = {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq"}
    config.quantization_config = {**stored, **own}
    return config


def with_adapter(model, base: str, adapter: str, **options) -> PeftModel:
    """The base with its adapter. peft only warns of layers that one of the two has not, and leaves those unchanged."""
    not_its_own = f"{adapter}: its adapter was not made for {base}"
    config = PeftConfig.from_pretrained(adapter)
    try:
        loaded = PeftModel.from_pretrained(model, adapter, config=config, **options)
    except RuntimeError as error:  # torch: a list of size mismatches below a line that says nothing
        raise InputError(f"{not_its_own} ({str(error).splitlines()[-1].strip()}).") from error
    with safe_open(Path(adapter) / ADAPTER_WEIGHTS, "pt") as file:
        saved = {name for name in file.keys() if "lora_" in name}
    wanted = {name for name in get_peft_model_state_dict(loaded, save_embedding_layers=False) if "lora_" in name}
    if saved != wanted:
        name = min(saved ^ wanted)
        raise InputError(f"{not_its_own}: {name} is in {'the adapter' if name in saved else 'the base'} alone.")
    return loaded


def modules_beyond_text(model) -> dict[str, torch.nn.Module]:
    """The modules, by name, that text does not pass: those of an image tower, in families that have one."""
    text = (model.get_decoder(), model.get_output_embeddings())
    reached = {id(module) for part in text for module in part.modules()}
    above = {name for name, module in model.named_modules() if id(module) in reached}
    return {
        name: module
        for name, module in model.named_modules()
        if name not in above and not any(inner.startswith(f"{name}." if name else "") for inner in above)
    }


def _attention(base: str, wanted: str | None) -> str | None:
    """The attention to load with. Flash attention gives way, saying so, where it is not installed or has no GPU."""
    if wanted == "flash_attention_2" and not is_flash_attn_2_available():
        logger.warning(f"flash_attention_2 is not to be had here: {base} takes the next best.")
        wanted = None
    return attention_for(base, load_config(base), wanted)


def attention_for(name: str, config, wanted: str | None) -> str | None:
    """As wanted, or eager for Gemma-2: transformers' own choice, sdpa, leaves out its soft-cap in silence."""
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    if capped and wanted == "sdpa":
        raise InputError(f"{name} soft-caps its attention, which sdpa leaves out; take eager or flash_attention_2.")
    return wanted or ("eager" if capped else None)


def check_model_folder(model: str) -> None:
    """
    Raise `InputError` where a local path is not a model folder: better than a hub's 404 on a misspelt path.

    Also where a file of weights is cut short, which its header tells: each engine would say so in its own way.
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
    """Raise `InputError` for a safetensors file that is cut short: its header tells."""
    for file in sorted(files):
        try:
            with safe_open(file, "pt"):
                pass
        except SafetensorError as error:
            raise InputError(f"{file}: damaged or cut short ({one_line(error)}). Copy or make it again.") from error


def _reason(error: Exception, model: str, revision: str | None) -> str:
    """Of an error of the hub, on which transformers spends several lines, what to do; of any other what it says."""
    on_hub = isinstance(error.__cause__, HfHubHTTPError)
    return explain_hub_error(error.__cause__, model, revision) if on_hub else one_line(error)
