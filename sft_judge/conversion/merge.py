"""Adapters into their base, and judges averaged: weight by weight, so that about one file of weights is in memory."""

import json
import logging
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from sft_judge.conversion.compatibility import check_compatible
from sft_judge.conversion.four_bit import LoadedIn4Bit, StoredIn4Bit, weights_of
from sft_judge.conversion.merge_adapter import AdapterByShards, NotByShards
from sft_judge.conversion.text_only import TextPart, find_text_only
from sft_judge.conversion.weight_files import WeightFiles, write_shards
from sft_judge.core.errors import InputError
from sft_judge.core.files import write_json
from sft_judge.core.model_files import is_adapter, name_of
from sft_judge.modeling.judge_spec import JudgeSpec, read_spec, write_spec
from sft_judge.modeling.loading import base_of, load_config, load_model, load_tokenizer, with_adapter

logger = logging.getLogger(__name__)


@dataclass
class Part:
    """One judge of an average: its share, its base's weights, and what is done to them."""

    share: float
    files: WeightFiles
    adapter: AdapterByShards | None = None
    four_bit: LoadedIn4Bit | None = None

    def changes(self, name: str) -> bool:
        """Whether the weight of this name is not as the base's files have it."""
        adapted = self.adapter is not None and name in self.adapter.own_names
        return adapted or (self.four_bit is not None and name in self.four_bit.names)

    def read(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The judge's weight of this name, computed in `dtype`, or in that of the files."""
        weight = self.files.read(name)
        if self.four_bit:
            weight = self.four_bit.read(name, weight)
        weight = weight.to(dtype or weight.dtype)
        return self.adapter.merge(name, weight) if self.adapter else weight


def merge_judges(models: list[str], weights: list[float] | None, output: Path, onto: str = "trained") -> dict:
    """
    Write the merged judge to the folder `output`; returns facts for the manifest.

    `weights` must sum to one (equal by default). Averaged are whole weights: adapters as the products that they add,
    never their factors, each on its own base. `onto` is `trained` or `plain`: a base that an adapter was trained on
    in 4 bits is taken as it was then, or as it is stored.
    """
    shares = shares_of(weights, models)
    specs = [read_spec(model) for model in models]
    check_compatible(models, specs)
    with TemporaryDirectory(dir=output) as scratch:
        parts = [
            _part(model, share, spec, onto, Path(scratch) / str(place))
            for place, (model, share, spec) in enumerate(zip(models, shares, specs, strict=True))
        ]
        _check_same_weights(parts)
        text = find_text_only(load_config(models[0]), parts[0].files)
        if text:
            logger.info(f"{models[0]}: merged as {text.config.architectures[0]}, without what only images pass.")
        _write(parts, output, text)
    load_tokenizer(models[0]).save_pretrained(output)
    spec = specs[0]
    spec.calibration = None  # fitted on other weights
    spec.base = None
    spec.training = {**spec.training, "merged_from": [name_of(model) for model in models], "weights": shares}
    if spec.training.pop("loaded_in_4bit", None) or spec.training.pop("loaded_in_8bit", None):
        spec.training["merged_onto"] = onto
    spec.training["folds_seen"] = sorted({fold for each in specs for fold in each.training.get("folds_seen", [])})
    write_spec(output, spec, bind=True)
    return {"models": models, "weights": shares, "onto": onto}


def shares_of(weights: list[float] | None, models: list[str]) -> list[float]:
    """The share of each model; raises `InputError` unless there is one above 0 for each and their sum is one."""
    if weights is None:
        return [1 / len(models)] * len(models)
    if len(weights) != len(models) or not all(weight > 0 for weight in weights):
        raise InputError(f"{len(weights)} weights {weights} for {len(models)} models; give one above 0 for each.")
    total = math.fsum(weights)
    if abs(total - 1) > 1e-6:
        raise InputError(f"The weights {weights} sum to {total:g}; they must sum to 1. Leave them out for equal ones.")
    return weights


def merged_weight(parts: list[Part], name: str) -> torch.Tensor:
    """The weighted mean over the parts, in float32; what none of them changes is passed on to the bit."""
    first = parts[0]
    if len(parts) == 1:
        return first.read(name)
    weight = first.files.read(name)
    same = all(part.files.folder == first.files.folder and not part.changes(name) for part in parts)
    if same or not weight.is_floating_point():
        return weight
    total = torch.zeros(weight.shape)
    for part in parts:
        total.add_(part.read(name, torch.float32), alpha=part.share)
    return total.to(weight.dtype)


def _part(model: str, share: float, spec: JudgeSpec, onto: str, scratch: Path) -> Part:
    config = load_config(model)
    files = weights_of(base_of(model), config)
    if not is_adapter(model):
        return Part(share, files)
    if "loaded_in_8bit" in spec.training and onto == "trained":
        raise InputError(
            f"{model}: its base was in 8 bits in training, where the largest activations go by other weights: there "
            "are none to merge into. `--onto plain` takes the base as it is stored, which is another model."
        )
    four_bit, recorded = None, spec.training.get("loaded_in_4bit")
    if recorded and onto == "trained" and not isinstance(files, StoredIn4Bit):
        four_bit = LoadedIn4Bit(recorded, model, files)
        logger.info(f"{model}: its base is taken as it was in training, through 4 bits (--onto {onto}).")
    try:
        return Part(share, files, AdapterByShards(model, files), four_bit)
    except NotByShards as why:
        logger.warning(f"{model}: {why}, so its base is loaded whole into memory.")
        _merge_whole(model, Part(share, files, four_bit=four_bit), scratch)
        return Part(share, WeightFiles(str(scratch)))


def _merge_whole(model: str, base: Part, folder: Path) -> None:
    """PEFT's own merge, in memory, into `folder`; the base is written there first where it is in 4 bits."""
    folder.mkdir()
    name = base_of(model)
    if base.four_bit or isinstance(base.files, StoredIn4Bit):
        name = str(folder / "base")
        _write([base], folder / "base")
    adapted = with_adapter(load_model(name), name, model)
    if not hasattr(adapted.base_model, "merge_and_unload"):
        kind = adapted.active_peft_config.peft_type.value
        raise InputError(f"{model} is PEFT's {kind}, which adds nothing to weights: it cannot be merged.")
    adapted.merge_and_unload().save_pretrained(folder)


def _check_same_weights(parts: list[Part]) -> None:
    """Raise `InputError` where the files of two judges hold other tensors, or of other shapes."""
    first = parts[0].files
    for other in (part.files for part in parts[1:]):
        if first.folder == other.folder:
            continue
        alone = first.file_of.keys() ^ other.file_of.keys()
        if alone:
            holder = first if min(alone) in first.file_of else other
            raise InputError(f"{first.model} and {other.model}: {min(alone)} is in {holder.model} alone.")
        for name in first.file_of:
            if first.shape(name) != other.shape(name):
                raise InputError(
                    f"{name} is {first.shape(name)} in {first.model} and {other.shape(name)} in {other.model}; only "
                    "weights of one shape can be averaged."
                )


def _write(parts: list[Part], output: Path, text: TextPart | None = None) -> None:
    """
    The weights and what describes them: the configuration, without a quantisation that they no longer have.

    Only the text model's, where that is given, in its own class.
    """
    output.mkdir(exist_ok=True)
    write_shards(parts[0].files, output, lambda name: merged_weight(parts, name), text and text.names)
    folder = parts[0].files.folder
    if text:
        text.config.save_pretrained(output)
    else:
        fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        fields.pop("quantization_config", None)
        write_json(output / "config.json", fields)
    if (folder / "generation_config.json").is_file():
        shutil.copyfile(folder / "generation_config.json", output / "generation_config.json")
