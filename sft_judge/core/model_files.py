"""
Files of a model folder: adapters, their base models, and the hashes that identify both.

An adapter's outputs depend on its base. Therefore `adapter_config.json` names the base by its absolute path, or by its
Hub id and commit, and judge.json stores the relative path from the adapter to the base and the base's hash. `base_of`
finds a base that was moved together with its adapter, and rejects a different base.
"""

import functools
import hashlib
import json
import os
import re
import struct
from pathlib import Path

from sft_judge.core.errors import InputError

ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
JUDGE, TRAINING_LOG = "judge.json", "trainer_log.json"
BASE, REVISION = "base_model_name_or_path", "revision"  # PEFT's keys
# files that a judge's outputs depend on, besides its weights
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
TOKENIZER_FILES += ("chat_template.jinja", "tokenizer.model", "vocab.json", "merges.txt")
WHOLE_BYTES = 64 * 2**20  # weight files up to this size are hashed completely
SAMPLES, SAMPLE_BYTES = 64, 2**16  # number and size of the samples that are hashed of larger files, with the header
_SNAPSHOT = re.compile(r".*/models--([^/]+)/snapshots/([0-9a-f]{40})/?")  # a folder in the Hub's cache
_VOLATILE = ("_name_or_path", "transformers_version")  # keys of config.json that do not affect the model


def is_adapter(model: str | Path) -> bool:
    """Return True if a folder holds a PEFT adapter instead of full weights."""
    return (Path(model) / ADAPTER).is_file()


def is_local(model: str | Path) -> bool:
    """Return True if a name is a folder, existing or not, and not a Hub id."""
    return Path(model).exists() or str(model).startswith((".", "/", "~")) or str(model).count("/") > 1


def name_of(model: str | Path) -> str:
    """Return a model's display name: `ID@COMMIT` for a folder in the Hub's cache, the path for any other folder."""
    snapshot = _SNAPSHOT.fullmatch(Path(model).absolute().as_posix())
    return f"{snapshot[1].replace('--', '/')}@{snapshot[2]}" if snapshot else str(model)


def read_adapter_config(folder: str | Path) -> dict:
    """
    Read an adapter's adapter_config.json.

    Raises:
        InputError: the file is not a JSON object or names no base, or the weights next to it are missing or pickled.
    """
    file = Path(folder) / ADAPTER
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not valid JSON ({error}). Copy the adapter again.") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("peft_type"), str):
        raise InputError(f"{file}: not a PEFT adapter's configuration, because peft_type is missing. Copy it again.")
    if not isinstance(fields.get(BASE), str) or not fields[BASE]:
        raise InputError(f"{file}: {BASE} is {fields.get(BASE)!r}, expected the folder or Hub id of the base model.")
    if not (Path(folder) / ADAPTER_WEIGHTS).is_file():
        pickled = (Path(folder) / "adapter_model.bin").is_file()
        why = "adapter_model.bin is pickled, which is never opened; save it again with PEFT" if pickled else "missing"
        raise InputError(f"{Path(folder) / ADAPTER_WEIGHTS}: {why}. Adapters are only read from this file.")
    return fields


def base_of(model: str | Path) -> str:
    """
    Return the base model of an adapter, or the model itself, as a folder or Hub id.

    Raises:
        InputError: the adapter's files are damaged, its base is missing, or its base is a different model.
    """
    if not is_adapter(model):
        return str(model)
    fields, recorded = read_adapter_config(model), _recorded_base(model)
    name, relative = fields[BASE], recorded.get("relative")
    places = [Path(name), *([Path(model).resolve() / relative] if relative else [])]
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        if is_local(name) or relative:
            raise InputError(
                f"{model}: the adapter's base model {name} is missing. Put the base model there, or set its path as "
                f"{BASE} in {ADAPTER}."
            )
        return name
    if recorded.get("weights") not in (None, weights_hash(folder)):
        raise InputError(
            f"{model}: its adapter was trained on another base than {folder}: weights or config.json differ. "
            f"Set the right folder as {BASE} in {Path(model) / ADAPTER}, or train again."
        )
    return str(folder.resolve() if relative else folder)


def revision_of(model: str | Path) -> str | None:
    """Return the Hub commit of an adapter's base, or None if the base is a folder."""
    return read_adapter_config(model).get(REVISION) if is_adapter(model) else None


def describe_base(base: str | Path, judge: Path, weights: str, commit: str | None = None) -> dict:
    """
    Build the entry of judge.json for an adapter's base.

    Args:
        base: folder of the base's weights.
        judge: final folder of the adapter.
        weights: hash of the loaded weights.
        commit: Hub commit, if the base was loaded from the Hub.
    """
    place = {"commit": commit} if commit else {"relative": os.path.relpath(Path(base).resolve(), judge.resolve())}
    return {**place, "weights": weights}


