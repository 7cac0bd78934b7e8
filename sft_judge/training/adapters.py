"""LoRA adapters through PEFT: the target modules, the initialisation, and saving an adapter that changed its base."""

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from trl import get_peft_config

from sft_judge.core.errors import InputError, nearest
from sft_judge.modeling.loading import modules_beyond_text
from sft_judge.training.config import JudgeModelConfig

# Presets of `lora_target_modules`. The fused projections (qkv_proj, gate_up_proj) are those of Phi-3. The presets qkv
# and qkvog are from the LMSYS Arena write-up, for training on tokens and for classification.
QKV = ("q_proj", "k_proj", "v_proj", "qkv_proj")
PRESETS = {"all_linear": "all-linear", "qkv": QKV, "qkvog": (*QKV, "o_proj", "gate_proj", "gate_up_proj")}
MUTATING = ("pissa", "olora")  # initialisations that change the base model's weights


def adapter_config(config: JudgeModelConfig, model) -> LoraConfig | None:
    """
    Build the LoRA configuration that a recipe asks for.

    Args:
        config: the recipe's model and adapter settings.
        model: the base model. Its module names resolve the presets; weights are not read.

    Returns:
        A `LoraConfig`, or None to train all parameters.

    Raises:
        InputError: a target module does not exist, or `lora_init` would change quantised weights.
    """
    lora = get_peft_config(config)
    if lora is None:
        return None
    wanted = config.lora_target_modules
    preset = PRESETS.get(wanted if isinstance(wanted, str) else wanted[0] if wanted and len(wanted) == 1 else None)
    if preset:
        names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
        lora.target_modules = preset if isinstance(preset, str) else {name for name in preset if name in names}
    else:
        _check_targets("lora_target_modules", lora.target_modules, model)
    _check_targets("lora_modules_to_save", lora.modules_to_save, model)
    lora.exclude_modules = list(modules_beyond_text(model)) or None
    if changes_base(config.lora_init) and (config.load_in_4bit or config.load_in_8bit):
        raise InputError(
            f"lora_init is {config.lora_init!r}, which changes the base's weights, but they are quantised. "
            "Remove lora_init, or train on the unquantised base."
        )
    lora.init_lora_weights = {"default": True}.get(config.lora_init, config.lora_init)
    return lora


def check_start(start, lora: LoraConfig, model: PeftModel) -> None:
    """
    Raise `InputError` if the adapter on `model` cannot be initialised as asked, or cannot be saved afterwards.

    Args:
        start: the value of `init_lora_weights`.
        lora: configuration of the adapter.
        model: the model with the adapter on it.
    """
    if start == "orthogonal" and lora.r % 2:
        raise InputError(f"lora_r is {lora.r}, but lora_init orthogonal needs an even rank.")
    if not changes_base(start):
        return
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    highest = min(min(layer.in_features, layer.out_features) for layer in layers)
    if lora.r > highest:
        raise InputError(
            f"lora_r is {lora.r}, but lora_init {start} takes at most {highest}, the smallest width of a target layer."
        )
    for key, is_set in (("use_dora", lora.use_dora), ("lora_modules_to_save", lora.modules_to_save)):
        if is_set:
            raise InputError(
                f"{key} is set, but an adapter initialised by {start} is saved as its difference from the "
                f"initialisation, which holds the matrices A and B only. Remove {key} or the initialisation."
            )


def _check_targets(key: str, targets, model) -> None:
    """
    Raise `InputError` if no module has the name of a target, and list the names that exist. PEFT checks patterns.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    short = sorted({name.rsplit(".", 1)[-1] for name in names})
    if isinstance(targets, str):  # TRL turns a list of one name into a string, which PEFT reads as a pattern
        targets = [targets] if targets.isidentifier() else []
    for target in targets or []:
        if not any(f".{name}".endswith(f".{target}") for name, _ in model.named_modules()):
            raise InputError(
                f"{key} names {target!r}, but the model's linear modules are {', '.join(short)}."
                f"{nearest(target, short)}"
            )


def changes_base(start) -> bool:
    """Return True if this `init_lora_weights` changes the base model's weights, as PiSSA does with its residual."""
    return isinstance(start, str) and start.startswith(MUTATING)


def describe_adapter(lora: LoraConfig, model) -> str:
    """Describe what is trained in one line. The ratio alpha / r acts as a factor of the learning rate."""
    scale = lora.lora_alpha / (lora.r**0.5 if lora.use_rslora else lora.r)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    kind = "DoRA" if lora.use_dora else "LoRA"
    over = "sqrt(r)" if lora.use_rslora else "r"
    return f"{kind} r {lora.r}, alpha {lora.lora_alpha}, alpha / {over} {scale:g}; {trained:,} parameters trained"


def question_tied_weights(model) -> str | None:
    """Return a warning if an adapter changes the head or the embeddings of a base that ties the two; None if not."""
    config = model.config
    if not any(getattr(each, "tie_word_embeddings", False) for each in (config, config.get_text_config())):
        return None
    ends = {"embeddings": model.get_input_embeddings(), "head": model.get_output_embeddings()}
    changed = [name for name, end in ends.items() if isinstance(end, LoraLayer | ModulesToSaveWrapper)]
    if not changed:
        return None
    return (
        f"The adapter changes the {' and the '.join(changed)} of a base that ties embeddings and head "
        "(tie_word_embeddings). Merged, the judge has both, so it is larger than its base, and vLLM does not load "
        "such a Gemma. To avoid this, remove both from lora_target_modules and lora_modules_to_save."
    )


def keep_start(model: PeftModel, folder: Path) -> None:
    """
    Write the initial adapter into `folder` if it is not there: a resumed run must subtract the first run's start.
    """
    if not (folder / "adapter_model.safetensors").is_file():
        model.save_pretrained(folder)


def save_on_base(model: PeftModel, start: Path, folder: Path) -> None:
    """
    Write a PiSSA or OLoRA adapter so that it applies to the unchanged base model; its rank doubles.

    With W + dW = W_res + BA and W = W_res + B0 A0, the update is dW = [B | -B0] [A ; A0] (Meng et al. 2024, PiSSA,
    appendix C, https://arxiv.org/abs/2404.02948).

    Args:
        model: the trained model with its adapter.
        start: folder of the initial adapter, as `keep_start` wrote it.
        folder: folder to write into.
    """
    model.save_pretrained(folder, path_initial_model_for_weight_conversion=str(start))
