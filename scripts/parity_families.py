"""
Compare transformers with vLLM for each model family with a recipe: `python scripts/parity_families.py [MODEL...]`.

Each model is tiny, with the real class and chat template, and with random weights that are large enough for
probabilities to differ between battles. `untrained` makes it a judge, `merge` converts it to the class that engines
load, and `verify` compares the engines in float32 and bfloat16. With --w4a16, a judge quantised by auto-round is
compared as well. Prints a table, with refusals in place of numbers.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

FAMILIES = (
    *("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen3-8B", "google/gemma-2-9b-it", "google/gemma-3-12b-it"),
    *("meta-llama/Llama-3.3-70B-Instruct", "microsoft/phi-4", "mistralai/Mistral-Small-24B-Instruct-2501"),
)


def stir_weights(folder: Path) -> None:
    import torch

    from sft_judge.modeling.loading import load_model
    from sft_judge.modeling.tiny_models import perturb_weights

    torch.manual_seed(0)
    model = load_model(str(folder), "float32")
    perturb_weights(model)
    model.save_pretrained(folder)


def judge(*words) -> str:
    """Return the output of a command, or the last line of its errors if it fails."""
    done = subprocess.run([sys.executable, "-m", "sft_judge", *map(str, words)], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else "refused: " + done.stderr.strip().splitlines()[-1]


def figures(said: str) -> str:
    """Return `max |Δp|, flips` from the output of `verify`, or its refusal."""
    found = re.findall(r"max \|Δp\| (\S+), .*? (\d+ of \d+) verdicts flip", said)
    return "; ".join(f"{most}, {flips}" for most, flips in found) or said.strip().splitlines()[-1][:160]


def main(models: list[str], rows: int, w4a16: bool) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        judge("plant", "--rows", 400, "--test-rows", rows, "--shifted-rows", 1, "--output", folder / "planted")
        for name in ("train", "test"):
            judge("import", folder / "planted" / f"{name}.csv", "--output", folder / f"{name}.parquet")
        for number, model in enumerate(models):
            own = folder / str(number)
            judge("base", "--like", model, "--output", own / "base")
            stir_weights(own / "base")
            judge("untrained", own / "base", "--total-budget", 512, "--output", own / "untrained")
            judge("merge", own / "untrained", "--output", own / "judge")
            seen = {}
            for dtype in ("float32", "bfloat16"):
                words = ["--battles", folder / "test.parquet", "--engines", "transformers,vllm", "--dtype", dtype]
                seen[dtype] = figures(judge("verify", own / "judge", *words))
            if w4a16:
                made = ["--battles", folder / "train.parquet", "--seqlen", 256, "--nsamples", 32, "--iters", 20]
                said = judge("quantize", "--model", own / "judge", *made, "--gate", 0, "--output", own / "w4a16")
                words = ["--battles", folder / "test.parquet", "--engines", "transformers,vllm"]
                seen["W4A16"] = said if said.startswith("refused") else figures(judge("verify", own / "w4a16", *words))
            print(f"| {model} | " + " | ".join(seen.values()) + " |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=FAMILIES, help="models (one of each family)")
    parser.add_argument("--rows", type=int, default=60, help="battles to compare on (60)")
    parser.add_argument("--w4a16", action="store_true", help="also compare a judge in 4 bits")
    args = parser.parse_args()
    main(args.models, args.rows, args.w4a16)
