"""
Test the HTTP server under load: 5,000 judgements for 64 concurrent clients, one battle per request.

The judge is tiny and random, so the server is measured, with its clients on the same cores. Each answer is compared
with the probabilities of `predict --engine vllm` for the battle with the same id. The result is the share of battles
that are answered once, with their own probabilities. The clients are `sft_judge.client`; rates and latencies are
printed on standard error.
"""

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measuring import serving

ROWS, CLIENTS = 5000, 64
ALIKE = 1e-5  # the same engine on the same tokens, in other batches


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        judge, rows = make_judge(Path(folder), ROWS)
        own = predicted(judge, Path(folder))
        with serving(judge) as (_, url):
            start = time.perf_counter()
            answers, waits = asyncio.run(ask(url, rows))
            seconds = time.perf_counter() - start
    seen = {answer["id"]: np.array([answer[name] for name in ("a", "b", "tie")]) for answer in answers}
    off = np.array([np.abs(seen[id_] - own[id_]).max() if id_ in seen else np.inf for id_ in own])
    right = float((off < ALIKE).mean()) if len(answers) == len(rows) else 0.0
    say(f"{len(rows)} battles, {len(answers)} answers, {len(seen)} ids; max |dp| against predict {off.max():.1e}")
    others = others_alike(np.array(list(own.values())))
    say(f"{others:.2%} of the battles have another whose probabilities are as near as {ALIKE}")
    percentiles = ", ".join(f"p{share} {np.percentile(waits, share):.3f} s" for share in (50, 95, 99))
    say(f"{CLIENTS} clients: {len(rows) / seconds:.0f} battles/s; {percentiles}")
    result = {"name": "serve: battles answered, each with its own", "ratio": right, "low": right, "high": right}
    print(json.dumps([{**result, "goal": ">= 1", "rounds": len(rows)}]))


def make_judge(folder: Path, num_rows: int, budget=(200, 200, 400), **size: int) -> tuple[Path, list[dict]]:
    """
    Write a calibrated judge with random weights, and synthetic battles.

    Args:
        folder: folder to write to.
        num_rows: number of battles.
        budget: tokens of a prompt, of a response, and in all.
        **size: `hidden` and `layers` of the model.

    Returns:
        Folder of the judge, and the battles, which are also in `battles.parquet`.
    """
    import torch

    from sft_judge.data.battles import FIELDS, battle_table, write_battles
    from sft_judge.data.synthetic.generator import generate_split
    from sft_judge.data.synthetic.preference_model import preset_settings
    from sft_judge.modeling.judge_spec import Budget, JudgeSpec, write_spec
    from sft_judge.modeling.loading import load_model, load_tokenizer
    from sft_judge.modeling.tiny_models import make_base, perturb_weights
    from sft_judge.prompts.prompt import JudgePrompt
    from sft_judge.prompts.templates import read_template

    rows = generate_split(
        preset_settings("easy", rows=num_rows, test_rows=1, shifted_rows=1, hostile=0.1), "train"
    ).rows
    write_battles(folder / "battles.parquet", battle_table(rows))
    template, words, budget = read_template("compact"), ["A", "B", "tie"], Budget(*budget)
    texts = [turn for row in rows[:500] for name in FIELDS for turn in row[name]]
    make_base(folder / "judge", "qwen2", [*texts, *[template] * 100], vocab=1200, positions=1024, **size)
    torch.manual_seed(0)
    model = load_model(str(folder / "judge"), "float32")
    perturb_weights(model)
    model.save_pretrained(folder / "judge")
    ids = JudgePrompt(load_tokenizer(str(folder / "judge")), template, words, budget).verdict_ids
    write_spec(folder / "judge", JudgeSpec(words, ids, template, budget, calibration={"temperature": 1.7}))
    return folder / "judge", [{name: row[name] for name in ("id", *FIELDS)} for row in rows]


def predicted(judge: Path, folder: Path) -> dict[str, np.ndarray]:
    """
    Return calibrated probabilities by id, from `predict` in a separate process.

    Args:
        judge: folder of the judge.
        folder: folder with `battles.parquet`.
    """
    import subprocess

    from sft_judge.data.probs import read_probs
    from sft_judge.inference.calibrated import calibrate_probs

    words = ["--model", judge, "--battles", folder / "battles.parquet", "--output", folder / "probs.parquet"]
    command = [sys.executable, "-m", "sft_judge", "predict", *map(str, words), "--engine", "vllm"]
    subprocess.run(command, stdout=sys.stderr, check=True)
    known = calibrate_probs(read_probs(folder / "probs.parquet"))
    return dict(zip(known.ids, known.probs, strict=True))


async def ask(url: str, rows: list[dict]) -> tuple[list[dict], list[float]]:
    """
    Send every battle once, each by the next free client.

    Args:
        url: address of the server.
        rows: battles.

    Returns:
        The answers in the order of arrival, and the seconds of each.
    """
    from sft_judge.client import AsyncJudgeClient

    left, answers, waits = iter(rows), [], []

    async def client():
        async with AsyncJudgeClient(url) as judge:
            for row in left:
                start = time.perf_counter()
                answers.extend(await judge.judge([row]))
                waits.append(time.perf_counter() - start)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return answers, waits


def others_alike(probs: np.ndarray) -> float:
    """Return the share of rows `[N, K]` with another row within ALIKE, for which a swapped answer goes unnoticed."""
    from scipy.spatial import cKDTree

    distance, _ = cKDTree(probs).query(probs, k=2, p=np.inf)
    return float((distance[:, 1] < ALIKE).mean())


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
