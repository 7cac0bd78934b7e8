"""
Dequantise the 4-bit weights (bitsandbytes) on which an adapter was trained.

An adapter compensates for the quantisation error of its base: on the unquantised weights it is another model.
"""

from pathlib import Path

import torch
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer

from sft_judge.conversion.merge_adapter import make_meta_model, names_in_model
from sft_judge.conversion.weight_files import WeightFiles
from sft_judge.core.errors import InputError
from sft_judge.modeling.bnb import bitsandbytes, settings_of
from sft_judge.modeling.loading import load_config

STATE = ".quant_state.bitsandbytes__"  # in stored names, between a weight's name and its type, nf4 or fp4


class LoadedIn4Bit:
    """
    Quantise the weights of a base as when it was loaded for training, with the settings recorded in judge.json.

    The layers are those that transformers quantises (not the LM head). A GPU is used if there is one, as in training.

    Args:
        recorded: dtype and settings from judge.json.
        model: the judge's folder.
        files: weights of the base.

    Raises:
        InputError: the files name the weights in an unknown way, or bitsandbytes is not installed.
    """

    def __init__(self, recorded: dict, model: str, files: WeightFiles):
        self.bitsandbytes = bitsandbytes()
        self.dtype: str = recorded["dtype"]  # dtype before quantisation and after dequantisation
        self.config = settings_of(recorded)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        on_meta = make_meta_model(load_config(model))
        own_names = names_in_model(on_meta, files)
        Bnb4BitHfQuantizer(self.config).preprocess_model(on_meta, device_map=None)
        four_bit = {
            f"{name}.weight"
            for name, module in on_meta.named_modules()
            if isinstance(module, self.bitsandbytes.nn.Linear4bit)
        }
        self.names = {name for name, own in own_names.items() if own in four_bit}
        if len(self.names) < len(four_bit):
            raise InputError(f"{files.model}: its files do not name the weights as transformers loads them in 4 bits.")

    def read(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """
        Quantise and dequantise a stored weight if it was in 4 bits in training; its dtype is kept.

        Args:
            name: name of the weight in the files.
            weight: the stored weight.
        """
        if name not in self.names:
            return weight
        packed = self.bitsandbytes.nn.Params4bit(
            weight.to(getattr(torch, self.dtype)),
            requires_grad=False,
            compress_statistics=self.config.bnb_4bit_use_double_quant,
            quant_type=self.config.bnb_4bit_quant_type,
            quant_storage=self.config.bnb_4bit_quant_storage,
        ).to(self.device)
        values = self.bitsandbytes.functional.dequantize_4bit(packed.data, packed.quant_state)
        return values.to("cpu", weight.dtype)


class StoredIn4Bit(WeightFiles):
    """Read files with 4-bit weights as dequantised tensors."""

    def __init__(self, model: str):
        super().__init__(model)
        self.bitsandbytes = bitsandbytes()
        weights = {name.split(STATE)[0] for name in self.file_of if STATE in name}
        self.parts = {weight: [name for name in self.file_of if name.startswith(f"{weight}.")] for weight in weights}
        hidden = {name for names in self.parts.values() for name in names}
        self.hidden = {name: file for name, file in self.file_of.items() if name in hidden}
        self.file_of = {name: file for name, file in self.file_of.items() if name not in hidden}

    def read(self, name: str) -> torch.Tensor:
        if name not in self.parts:
            return super().read(name)
        packed = super().read(name)
        return self.bitsandbytes.functional.dequantize_4bit(packed, self._state(name))

    def shape(self, name: str) -> list[int]:
        return list(self._state(name).shape) if name in self.parts else super().shape(name)

    def _state(self, name: str):
        tensors = {part.removeprefix(f"{name}."): super(StoredIn4Bit, self).read(part) for part in self.parts[name]}
        return self.bitsandbytes.functional.QuantState.from_dict(tensors, device=torch.device("cpu"))

    def _file(self, name: str) -> Path:
        return self.folder / self.hidden[name] if name in self.hidden else super()._file(name)


def weights_of(model: str, config) -> WeightFiles:
    """
    Open the weights of a model.

    Args:
        model: folder or Hub id.
        config: configuration of the model.

    Raises:
        InputError: the weights have a quantisation that cannot be undone.
    """
    stored = getattr(config, "quantization_config", None)
    if stored is None:
        return WeightFiles(model)
    stored = stored if isinstance(stored, dict) else stored.to_dict()
    if stored.get("load_in_4bit") or stored.get("_load_in_4bit"):
        return StoredIn4Bit(model)
    raise InputError(
        f"{model} is quantised ({stored.get('quant_method')}), so an adapter cannot be merged into its weights. Merge "
        "first and quantise the result; base_model_name_or_path in adapter_config.json names an adapter's base."
    )
