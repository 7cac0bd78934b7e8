"""
Measure how import, prepare and audit scale with the number of battles: seconds and peak memory, from the manifests.

    python scripts/scale.py 100000 300000 1000000

Battles of about 3 kB are made of random words with frequencies as in a language. One prompt in fifty is a
near-duplicate of an earlier prompt, and one battle in a hundred is a near-duplicate of an earlier battle. A million
battles need 7 GB of disk.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from sft_judge.core.manifest import manifest_path

NUM_WORDS = {"prompt": 45, "response_a": 170, "response_b": 170}
SOURCES, VERDICTS = ("arena", "cup", "set"), ("a", "b", "tie", None)


def random_words(seed: int, size: int) -> np.ndarray:
    """
    Return different words of 2 to 9 letters.

    Args:
        seed: seed of the draw.
        size: number of words.
    """
    draw = np.random.default_rng(seed)
    letters = np.array(list("etaoinshrdlucmfwypvbgkqjxz"))
    return np.array(["".join(draw.choice(letters, draw.integers(2, 10))) + str(i % 7) for i in range(size)])


def write_rows(path: Path, num_rows: int) -> None:
    """
    Write battles as JSONL.

    Args:
        path: file to write.
        num_rows: number of battles.
    """
    draw = np.random.default_rng(0)
    words = random_words(0, 50_000)
    shares = 1 / (10 + np.arange(len(words)))  # Zipf's law
    cumulative = np.cumsum(shares / shares.sum())
    earlier = []
    with open(path, "w", encoding="utf-8") as file:
        for number in range(num_rows):
            texts = {}
            for name, count in NUM_WORDS.items():
                places = np.searchsorted(cumulative, draw.random(count))
                texts[name] = words[np.minimum(places, len(words) - 1)]
            copied = draw.random()
            if earlier and copied < 0.02:
                texts["prompt"] = with_one_changed(earlier[draw.integers(len(earlier))]["prompt"], draw)
            if earlier and copied < 0.01:
                texts = {name: with_one_changed(text, draw) for name, text in earlier[-1].items()}
            if number % 1000 == 0:
                earlier.append(texts)
            row = {name: [" ".join(text)] for name, text in texts.items()}
            row |= {"id": f"row-{number}", "verdict": VERDICTS[draw.integers(4)], "source": SOURCES[draw.integers(3)]}
            file.write(json.dumps(row) + "\n")


def with_one_changed(text: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Return a text with one random word replaced; `draw` is the random generator."""
    text = text.astype(object)
    text[draw.integers(len(text))] = "changed"
    return text


def measure(folder: Path, num_rows: int) -> list[dict]:
    """
    Run the stages, and return time and memory of each from its manifest.

    Args:
        folder: folder to work in.
        num_rows: number of battles.
    """
    source = folder / "rows.jsonl"
    write_rows(source, num_rows)
    battles, ready, audit = folder / "battles.parquet", folder / "prepared.parquet", folder / "audit"
    added = ["--language", "--dedup", "near", "--order", "balanced"]
    stages = {
        "import": (["import", str(source), "--output", str(battles)], battles),
        "prepare": (["prepare", str(battles), "--output", str(ready), *added], ready),
        "audit": (["audit", str(ready), "--output", str(audit)], audit),
    }
    found = []
    for stage, (words, output) in stages.items():
        subprocess.run([sys.executable, "-m", "sft_judge", *words], check=True, stdout=subprocess.DEVNULL)
        manifest = json.loads(manifest_path(output).read_text())
        found.append({"rows": num_rows, "stage": stage, **{k: manifest[k] for k in ("seconds", "peak_memory_mb")}})
    size = source.stat().st_size / num_rows
    print(f"{num_rows:,} rows of {size:,.0f} bytes", flush=True)
    for row in found:
        rate = num_rows / row["seconds"]
        print(
            f"  {row['stage']:<8} {row['seconds']:8.1f} s  {rate:8,.0f} rows/s  {row['peak_memory_mb']:7,.0f} MB",
            flush=True,
        )
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=int, nargs="+", help="numbers of battles")
    parser.add_argument("--folder", type=Path, help="folder for the files (a temporary folder)")
    args = parser.parse_args()
    for num_rows in args.rows:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            measure(Path(folder), num_rows)


if __name__ == "__main__":
    main()
