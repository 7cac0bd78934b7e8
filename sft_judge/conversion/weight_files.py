"""Read a model's safetensors files tensor by tensor, and write them shard by shard."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from sft_judge.core.errors import InputError
from sft_judge.core.files import write_json
from sft_judge.core.progress import Progress
from sft_judge.modeling.hub import hub_folder
from sft_judge.modeling.loading import check_weights


class WeightFiles:
    """
    Read the tensors of a model by their names in its files; `file_of` gives the file of each tensor.

    A file is open only while one tensor is read, because the pages of a mapped file count as memory while it is open.

    Args:
        model: folder or Hub id.

    Raises:
        InputError: there are no safetensors, or a file is missing or truncated.
    """

    def __init__(self, model: str):
        self.model = model
        self.folder = Path(model) if Path(model).is_dir() else hub_folder(model)
        index, single = self.folder / SAFE_WEIGHTS_INDEX_NAME, self.folder / SAFE_WEIGHTS_NAME
        if index.is_file():
            self.file_of = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        elif single.is_file():
            check_weights([single])
            with safe_open(single, "pt") as file:
                self.file_of = dict.fromkeys(file.keys(), SAFE_WEIGHTS_NAME)
        else:
            raise InputError(f"{model}: no weights found; expected {SAFE_WEIGHTS_NAME} or {SAFE_WEIGHTS_INDEX_NAME}.")
        missing = sorted(file for file in set(self.file_of.values()) if not (self.folder / file).is_file())
        if missing:
            raise InputError(f"{index}: it names {missing[0]}, which is missing. Copy the model again.")
        check_weights(self.folder / file for file in set(self.file_of.values()))

    def shards(self) -> dict[str, list[str]]:
        """Return the names of the tensors in each file."""
        shards: dict[str, list[str]] = {}
        for name, file in self.file_of.items():
            shards.setdefault(file, []).append(name)
        return shards

    def read(self, name: str) -> torch.Tensor:
        """Read one tensor as it is stored."""
        with safe_open(self._file(name), "pt") as file:
            return file.get_tensor(name)

    def shape(self, name: str) -> list[int]:
        """Read the shape of a tensor from the file's header."""
        with safe_open(self._file(name), "pt") as file:
            return file.get_slice(name).get_shape()

    def _file(self, name: str) -> Path:
        return self.folder / self.file_of[name]


def write_shards(
    like: WeightFiles, output: Path, tensor_of: Callable[[str], torch.Tensor], names: dict[str, str] | None = None
) -> None:
    """
    Write tensors into the same files as in `like`, with one file in memory at a time.

    Args:
        like: the files to imitate.
        output: folder to write into.
        tensor_of: returns the tensor to write for a name in `like`.
        names: new name of each tensor to write; by default all tensors with their names.
    """
    called = names or {name: name for name in like.file_of}
    total = 0
    with Progress("merging", len(called), "tensors") as progress:
        for file, stored in like.shards().items():
            tensors = {}
            for name in filter(called.__contains__, stored):
                tensors[called[name]] = tensor_of(name).contiguous()
                progress.add()
            if not tensors:
                continue
            total += sum(tensor.nbytes for tensor in tensors.values())
            save_file(tensors, output / file, metadata={"format": "pt"})
            del tensors
    if (like.folder / SAFE_WEIGHTS_INDEX_NAME).is_file():
        where = {called[name]: file for name, file in like.file_of.items() if name in called}
        write_json(output / SAFE_WEIGHTS_INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": where})
