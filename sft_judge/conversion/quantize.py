"""
A judge in fewer bits: auto-round on its own prompts, with their verdicts, packed so that none is dropped.

auto-round leaves out calibration rows shorter than `seqlen`, and judge prompts have all lengths: they are joined end
to end and cut into rows of exactly `seqlen` token ids, the ids that the judge was trained on.
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

ROWS_PER_ROUND = 8  # calibration rows a round of tuning
ROUNDS_ON_A_CPU = 200  # of 8 rows of 256 tokens take a layer of SmolLM2's 80 s on two cores
GROUP = 128  # weights that share a scale, where that can be
GROUPED_SCHEMES = ("W4A16", "W8A16")
STEP = 32  # a layer whose sides are no multiples of it stays in 16 bits, by auto-round's rule


@dataclass
class Tuning:
    """How a judge is quantised, as the flags of `sft-judge quantize`; with 0 `iters` auto-round rounds and no more."""

    scheme: str = "W4A16"
    format: str = "auto_round"
    seqlen: int = 2048
    nsamples: int = 512
    iters: int = 1000
    seed: int = 42


def pack_sequences(sequences: list[list[int]], seqlen: int, num_samples: int) -> torch.Tensor:
    """Sequences joined end to end, as rows [n, seqlen], n <= num_samples. What is left over is less than a row."""
    joined = torch.tensor([token for sequence in sequences for token in sequence][: seqlen * num_samples])
    if len(joined) < seqlen:
        raise InputError(
            f"{len(joined)} tokens of calibration prompts do not fill one row of {seqlen}; give more battles."
        )
    return joined[: len(joined) // seqlen * seqlen].view(-1, seqlen)


def group_size_of(model) -> int:
    """
    How many weights share a scale: GROUP, or the power of two below it that divides the rows of every layer.

    auto-round rounds rows with a part of a group too, but neither its own kernels nor vLLM's read them: SmolLM2's are
    576 and 1536 wide, and take 64.
    """
    weights = [weight for weight in model.get_decoder().parameters() if weight.ndim > 1]  # experts' have three sides
    sides = [weight.shape[-2:] for weight in weights if weight is not model.get_input_embeddings().weight]
    return math.gcd(GROUP, *(width for height, width in sides if not (height % STEP or width % STEP)))


def quantize_judge(model: str, battles: pa.Table, output: Path, tuning: Tuning) -> tuple[dict, set[str]]:
    """
    Quantise into the folder `output`, judge.json without its calibration.

    The tuning's seed draws the battles that fill `nsamples` rows, and is auto-round's own.

    Returns:
        Facts for the manifest, and the ids of the battles that it was tuned on.
    """
    spec, tokenizer = read_spec(model), load_tokenizer(model)
    if tuning.scheme in BITSANDBYTES_SCHEMES:
        result, tuned_ids = {}, set()
        _bitsandbytes(model, tuning.scheme, output)
    else:
        result, tuned_ids = _auto_round(model, battles, JudgePrompt.of(tokenizer, spec), output, tuning)
    tokenizer.save_pretrained(output)
    spec.calibration = None  # the quantised copy is calibrated anew
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
            f"{model}: its class also takes images, for which auto-round asks. `sft-judge merge {model} --output DIR` "
            "makes one of the text's class, with the same probabilities; quantise that."
        )
    seqlen = tuning.seqlen
    dataset, counts = verdict_dataset(battles, prompt, "both", seed=0)
    dataset = dataset.shuffle(seed=tuning.seed)
    rows = pack_sequences([ids for views in dataset["input_ids"] for ids in views], seqlen, tuning.nsamples)
    loaded = load_model(model)
    seqlen_limit = loaded.config.get_text_config().max_position_embeddings
    if seqlen > seqlen_limit:
        raise InputError(f"--seqlen {seqlen}, but {model} has {seqlen_limit} positions.")
    starts = np.cumsum(dataset["length"]) - dataset["length"]
    tuned_ids = {id_ for id_, start in zip(dataset["id"], starts, strict=True) if start < rows.numel()}
    logger.info(f"calibration: {len(tuned_ids)} of {counts['rows']} battles -> {len(rows)} rows of {seqlen} tokens")
    if len(rows) < tuning.nsamples:
        logger.warning(
            f"all of the battles fill {len(rows)} rows of {seqlen} tokens, and --nsamples {tuning.nsamples}"
        )
    if tuning.iters > ROUNDS_ON_A_CPU and not torch.cuda.is_available():
        logger.warning(
            f"--iters {tuning.iters} are rounds for each layer, which take hours without a GPU. In minutes, and "
            "somewhat worse: --iters 20 --seqlen 256 --nsamples 32"
        )
    groups = {"group_size": group_size_of(loaded)} if tuning.scheme in GROUPED_SCHEMES else {}
    if groups.get("group_size", GROUP) != GROUP:
        logger.info(f"groups of {groups['group_size']} weights: {GROUP} do not divide the rows of {model}'s layers")
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
    """auto-round writes into a sub-folder named after the model; a judge is the folder itself."""
    if (output / "config.json").is_file():
        return
    (inner,) = [folder for folder in output.iterdir() if (folder / "config.json").is_file()]
    for file in inner.iterdir():
        shutil.move(str(file), output / file.name)
    inner.rmdir()
