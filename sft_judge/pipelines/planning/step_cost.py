"""
Memory and FLOPs of a training step, measured on fake tensors, which have shapes and dtypes but no storage.

The step uses the recipe's own model class, adapter, head, attention and optimizer, so there is no separate formula to
maintain. Every storage that torch would allocate is counted when it is created and when it is freed. FLOPs come from
torch's own formulas for its matrix products and attention kernels.
"""

import copy
import weakref
from dataclasses import astuple, dataclass

import torch
from peft import PeftModel, get_peft_model
from peft.helpers import disable_input_dtype_casting
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count
from transformers import AutoModelForCausalLM, PretrainedConfig, Trainer

from sft_judge.core.errors import InputError
from sft_judge.modeling.loading import attention_for, has_dora, modules_beyond_text
from sft_judge.modeling.verdict_head import VerdictHead, dense_gradients
from sft_judge.training.adapters import adapter_config
from sft_judge.training.config import JudgeConfig, JudgeModelConfig
from sft_judge.training.losses import verdict_loss

ATTENTION = "_scaled_dot_product"  # prefix of the names of torch's fused kernels
ADAM_8BIT = 2 * (1 + 4 / 256)  # bytes per parameter: two moments with a float32 scale per 256 values (bitsandbytes)


@dataclass(frozen=True)
class StepCost:
    """
    Memory and FLOPs of one micro-batch and its optimizer step on a single GPU, without sharding.

    Attributes:
        parameters: parameters of the model.
        trained: trained parameters.
        weights: bytes of the weights and buffers, without the LM head's own weight.
        head: bytes of the LM head's own weight, 0 if it is tied.
        gradients: bytes of the gradients.
        optimizer: bytes of the optimizer's state.
        activations: bytes of everything else that is alive at the peak.
        largest_layer: bytes of the largest layer or of the embedding.
        linear_flops: FLOPs that grow linearly with the tokens.
        attention_flops: FLOPs that grow with the square of a row's tokens.
    """

    parameters: int
    trained: int
    weights: int
    head: int
    gradients: int
    optimizer: int
    activations: int
    largest_layer: int
    linear_flops: int
    attention_flops: int

    @property
    def peak(self) -> int:
        """Return the peak memory in bytes."""
        return self.weights + self.head + self.gradients + self.optimizer + self.activations


class Ledger(TorchDispatchMode):
    """
    Dispatch mode that tracks live and peak bytes of the storages that operations create, and counts FLOPs.

    Args:
        known: tensors that exist already and are not counted.
    """

    def __init__(self, known):
        """Start from the storages of `known`, which count as 0 bytes."""
        super().__init__()
        self.live = self.peak = self.linear_flops = self.attention_flops = 0
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = operation(*args, **kwargs)
        for leaf in tree_leaves(out):
            # a sparse tensor has no storage of its own; the strided tensors that it consists of are counted
            if isinstance(leaf, torch.Tensor) and leaf.layout is torch.strided:
                self._add(leaf.untyped_storage())
        self._count(operation, args, kwargs, out)
        return out

    def _add(self, storage) -> None:
        # Several tensors may share a storage, so each storage is counted once, under the address of its C++ object.
        # The finalizer subtracts its bytes when Python frees the storage.
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.live -= self._sizes.pop(key)

    def _count(self, operation, args, kwargs, out) -> None:
        name = operation.overloadpacket.__name__
        if name.startswith(ATTENTION):
            tensors = [each for each in args if isinstance(each, torch.Tensor)]
            shapes = [tensor.shape for tensor in tensors[: 4 if "backward" in name else 3]]
            formula = sdpa_backward_flop_count if "backward" in name else sdpa_flop_count
            self.attention_flops += formula(*shapes)
        elif operation.overloadpacket in flop_registry:
            flops = flop_registry[operation.overloadpacket](*args, **kwargs, out_val=out)
            if name in ("bmm", "baddbmm"):  # batched products are those of eager attention
                self.attention_flops += flops
            else:
                self.linear_flops += flops


