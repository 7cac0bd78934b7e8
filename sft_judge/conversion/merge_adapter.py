"""
Merge an adapter into its base, one weight at a time.

PEFT merges each layer separately, so its own code is used on a model whose weights take no memory: each weight is put
into its layer when it is read from the file, merged, and removed. The result is exactly that of `merge_and_unload`,
for all of PEFT's ranks, scales, DoRA and layouts. PEFT has no merge from file to file. mergekit can merge the factors
of adapters, without DoRA, but would be one more dependency.
"""

import logging

import torch
from peft import PeftConfig, PeftModel, PeftType
from peft.tuners.lora import Embedding, Linear, LoraLayer
from peft.utils import ModulesToSaveWrapper
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from sft_judge.conversion.weight_files import WeightFiles
from sft_judge.core.errors import InputError
from sft_judge.modeling.loading import base_of, load_config, with_adapter

logger = logging.getLogger(__name__)

# settings with which LoRA does more than add to the weights of layers
UNSUPPORTED_SETTINGS = (
    "trainable_token_indices",
    "layer_replication",
    "target_parameters",
    "lora_bias",
    "alora_invocation_tokens",
)
HARMLESS_INITS = (True, False, "gaussian")  # other initialisations change the base when the adapter is loaded


class NotByShards(Exception):
    """
    Signal that an adapter cannot be merged weight by weight, but needs the whole model in memory. The message says
    why.
    """


class AdapterByShards:
    """
    Hold an adapter in memory, on a base that is not in memory.

    Args:
        adapter: folder of the adapter.
        files: weights of its base.

    Raises:
        NotByShards: the adapter cannot be merged weight by weight.
        InputError: the adapter was made for another base.
    """

    def __init__(self, adapter: str, files: WeightFiles):
        _check(PeftConfig.from_pretrained(adapter))
        base = make_meta_model(load_config(adapter))
        own_names = names_in_model(base, files)
        ends = {id(base.get_input_embeddings()), id(base.get_output_embeddings())}
        ends = {f"{name}.weight" for name, module in base.named_modules() if id(module) in ends}
        # the adapter stays in float32: low_cpu_mem_usage gives its weights the dtype of the (meta) base
        adapted = with_adapter(base, base_of(adapter), adapter, low_cpu_mem_usage=True)
        self.layers: dict[str, LoraLayer] = {}  # `layers` and `replaced`: by the weight's name in the model
        self.replaced: dict[str, torch.Tensor] = {}
        for name, module in adapted.base_model.model.named_modules():
            if isinstance(module, ModulesToSaveWrapper):
                saved = module.modules_to_save[module.active_adapters[0]].state_dict()
                self.replaced |= {f"{name}.{inner}": weight for inner, weight in saved.items()}
            elif isinstance(module, LoraLayer):
                if type(module) not in (Linear, Embedding):
                    raise NotByShards(f"{name} is a {type(module).__name__} of PEFT")
                self.layers[f"{name}.weight"] = module
        changed = {*self.layers, *self.replaced}
        if _find_tied(base.config) and changed & ends:
            raise NotByShards("it changes embeddings that are tied to the head")
        elsewhere = changed - set(own_names.values())
        if elsewhere:
            raise NotByShards(f"{min(elsewhere)} is stored under another name than it is loaded")
        self.own_names = {name: own for name, own in own_names.items() if own in changed}

    def merge(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """
        Return a weight with the adapter's update, in the weight's own dtype.

        Args:
            name: name of the weight in the files.
            weight: the stored weight.
        """
        own = self.own_names.get(name)
        if own is None:
            return weight
        if own in self.replaced:
            return self.replaced[own].to(weight.dtype)
        layer = self.layers[own]
        base = layer.get_base_layer()
        meta_weight = base.weight
        if weight.shape != meta_weight.shape:
            raise InputError(f"{name} is {list(weight.shape)}, but config.json gives {list(meta_weight.shape)}.")
        base.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)  # PEFT merges in place
        layer.merge()
        merged, base.weight = base.weight.data, meta_weight
        layer.merged_adapters.clear()
        return merged


