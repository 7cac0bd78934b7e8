"""
Convert GGUF files of llama.cpp to a model folder: weights dequantised once, with the tokenizer.

transformers reads a GGUF file with the package `gguf`. The loaded model is still marked as quantised, which
`save_pretrained` refuses, so these marks are removed.
"""

import contextlib
import hashlib
import logging
import os
import tempfile
from pathlib import Path

import torch
from huggingface_hub.constants import HF_HUB_CACHE
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from sft_judge.core.environment import install_command
from sft_judge.core.errors import InputError, one_line

MAGIC = b"GGUF"
logger = logging.getLogger(__name__)


def converted_gguf(file: Path) -> Path:
    """
    Return the folder that a GGUF file was converted to, and convert the file if needed.

    The folder is in the user's cache beside the Hub's, and its name depends only on the file's content. Raises
    `InputError` as `convert_gguf` does.
    """
    with open(file, "rb") as stream:
        content = hashlib.file_digest(stream, "sha256").hexdigest()
    folder = Path(HF_HUB_CACHE).parent / "sft_judge" / f"{file.stem}-{content[:16]}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            aside = Path(scratch) / folder.name
            aside.mkdir()
            lines = convert_gguf(file, aside)
            with contextlib.suppress(OSError):  # another process of the launch has already made the folder
                os.rename(aside, folder)
        logger.info("\n".join([*lines, f"-> {folder}"]))
    return folder


def convert_gguf(file: Path, folder: Path, dtype: str = "bfloat16") -> list[str]:
    """
    Write the model and the tokenizer of a GGUF file into a folder, as safetensors.

    Args:
        file: a GGUF file that is not split.
        folder: an existing, empty folder.
        dtype: dtype of the written weights. The weights of the file usually have fewer bits.

    Returns:
        Lines that describe what was written.

    Raises:
        InputError: `gguf` is not installed, the file is not a GGUF file or is damaged, or transformers does not read
            its architecture, quantisation or tokenizer.
    """
    try:
        import gguf
    except ModuleNotFoundError as error:
        raise InputError(
            f"{file}: reading GGUF files needs the package gguf: {install_command('pretrained')}"
        ) from error
    with open(file, "rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise InputError(f"{file}: not a GGUF file; its first bytes are not {MAGIC.decode()}.")
    place, name = str(Path(file).parent), Path(file).name
    try:
        kinds = sorted({tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors if tensor.n_elements > 1})
        tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=name)
        unpacked = GgufConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(
            place, gguf_file=name, dtype=getattr(torch, dtype), quantization_config=unpacked
        )
    except (OSError, ValueError, LookupError, RuntimeError) as error:  # raised by gguf and transformers
        raise InputError(f"{file}: transformers cannot read this GGUF file ({one_line(error)}).") from error
    model.hf_quantizer, model.is_quantized, model.quantization_method = None, False, None
    model.config.__dict__.pop("quantization_config", None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    count, template = model.num_parameters(), "a" if tokenizer.chat_template else "no"
    return [
        f"{name}: {type(model).__name__}, {count:,} parameters, {len(tokenizer):,} tokens, {template} chat template",
        f"weights: {', '.join(kinds)} dequantised to {dtype}; the precision lost by quantisation is not restored",
    ]