def step_cost(
    model_config: PretrainedConfig, config: JudgeConfig, adapters: JudgeModelConfig, rows: int, tokens: int
) -> StepCost:
    """
    Measure the cost of one micro-batch with its optimizer step.

    The model is built on the meta device, moved to fake memory, and run through forward, backward and optimizer step
    under a `Ledger`. Storages that exist before the step (weights, optimizer state, accumulated gradients) are not
    counted by the ledger but reported separately, so `activations` is the ledger's peak minus new gradients, plus the
    largest dequantised weight.

    Args:
        model_config: config of the base model.
        config: settings of the training.
        adapters: settings of the model and its adapter.
        rows: rows of the micro-batch.
        tokens: tokens of each row.

    Raises:
        InputError: the model's shapes depend on its data, as in some mixtures of experts.
    """
    meta = meta_model(model_config, adapters)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = _on_fake_memory(meta, config, adapters)
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer, states = _optimizer(trained, config)
        kept = [weight.grad for weight in trained] if config.gradient_accumulation_steps > 1 else []
        if not kept:
            for weight in trained:
                weight.grad = None
        ledger = Ledger([*model.parameters(), *model.buffers(), *states, *kept])
        try:
            _run_step(model, trained, optimizer, ledger, config, rows, tokens)
        except DynamicOutputShapeException as error:
            raise InputError(
                f"{type(meta).__name__}: --plan does not support models whose shapes depend on data."
            ) from error
    gradients, numbers = (sum(map(size, trained)) for size in (_bytes, torch.Tensor.numel))
    state = sum(map(_bytes, states)) if optimizer else ADAM_8BIT * numbers
    fresh = 0 if kept else gradients  # new gradients are part of the ledger's peak
    return StepCost(
        parameters=meta.num_parameters() - (numbers if adapters.use_peft else 0),
        trained=numbers,
        gradients=gradients,
        optimizer=round(state),
        activations=max(ledger.peak - fresh, 0) + _dequantised_bytes(model, adapters),
        linear_flops=ledger.linear_flops,
        attention_flops=ledger.attention_flops,
        **_weights(model, adapters),
    )


def deep_step_cost(model_config: PretrainedConfig, *settings) -> StepCost:
    """
    Extrapolate `step_cost` from the same model at two small depths, because each further layer adds the same cost.

    This takes seconds where running a model of 80 layers takes a minute. The two depths are multiples of the period of
    the model's layer types. If adapters are on single layers, which the small models may lack, the whole model is run.

    Args:
        model_config: config of the base model.
        *settings: further arguments of `step_cost`.
    """
    text = model_config.get_text_config()
    kinds, depth = getattr(text, "layer_types", None) or [None], text.num_hidden_layers
    period = next(size for size in range(1, len(kinds) + 1) if kinds[size:] == kinds[:-size])
    low, high = 2 * period, 4 * period
    names_layers = any("." in target for target in settings[1].lora_target_modules or [])
    if depth <= high or names_layers:
        return step_cost(model_config, *settings)
    one, other = (astuple(step_cost(_of_depth(model_config, layers), *settings)) for layers in (low, high))
    slopes = [(second - first) * (depth - low) // (high - low) for first, second in zip(one, other, strict=True)]
    return StepCost(*(first + slope for first, slope in zip(one, slopes, strict=True)))


def _of_depth(model_config: PretrainedConfig, layers: int) -> PretrainedConfig:
    shallow = copy.deepcopy(model_config)
    text = shallow.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    return shallow


def meta_model(model_config: PretrainedConfig, adapters: JudgeModelConfig):
    """
    Build the model with its adapters on the meta device, without storage.

    Args:
        model_config: config of the base model.
        adapters: settings of the model and its adapter.
    """
    dtype = model_config.dtype or torch.float32
    if adapters.dtype not in (None, "auto"):
        dtype = getattr(torch, adapters.dtype)
    wanted = attention_for(adapters.model_name_or_path, model_config, adapters.attn_implementation)
    if wanted is None or wanted.startswith("flash"):
        wanted = "sdpa"  # runs on fake tensors and needs as little memory; a soft-cap in the kernel adds none
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config, dtype=dtype, attn_implementation=wanted)
        for module in modules_beyond_text(model).values():
            module.requires_grad_(False)
        lora = adapter_config(adapters, model)
        return model if lora is None else get_peft_model(model, lora, low_cpu_mem_usage=True)


