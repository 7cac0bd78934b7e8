"""Merge adapters into their base and average judges, weight by weight, with about one file of weights in memory."""

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
from sft_judge.conversion.merge_adapter import AdapterByShards, NotByShards, merge_in_memory
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
    """Represent one judge of an average: its share, its base's weights, and the changes to them."""

    share: float
    files: WeightFiles
    adapter: AdapterByShards | None = None
    four_bit: LoadedIn4Bit | None = None

    def changes(self, name: str) -> bool:
        """Return True if this weight differs from that in the base's files."""
        adapted = self.adapter is not None and name in self.adapter.own_names
        return adapted or (self.four_bit is not None and name in self.four_bit.names)

    def read(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        """
        Return the judge's weight.

        Args:
            name: name of the weight in the files.
            dtype: dtype of the computation; by default that of the files.
        """
        weight = self.files.read(name)
        if self.four_bit:
            weight = self.four_bit.read(name, weight)
        weight = weight.to(dtype or weight.dtype)
        return self.adapter.merge(name, weight) if self.adapter else weight


def merge_judges(models: list[str], weights: list[float] | None, output: Path, onto: str = "trained") -> dict:
    """
    Write the merged judge to a folder.

    Merged weights are averaged: an adapter counts as the product that it adds to its base, not as its factors.

    Args:
        models: folders of the judges.
        weights: share of each judge, with a sum of 1; equal by default.
        output: folder to write into.
        onto: `trained` uses a base in 4 bits as it was in training, `plain` uses it as it is stored.

    Returns:
        Facts for the manifest.

    Raises:
        InputError: the judges cannot be merged.
    """
    shares = shares_of(weights, models)
    specs = [read_spec(model) for model in models]
    check_compatible(models, specs)
    with TemporaryDirectory(dir=output) as scratch:
        parts = [
            _open_part(model, share, spec, onto, Path(scratch) / str(place))
            for place, (model, share, spec) in enumerate(zip(models, shares, specs, strict=True))
        ]
        _check_same_weights(parts)
        text = find_text_only(load_config(str(parts[0].files.folder)), parts[0].files)
        if text:
            logger.info(f"{models[0]}: merged as {text.config.architectures[0]}, without the image modules.")
        _write(parts, output, text)
    load_tokenizer(models[0]).save_pretrained(output)
    spec = specs[0]
    spec.calibration = None  # it was fitted for other weights
    spec.base = None
    spec.training = {**spec.training, "merged_from": [name_of(model) for model in models], "weights": shares}
    if spec.training.pop("loaded_in_4bit", None) or spec.training.pop("loaded_in_8bit", None):
        spec.training["merged_onto"] = onto
    spec.training["folds_seen"] = sorted({fold for each in specs for fold in each.training.get("folds_seen", [])})
    write_spec(output, spec, bind=True)
    return {"models": models, "weights": shares, "onto": onto}


def shares_of(weights: list[float] | None, models: list[str]) -> list[float]:
    """
    Return the share of each model. Raise `InputError` unless all are above 0 and their sum is 1.

    Args:
        weights: the shares, or None for equal shares.
        models: folders of the judges.
    """
    if weights is None:
        return [1 / len(models)] * len(models)
    if len(weights) != len(models) or not all(weight > 0 for weight in weights):
        raise InputError(f"{len(weights)} weights {weights} for {len(models)} models; give a weight above 0 for each.")
    total = math.fsum(weights)
    if abs(total - 1) > 1e-6:
        raise InputError(f"The weights {weights} sum to {total:g}, expected 1. Leave them out for equal weights.")
    return weights


def merged_weight(parts: list[Part], name: str) -> torch.Tensor:
    """
    Compute the weighted mean over the parts in float32; a weight that no part changes is copied exactly.

    Args:
        parts: the judges.
        name: name of the weight in the files.
    """
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


def _open_part(model: str, share: float, spec: JudgeSpec, onto: str, scratch: Path) -> Part:
    config = load_config(model)
    files = weights_of(base_of(model), config)
    if not is_adapter(model):
        return Part(share, files)
    if "loaded_in_8bit" in spec.training and onto == "trained":
        raise InputError(
            f"{model}: its base was in 8 bits in training, in which large activations use separate weights, so there "
            "are no weights to merge into. `--onto plain` uses the base as it is stored, which is another model."
        )
    four_bit, recorded = None, spec.training.get("loaded_in_4bit")
    if recorded and onto == "trained" and not isinstance(files, StoredIn4Bit):
        four_bit = LoadedIn4Bit(recorded, model, files)
        logger.info(f"{model}: its base is quantised to 4 bits as in training (--onto {onto}).")
    try:
        return Part(share, files, AdapterByShards(model, files), four_bit)
    except NotByShards as why:
        logger.warning(f"{model}: {why}, so the whole base is loaded into memory.")
        _merge_whole(model, Part(share, files, four_bit=four_bit), scratch)
        merged = WeightFiles(str(scratch))
        merged.model = model  # for messages
        return Part(share, merged)


def _merge_whole(model: str, base: Part, folder: Path) -> None:
    """Merge with PEFT in memory, into `folder`. A base in 4 bits is written there first."""
    folder.mkdir()
    name = base_of(model)
    if base.four_bit or isinstance(base.files, StoredIn4Bit):
        name = str(folder / "base")
        _write([base], folder / "base")
    adapted = with_adapter(load_model(name), name, model)
    if not hasattr(adapted.base_model, "merge_and_unload"):
        kind = adapted.active_peft_config.peft_type.value
        raise InputError(f"{model} is a {kind} adapter of PEFT, which does not change weights and cannot be merged.")
    merge_in_memory(adapted, model).save_pretrained(folder)


def _check_same_weights(parts: list[Part]) -> None:
    """Raise `InputError` if the files of two judges hold different tensors or shapes."""
    first = parts[0].files
    for other in (part.files for part in parts[1:]):
        if first.folder == other.folder:
            continue
        alone = first.file_of.keys() ^ other.file_of.keys()
        if alone:
            holder = first if min(alone) in first.file_of else other
            raise InputError(f"{first.model} and {other.model}: {min(alone)} is only in {holder.model}.")
        for name in first.file_of:
            if first.shape(name) != other.shape(name):
                raise InputError(
                    f"{name} is {first.shape(name)} in {first.model} and {other.shape(name)} in {other.model}; "
                    "weights of different shapes cannot be averaged."
                )


def _write(parts: list[Part], output: Path, text: TextPart | None = None) -> None:
    """
    Write the weights and the configuration, without a quantisation that the weights no longer have.

    With `text`, only the text model is written, in its own class.
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
