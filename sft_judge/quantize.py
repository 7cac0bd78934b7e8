"""
auto-round on the judge's own prompts, with their verdicts, packed so that none is dropped.

auto-round leaves out calibration rows shorter than `seqlen`, and judge prompts have all lengths: they are joined end
to end and cut into rows of exactly `seqlen` token ids, the ids that the judge was trained on.
"""

import shutil
from pathlib import Path

import pyarrow as pa
import torch

from sft_judge.errors import InputError
from sft_judge.models import load_model, load_tokenizer
from sft_judge.prompts import JudgePrompt
from sft_judge.spec import read_spec, write_spec
from sft_judge.training_data import verdict_dataset

SCHEMES = ("W4A16", "W8A16")
BATCH = 8  # calibration rows a round of tuning


def pack(sequences: list[list[int]], seqlen: int, num_samples: int) -> torch.Tensor:
    """Sequences joined end to end, as rows [n, seqlen], n <= num_samples. What is left over is less than a row."""
    joined = torch.tensor([token for sequence in sequences for token in sequence][: seqlen * num_samples])
    if len(joined) < seqlen:
        raise InputError(
            f"{len(joined)} tokens of calibration prompts do not fill one row of {seqlen}; give more battles."
        )
    return joined[: len(joined) // seqlen * seqlen].view(-1, seqlen)


def quantize_judge(
    model: str, battles: pa.Table, output: Path, scheme: str, seqlen: int, nsamples: int, iters: int, seed: int
) -> dict:
    """
    Quantise into the folder `output`, judge.json without its calibration; returns facts for the manifest.

    `seed` draws the battles that fill `nsamples` rows, and is auto-round's own.
    """
    try:
        from auto_round import AutoRound
    except ModuleNotFoundError as error:
        raise InputError("auto-round is not installed; take the extra: pip install 'sft-judge[quantize]'.") from error

    spec = read_spec(model)
    tokenizer = load_tokenizer(model)
    dataset, counts = verdict_dataset(battles, JudgePrompt.of(tokenizer, spec), "both", seed=0)
    dataset = dataset.shuffle(seed=seed)
    rows = pack([ids for views in dataset["input_ids"] for ids in views], seqlen, nsamples)
    loaded = load_model(model)
    seqlen_limit = loaded.config.get_text_config().max_position_embeddings
    if seqlen > seqlen_limit:
        raise InputError(f"--seqlen {seqlen}, but {model} has {seqlen_limit} positions.")
    print(f"calibration: {counts['rows']} battles -> {len(rows)} rows of {seqlen} tokens, none dropped")
    rounder = AutoRound(
        loaded.to(torch.bfloat16),
        tokenizer,
        scheme=scheme,
        dataset=[{"input_ids": row[None], "attention_mask": torch.ones_like(row[None])} for row in rows],
        seqlen=seqlen,
        nsamples=len(rows),
        iters=iters,
        seed=seed,
        batch_size=min(BATCH, len(rows)),
        device_map=0 if torch.cuda.is_available() else "cpu",
        enable_torch_compile=torch.cuda.is_available(),
    )
    rounder.quantize_and_save(str(output), format="auto_round")
    _flatten(output)
    tokenizer.save_pretrained(output)
    spec.calibration = None  # the quantised copy is calibrated anew
    spec.training = {
        **spec.training,
        "quantized": {"scheme": scheme, "seqlen": seqlen, "rows": len(rows), "iters": iters, "seed": seed},
    }
    write_spec(output, spec)
    return {"calibration_rows": len(rows), "calibration_battles": counts["rows"]}


def _flatten(output: Path) -> None:
    """auto-round writes into a sub-folder named after the model; a judge is the folder itself."""
    if (output / "config.json").is_file():
        return
    (inner,) = [folder for folder in output.iterdir() if (folder / "config.json").is_file()]
    for file in inner.iterdir():
        shutil.move(str(file), output / file.name)
    inner.rmdir()