def _on_fake_memory(model, config: JudgeConfig, adapters: JudgeModelConfig):
    model = model.to_empty(device="cpu").train()
    _base(model).tie_weights()
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        if adapters.use_peft:
            model.enable_input_require_grads()
    if adapters.load_in_4bit or adapters.load_in_8bit:  # SFTTrainer trains adapters on quantised weights in bfloat16
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.to(torch.bfloat16)
    return model


def _base(model):
    """Return the model without its adapter."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _optimizer(trained: list, config: JudgeConfig):
    """
    Return the optimizer and its state tensors, after a first step that creates the state; None for 8-bit optimizers.
    """
    for weight in trained:
        weight.grad = torch.empty_like(weight)
    if "8bit" in config.optim:
        return None, []
    kind, options = Trainer.get_optimizer_cls_and_kwargs(config)
    optimizer = kind(trained, **options)
    optimizer.step()
    return optimizer, [leaf for leaf in tree_leaves(dict(optimizer.state)) if isinstance(leaf, torch.Tensor)]


def _run_step(model, trained: list, optimizer, ledger: Ledger, config: JudgeConfig, rows: int, tokens: int) -> None:
    head = VerdictHead(model, [0, 1], config.world_size == 1, config.last_layer_at_answer)
    half = config.bf16 or model.get_input_embeddings().weight.dtype is torch.bfloat16  # a GPU's default
    # Without an attention mask, because on fake tensors transformers cannot see that no row is padded and would build
    # a full mask.
    inputs = {"input_ids": torch.zeros(rows, tokens, dtype=torch.long), "attention_mask": None}
    # the same contexts as in VerdictTrainer
    with ledger, disable_input_dtype_casting(model, active=half and not has_dora(model)):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = head(model, inputs, torch.full((rows,), tokens - 2)).logits
        verdict_loss(logits, torch.ones(rows, 2)).sum().backward()
        dense_gradients(model)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        if optimizer is not None:
            optimizer.step()


def _weights(model, adapters: JudgeModelConfig) -> dict[str, int]:
    """
    Return bytes of the weights without the head, of the head, and of the largest layer, which ZeRO-3 gathers whole.
    """
    base = _base(model)
    head, embedding = base.get_output_embeddings(), base.get_input_embeddings()
    own_head = head.weight is not embedding.weight
    packed = {id(module.weight): _bytes_per_weight(adapters) for module in _find_quantised(model, head, adapters)}
    sizes = {id(weight): _bytes(weight, packed.get(id(weight))) for weight in model.parameters()}
    layers = next(module for module in base.get_decoder().modules() if isinstance(module, torch.nn.ModuleList))
    largest = max(sum(sizes[id(weight)] for weight in layer.parameters()) for layer in layers)
    of_head = sizes[id(head.weight)] if own_head else 0
    total = sum(sizes.values()) + sum(map(_bytes, model.buffers()))
    return {"weights": total - of_head, "head": of_head, "largest_layer": max(largest, sizes[id(embedding.weight)])}


def _find_quantised(model, head, adapters: JudgeModelConfig) -> list:
    """Return the linear layers that bitsandbytes quantises: all except the head and the adapters."""
    if not (adapters.load_in_4bit or adapters.load_in_8bit):
        return []
    own = (module for module in model.modules() if isinstance(module, torch.nn.Linear))
    return [module for module in own if module is not head and not module.weight.requires_grad]


def _bytes_per_weight(adapters: JudgeModelConfig) -> float:
    """
    Return bytes per weight: 1 for 8 bits; 0.5 for 4 bits plus a float32 scale per 64 weights.

    Double quantisation stores the scale in one byte, with a float32 scale per 256 of them.
    """
    if adapters.load_in_8bit:
        return 1.0
    return 0.5 + (1 / 64 + 4 / (64 * 256) if adapters.use_bnb_nested_quant else 4 / 64)


def _dequantised_bytes(model, adapters: JudgeModelConfig) -> int:
    """
    Return bytes of the largest 4-bit weight after dequantisation, because each weight is dequantised when it is used.
    """
    opened = _find_quantised(model, model.get_output_embeddings(), adapters) if adapters.load_in_4bit else []
    return max((_bytes(module.weight) for module in opened), default=0)


def _bytes(tensor, each: float | None = None) -> int:
    return round(tensor.numel() * (tensor.element_size() if each is None else each))
