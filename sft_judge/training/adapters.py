"""LoRA and its relatives, as PEFT has them: which modules, which start, and how a PiSSA adapter is put back."""

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from trl import get_peft_config

from sft_judge.core.errors import InputError, nearest
from sft_judge.modeling.loading import modules_beyond_text
from sft_judge.training.config import JudgeModelConfig

# Presets of lora_target_modules: the fused projections are Phi-3's. The last two are the LMSYS Arena write-up's, for
# training on tokens and for classification.
QKV = ("q_proj", "k_proj", "v_proj", "qkv_proj")
PRESETS = {"all_linear": "all-linear", "qkv": QKV, "qkvog": (*QKV, "o_proj", "gate_proj", "gate_up_proj")}
MUTATING = ("pissa", "olora")  # their start changes the base's weights


def adapter_config(config: JudgeModelConfig, model) -> LoraConfig | None:
    """The adapter that a recipe asks for; None to train all parameters. Raises `InputError` for a bad start."""
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
            "Leave lora_init out, or train on the unquantised base."
        )
    lora.init_lora_weights = {"default": True}.get(config.lora_init, config.lora_init)
    return lora


def check_start(start, lora: LoraConfig, model: PeftModel) -> None:
    """Raise `InputError` for a start that the adapter on `model` cannot have, or less which it cannot be saved."""
    if start == "orthogonal" and lora.r % 2:
        raise InputError(f"lora_r is {lora.r}, but lora_init orthogonal needs an even one.")
    if not changes_base(start):
        return
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    highest = min(min(layer.in_features, layer.out_features) for layer in layers)
    if lora.r > highest:
        raise InputError(
            f"lora_r is {lora.r}, but lora_init {start} takes {highest} at most, the least width of a layer."
        )
    for key, is_set in (("use_dora", lora.use_dora), ("lora_modules_to_save", lora.modules_to_save)):
        if is_set:
            raise InputError(
                f"{key} is set, but an adapter that starts by {start} is saved less its start, which keeps its two "
                f"factors alone. Leave {key} or the start out."
            )


def _check_targets(key: str, targets, model) -> None:
    """Raise `InputError` for a target by which no module goes, with the names there are; patterns are left to PEFT."""
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    short = sorted({name.rsplit(".", 1)[-1] for name in names})
    if isinstance(targets, str):  # TRL makes a list of one a string, which PEFT takes for a pattern
        targets = [targets] if targets.isidentifier() else []
    for target in targets or []:
        if not any(f".{name}".endswith(f".{target}") for name, _ in model.named_modules()):
            raise InputError(f"{key} names {target!r}, but the model has {', '.join(short)}.{nearest(target, short)}")


def changes_base(start) -> bool:
    """Whether an adapter of this `init_lora_weights` stands on other weights than the base's, as PiSSA's residual."""
    return isinstance(start, str) and start.startswith(MUTATING)


def describe_adapter(lora: LoraConfig, model) -> str:
    """What is trained, in a line: alpha / r acts as a factor of the learning rate."""
    scale = lora.lora_alpha / (lora.r**0.5 if lora.use_rslora else lora.r)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    kind = "DoRA" if lora.use_dora else "LoRA"
    over = "sqrt(r)" if lora.use_rslora else "r"
    return f"{kind} r {lora.r}, alpha {lora.lora_alpha}, alpha / {over} {scale:g}; {trained:,} parameters trained"


def keep_start(model: PeftModel, folder: Path) -> None:
    """Write the adapter's start into `folder`, once: a run that goes on must subtract the first one's."""
    if not (folder / "adapter_model.safetensors").is_file():
        model.save_pretrained(folder)


def save_on_base(model: PeftModel, start: Path, folder: Path) -> None:
    """
    Write an adapter that stands on the base as it was: what was learnt less its start, of twice the rank.

    W + dW = W_res + BA and W = W_res + B0 A0, so dW = [B | -B0] [A ; A0] (Meng et al. 2024, PiSSA, appendix C,
    https://arxiv.org/abs/2404.02948).
    """
    model.save_pretrained(folder, path_initial_model_for_weight_conversion=str(start))
