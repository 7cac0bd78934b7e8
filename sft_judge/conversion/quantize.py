"""
Quantise a judge with auto-round, calibrated on the judge's own prompts with their verdicts.

auto-round drops calibration rows shorter than `seqlen`, and judge prompts have all lengths. The prompts are therefore
concatenated and cut into rows of exactly `seqlen` token ids. They have the same token ids as in training.
"""

import logging
import math
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from sft_judge.core.choices import BITSANDBYTES_SCHEMES
from sft_judge.core.environment import install_command
from sft_judge.core.errors import InputError
from sft_judge.modeling.bnb import bitsandbytes
from sft_judge.modeling.judge_spec import read_spec, write_spec
from sft_judge.modeling.loading import is_multimodal, load_model, load_tokenizer
from sft_judge.prompts.prompt import JudgePrompt
from sft_judge.training.dataset import verdict_dataset

logger = logging.getLogger(__name__)

ROWS_PER_ROUND = 8  # calibration rows per round of tuning
ROUNDS_ON_A_CPU = 200  # with more rounds, tuning on a CPU takes hours, so a warning is logged
GROUP = 128  # default number of weights that share a scale
GROUPED_SCHEMES = ("W4A16", "W8A16")
STEP = 32  # auto-round leaves layers in 16 bits if their sizes are not multiples of this


@dataclass
class Tuning:
    """Store how a judge is quantised: the flags of `sft-judge quantize`. With `iters` 0 auto-round only rounds."""

    scheme: str = "W4A16"
    format: str = "auto_round"
    seqlen: int = 2048
    nsamples: int = 512
    iters: int = 1000
    seed: int = 42