def merge_in_memory(adapted: PeftModel, adapter: str) -> torch.nn.Module:
    """
    Merge as PEFT does, but with separate weights of the head and the embeddings if the adapter makes them differ.

    PEFT merges an update of one of two tied weights into both (https://github.com/huggingface/peft/issues/2018).

    Args:
        adapted: the base with the adapter on it, in memory.
        adapter: folder of the adapter, for messages.

    Raises:
        InputError: the adapter has biases for layers without one.
    """
    for name, layer in adapted.named_modules():
        if isinstance(layer, LoraLayer) and any(layer.lora_bias.values()) and layer.get_base_layer().bias is None:
            raise InputError(
                f"{adapter}: it has lora_bias, but {name.removeprefix('base_model.model.')} of its base has no bias "
                "to merge into. Use the adapter as it is, or train again without lora_bias."
            )
    ends = [_inner(end) for end in (adapted.get_input_embeddings(), adapted.get_output_embeddings())]
    config = adapted.active_peft_config
    kept_tied = getattr(config, "ensure_weight_tying", False) or getattr(config, "trainable_token_indices", None)
    tied = ends[0].weight is ends[1].weight
    if tied and not kept_tied:  # with these two settings PEFT itself keeps both the same
        ends[1].weight = torch.nn.Parameter(ends[1].weight.detach().clone(), requires_grad=False)
    merged = adapted.merge_and_unload()
    embeddings, head = merged.get_input_embeddings(), merged.get_output_embeddings()
    if not tied:
        return merged
    still_tied = torch.equal(embeddings.weight, head.weight)
    for each in (merged.config, merged.config.get_text_config()):
        each.tie_word_embeddings = still_tied  # PEFT sets it to false for the clone
    if still_tied:
        head.weight = embeddings.weight
    else:
        logger.warning(
            f"{adapter}: it changes the head or the embeddings, which its base ties, so both are written "
            "(tie_word_embeddings is false), and the merged judge is larger. vLLM does not load such a Gemma."
        )
    return merged


def _inner(module: torch.nn.Module) -> torch.nn.Module:
    """Return the base's own module, without PEFT's wrappers."""
    while inner := getattr(module, "base_layer", None) or getattr(module, "original_module", None):
        module = inner
    return module


def make_meta_model(config: PretrainedConfig) -> torch.nn.Module:
    """Create a float32 model with the true shapes that takes no memory: each weight is one number, expanded."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            setattr(module, name, torch.nn.Parameter(torch.zeros(()).expand(weight.shape), requires_grad=False))
    return model


def names_in_model(model: torch.nn.Module, files: WeightFiles) -> dict[str, str]:
    """
    Return the parameter that each stored tensor becomes, by transformers' loading rules.

    Tensors that become a part of a parameter are left out.

    Args:
        model: the model, see `make_meta_model`.
        files: the stored weights.
    """
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    state = model.state_dict()
    names = {}
    for name in files.file_of:
        own, part_of = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        if part_of is None and own in state:
            names[name] = own
    return names


def _check(config: PeftConfig) -> None:
    """Raise `NotByShards` for an adapter that may do more than add to weights."""
    if config.peft_type != PeftType.LORA:
        raise NotByShards(f"it is {config.peft_type.value} rather than LoRA")
    if config.bias != "none":
        raise NotByShards(f"it trained biases ({config.bias})")
    if config.init_lora_weights not in HARMLESS_INITS:
        raise NotByShards(f"its initialisation {config.init_lora_weights} is computed from the base's weights")
    more = [name for name in UNSUPPORTED_SETTINGS if getattr(config, name, None)]
    if more:
        raise NotByShards(f"it has {more[0]}")


def _find_tied(config) -> bool:
    return any(getattr(each, "tie_word_embeddings", False) for each in (config, config.get_text_config()))