def base_hash(adapter: str | Path) -> str:
    """Return the hash of an adapter's base, its Hub id and commit if it is not local, or "missing"."""
    try:
        base = base_of(adapter)
        return weights_hash(base) if Path(base).is_dir() else f"{base}@{revision_of(adapter)}"
    except InputError:
        return "missing"


def check_is_file(file: Path) -> None:
    """Raise `InputError` if a file of a model is a link to nothing or a folder."""
    if not file.is_file():
        what = f"a link to {os.readlink(file)}, which is missing" if file.is_symlink() else "not a file"
        raise InputError(f"{file}: {what}. Copy the model again.")


def weights_hash(folder: str | Path) -> str:
    """
    Compute a SHA-256 of a model's weights and config.json that is cheap enough for every load.

    Of a file above 64 MiB only the header and 64 pieces of 64 KiB are read, because training changes every piece of a
    weight.

    Raises:
        InputError: a weight file is not a file.
    """
    digest = hashlib.sha256()
    for file in sorted(Path(folder).glob("*.safetensors")):
        check_is_file(file)
        digest.update(f"{file.name}\0".encode() + _sampled(file))
    config = Path(folder) / "config.json"
    if config.is_file():
        digest.update(json_hash(config, _VOLATILE))
    return digest.hexdigest()


def judge_hash(folder: str | Path) -> str:
    """
    Compute a SHA-256 of everything that a judge's raw probabilities depend on.

    It covers weights, base, tokenizer, chat template and judge.json. Left out are the calibration, which is applied to
    the raw probabilities, and the paths of the folder and its base.
    """
    folder = Path(folder)
    digest = hashlib.sha256("".join(describe_parts(folder).values()).encode())
    digest.update(str(_recorded_base(folder).get("weights")).encode())
    digest.update(json_hash(folder / JUDGE, ("calibration", "base")))
    return digest.hexdigest()


def describe_parts(folder: str | Path) -> dict[str, str]:
    """
    Compute the hashes that bind judge.json to its folder: `weights` (with an adapter's settings) and `tokenizer`.
    """
    folder, tokenizer = Path(folder), hashlib.sha256()
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            tokenizer.update(name.encode() + _sampled(folder / name))
    settings = json_hash(folder / ADAPTER, (BASE, REVISION)).hex() if is_adapter(folder) else ""
    weights = hashlib.sha256((weights_hash(folder) + settings).encode())
    return {"weights": weights.hexdigest(), "tokenizer": tokenizer.hexdigest()}


def check_parts(folder: str | Path) -> None:
    """
    Check that a judge's weights and tokenizer have not changed since its judge.json was written.

    Raises:
        InputError: the weights or the tokenizer changed.
    """
    recorded = _read_judge(folder).get("parts")
    now = describe_parts(folder) if isinstance(recorded, dict) else {}
    for name, value in now.items():
        if value != recorded.get(name):
            raise InputError(
                f"{folder}: its {name} changed since {JUDGE} was written. Copy the judge again or, if the change "
                f"is intended, remove `parts` from {JUDGE}."
            )


def _recorded_base(model: str | Path) -> dict:
    """Return the entry of judge.json for an adapter's base; empty for an adapter without such an entry."""
    recorded = _read_judge(model).get("base")
    return recorded if isinstance(recorded, dict) else {}


def _read_judge(folder: str | Path) -> dict:
    """Return the fields of judge.json, or an empty dict if it cannot be read; `read_spec` reports the error."""
    try:
        fields = json.loads((Path(folder) / JUDGE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return fields if isinstance(fields, dict) else {}


def json_hash(file: Path, left_out: tuple[str, ...]) -> bytes:
    """
    Compute a SHA-256 of a JSON file's keys and values.

    Args:
        file: the file.
        left_out: keys to leave out.
    """
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:  # the error is reported when the file is loaded
        return hashlib.sha256(file.read_bytes()).digest()
    kept = {key: value for key, value in fields.items() if key not in left_out} if isinstance(fields, dict) else fields
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).digest()


def _sampled(path: Path) -> bytes:
    status = path.stat()
    return _sampled_once(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _sampled_once(path: Path, size: int, mtime_ns: int) -> bytes:
    """Hash a file, once per process for each size and modification time."""
    digest = hashlib.sha256(struct.pack("<Q", size))
    with open(path, "rb") as file:
        if size <= WHOLE_BYTES:
            digest.update(hashlib.file_digest(file, "sha256").digest())
            return digest.digest()
        header = min(struct.unpack("<Q", file.read(8))[0], WHOLE_BYTES)
        digest.update(file.read(header))
        for piece in range(SAMPLES):
            file.seek(8 + header + (size - 8 - header - SAMPLE_BYTES) * piece // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.digest()