def pack_sequences(sequences: list[list[int]], seqlen: int, num_samples: int) -> torch.Tensor:
    """
    Concatenate sequences and cut them into rows. The remainder, less than a row, is dropped.

    Args:
        sequences: token ids of each prompt.
        seqlen: number of tokens in a row.
        num_samples: maximum number of rows.

    Returns:
        Token ids [n, seqlen], n <= num_samples.

    Raises:
        InputError: the sequences do not fill one row.
    """
    joined = torch.tensor([token for sequence in sequences for token in sequence][: seqlen * num_samples])
    if len(joined) < seqlen:
        raise InputError(
            f"{len(joined)} tokens of calibration prompts do not fill one row of {seqlen}; give more battles."
        )
    return joined[: len(joined) // seqlen * seqlen].view(-1, seqlen)


def group_size_of(model) -> int:
    """
    Return the number of weights that share a scale: GROUP, or a smaller power of two that divides every layer's rows.

    auto-round also rounds rows with an incomplete group, but neither its own kernels nor vLLM's can read them.
    SmolLM2's layers are 576 and 1536 wide, so the group size is 64.
    """
    weights = [weight for weight in model.get_decoder().parameters() if weight.ndim > 1]  # experts have 3 dimensions
    sides = [weight.shape[-2:] for weight in weights if weight is not model.get_input_embeddings().weight]
    return math.gcd(GROUP, *(width for height, width in sides if not (height % STEP or width % STEP)))


def quantize_judge(model: str, battles: pa.Table, output: Path, tuning: Tuning) -> tuple[dict, set[str]]:
    """
    Quantise a judge into a folder, and write its judge.json without the calibration.

    Args:
        model: the judge's folder.
        battles: battles for the calibration prompts.
        output: folder to write into.
        tuning: settings. The seed draws the battles that fill `nsamples` rows, and is also auto-round's seed.

    Returns:
        Facts for the manifest, and the ids of the battles that were used for tuning.

    Raises:
        InputError: the judge cannot be quantised, or there are too few battles.
    """
    spec, tokenizer = read_spec(model), load_tokenizer(model)
    if tuning.scheme in BITSANDBYTES_SCHEMES:
        result, tuned_ids = {}, set()
        _bitsandbytes(model, tuning.scheme, output)
    else:
        result, tuned_ids = _auto_round(model, battles, JudgePrompt.of(tokenizer, spec), output, tuning)
    tokenizer.save_pretrained(output)
    spec.calibration = None  # the quantised copy needs its own calibration
    spec.training = {**spec.training, "quantized": asdict(tuning) | result}
    write_spec(output, spec, bind=True)
    return result, tuned_ids


def _bitsandbytes(model: str, scheme: str, output: Path) -> None:
    from transformers import BitsAndBytesConfig

    bitsandbytes()
    four_bit = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16"}
    config = BitsAndBytesConfig(**(four_bit if scheme == "NF4" else {"load_in_8bit": True}))
    load_model(model, "bfloat16", quantization_config=config).save_pretrained(output)


def _auto_round(model: str, battles: pa.Table, prompt: JudgePrompt, output: Path, tuning: Tuning):
    try:
        from auto_round import AutoRound
    except ModuleNotFoundError as error:
        raise InputError(f"auto-round is not installed: {install_command('quantize')}") from error

    if is_multimodal(model):
        raise InputError(
            f"{model}: the model is multimodal, for which auto-round needs an image processor. `sft-judge merge "
            f"{model} --output DIR` writes a text-only judge with the same probabilities; quantise that one."
        )
    seqlen = tuning.seqlen
    dataset, counts = verdict_dataset(battles, prompt, "both", seed=0)
    dataset = dataset.shuffle(seed=tuning.seed)
    rows = pack_sequences([ids for views in dataset["input_ids"] for ids in views], seqlen, tuning.nsamples)
    loaded = load_model(model)
    seqlen_limit = loaded.config.get_text_config().max_position_embeddings
    if seqlen > seqlen_limit:
        raise InputError(f"--seqlen is {seqlen}, but {model} has {seqlen_limit} positions.")
    starts = np.cumsum(dataset["length"]) - dataset["length"]
    tuned_ids = {id_ for id_, start in zip(dataset["id"], starts, strict=True) if start < rows.numel()}
    logger.info(f"calibration: {len(tuned_ids)} of {counts['rows']} battles -> {len(rows)} rows of {seqlen} tokens")
    if len(rows) < tuning.nsamples:
        logger.warning(
            f"all battles together fill {len(rows)} rows of {seqlen} tokens, but --nsamples is {tuning.nsamples}"
        )
    if tuning.iters > ROUNDS_ON_A_CPU and not torch.cuda.is_available():
        logger.warning(
            f"--iters {tuning.iters} iterations per block take hours without a GPU. Faster but slightly worse, in "
            "minutes: --iters 20 --seqlen 256 --nsamples 32"
        )
    groups = {"group_size": group_size_of(loaded)} if tuning.scheme in GROUPED_SCHEMES else {}
    if groups.get("group_size", GROUP) != GROUP:
        logger.info(f"group size {groups['group_size']}: {GROUP} does not divide the rows of {model}'s layers")
    rounder = AutoRound(
        loaded.to(torch.bfloat16),
        prompt.tokenizer,
        scheme=tuning.scheme,
        dataset=[{"input_ids": row[None], "attention_mask": torch.ones_like(row[None])} for row in rows],
        seqlen=seqlen,
        nsamples=len(rows),
        iters=tuning.iters,
        seed=tuning.seed,
        batch_size=min(ROWS_PER_ROUND, len(rows)),
        device_map=0 if torch.cuda.is_available() else "cpu",
        enable_torch_compile=torch.cuda.is_available(),
        **groups,
    )
    rounder.quantize_and_save(str(output), format=tuning.format)
    _flatten(output)
    return {"calibration_rows": len(rows), "calibration_battles": len(tuned_ids), **groups}, tuned_ids


def _flatten(output: Path) -> None:
    """Move auto-round's files from the subfolder that it names after the model into the judge's folder itself."""
    if (output / "config.json").is_file():
        return
    (inner,) = [folder for folder in output.iterdir() if (folder / "config.json").is_file()]
    for file in inner.iterdir():
        shutil.move(str(file), output / file.name)
    inner.rmdir()
