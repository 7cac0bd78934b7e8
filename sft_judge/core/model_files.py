"""
A model folder as files: whether it holds an adapter, which base that stands on, and the hashes that identify both.

An adapter's numbers are those of its base too. So `adapter_config.json` names the base by its whole path, or by its
hub id and commit, and judge.json keeps the way from the one folder to the other and the base's hash: `base_of` finds
a base that was moved together with its adapter, and refuses another one.
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
BASE, REVISION = "base_model_name_or_path", "revision"  # what PEFT calls them
# files by which a judge's numbers go, beside its weights
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
TOKENIZER_FILES += ("chat_template.jinja", "tokenizer.model", "vocab.json", "merges.txt")
WHOLE_BYTES = 64 * 2**20  # a file of weights up to this size is hashed whole
SAMPLES, SAMPLE_BYTES = 64, 2**16  # of a larger one: its header and so many pieces
_SNAPSHOT = re.compile(r".*/models--([^/]+)/snapshots/([0-9a-f]{40})/?")  # a folder of the hub's cache
_VOLATILE = ("_name_or_path", "transformers_version")  # keys of config.json that change nothing


def is_adapter(model: str | Path) -> bool:
    """Whether a folder holds a PEFT adapter rather than whole weights."""
    return (Path(model) / ADAPTER).is_file()


def is_local(model: str | Path) -> bool:
    """Whether a name is that of a folder, there or not, rather than a hub id."""
    return Path(model).exists() or str(model).startswith((".", "/", "~")) or str(model).count("/") > 1


def name_of(model: str | Path) -> str:
    """A model as people name it: `ID@COMMIT` for a folder in the hub's cache, any other folder by its path."""
    snapshot = _SNAPSHOT.fullmatch(Path(model).absolute().as_posix())
    return f"{snapshot[1].replace('--', '/')}@{snapshot[2]}" if snapshot else str(model)


def read_adapter_config(folder: str | Path) -> dict:
    """
    Read an adapter's adapter_config.json.

    Raises:
        InputError: the file is no JSON object or names no base, or the weights beside it are missing or pickled.
    """
    file = Path(folder) / ADAPTER
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not valid JSON ({error}). Copy the adapter again.") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("peft_type"), str):
        raise InputError(f"{file}: not the configuration of a PEFT adapter, it has no peft_type. Copy it again.")
    if not isinstance(fields.get(BASE), str) or not fields[BASE]:
        raise InputError(f"{file}: {BASE} is {fields.get(BASE)!r}, expected the folder or hub id of the base model.")
    if not (Path(folder) / ADAPTER_WEIGHTS).is_file():
        pickled = (Path(folder) / "adapter_model.bin").is_file()
        why = (
            "adapter_model.bin is pickled, which is never opened; save it again with PEFT" if pickled else "not there"
        )
        raise InputError(f"{Path(folder) / ADAPTER_WEIGHTS}: {why}. An adapter is read from this file alone.")
    return fields


def base_of(model: str | Path) -> str:
    """
    The base that an adapter stands on, or the model itself.

    Returns:
        A folder, or a hub id.

    Raises:
        InputError: the adapter's files are damaged, or its base is not here, or another model stands in its place.
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
                f"{model}: its adapter stands on {name}, which is not here. Put the base there, or name its place as "
                f"{BASE} in {ADAPTER}."
            )
        return name
    if recorded.get("weights") not in (None, weights_hash(folder)):
        raise InputError(
            f"{model}: its adapter was trained on another base than {folder}: weights or config.json differ. "
            f"Name the right folder as {BASE} in {Path(model) / ADAPTER}, or train again."
        )
    return str(folder.resolve() if relative else folder)


def revision_of(model: str | Path) -> str | None:
    """The commit of the hub at which an adapter's base was loaded; None for a base in a folder."""
    return read_adapter_config(model).get(REVISION) if is_adapter(model) else None


def describe_base(base: str | Path, judge: Path, weights: str, commit: str | None = None) -> dict:
    """
    What judge.json keeps of the base of an adapter.

    Args:
        base: the folder of its weights.
        judge: the folder that the adapter will stand in.
        weights: hash of the weights that were loaded.
        commit: of the hub, where the base was loaded from there.
    """
    place = {"commit": commit} if commit else {"relative": os.path.relpath(Path(base).resolve(), judge.resolve())}
    return {**place, "weights": weights}


def base_hash(adapter: str | Path) -> str:
    """The hash of an adapter's base, or its hub id and commit; "missing" where it is neither."""
    try:
        base = base_of(adapter)
        return weights_hash(base) if Path(base).is_dir() else f"{base}@{revision_of(adapter)}"
    except InputError:
        return "missing"


def weights_hash(folder: str | Path) -> str:
    """
    SHA-256 over a model's weights and config.json, cheap enough to ask for at every load.

    Of a file above 64 MiB the header and 64 pieces of 64 KiB are read: training changes every piece of a weight.
    """
    digest = hashlib.sha256()
    for file in sorted(Path(folder).glob("*.safetensors")):
        digest.update(f"{file.name}\0".encode() + _sampled(file))
    config = Path(folder) / "config.json"
    if config.is_file():
        digest.update(json_hash(config, _VOLATILE))
    return digest.hexdigest()


def judge_hash(folder: str | Path) -> str:
    """
    SHA-256 over all by which a judge's raw probabilities go: weights, base, tokenizer, chat template, judge.json.

    Its calibration is left out, as it acts on them afterwards, and so is the place of the folder and of its base.
    """
    folder = Path(folder)
    digest = hashlib.sha256("".join(describe_parts(folder).values()).encode())
    digest.update(str(_recorded_base(folder).get("weights")).encode())
    digest.update(json_hash(folder / JUDGE, ("calibration", "base")))
    return digest.hexdigest()


def describe_parts(folder: str | Path) -> dict[str, str]:
    """Hashes that bind judge.json to the files beside it: `weights`, with an adapter's settings, and `tokenizer`."""
    folder, tokenizer = Path(folder), hashlib.sha256()
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            tokenizer.update(name.encode() + _sampled(folder / name))
    settings = json_hash(folder / ADAPTER, (BASE, REVISION)).hex() if is_adapter(folder) else ""
    weights = hashlib.sha256((weights_hash(folder) + settings).encode())
    return {"weights": weights.hexdigest(), "tokenizer": tokenizer.hexdigest()}


def check_parts(folder: str | Path) -> None:
    """Raise `InputError` where a judge's weights or tokenizer are not those that its judge.json was written with."""
    recorded = _read_judge(folder).get("parts")
    now = describe_parts(folder) if isinstance(recorded, dict) else {}
    for name, value in now.items():
        if value != recorded.get(name):
            raise InputError(
                f"{folder}: its {name} changed since {JUDGE} was written. Copy the judge again, or, where the change "
                f"is meant, take `parts` out of {JUDGE}."
            )


def _recorded_base(model: str | Path) -> dict:
    """What judge.json says of an adapter's base; empty for an adapter that is no judge, or that an older one made."""
    recorded = _read_judge(model).get("base")
    return recorded if isinstance(recorded, dict) else {}


def _read_judge(folder: str | Path) -> dict:
    """The fields of judge.json; empty where it cannot be read, of which `read_spec` says what is wrong."""
    try:
        fields = json.loads((Path(folder) / JUDGE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return fields if isinstance(fields, dict) else {}


def json_hash(file: Path, left_out: tuple[str, ...]) -> bytes:
    """SHA-256 of a JSON file's keys and values, some of them left out."""
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:  # who loads it says so
        return hashlib.sha256(file.read_bytes()).digest()
    kept = {key: value for key, value in fields.items() if key not in left_out} if isinstance(fields, dict) else fields
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).digest()


def _sampled(path: Path) -> bytes:
    status = path.stat()
    return _sampled_once(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _sampled_once(path: Path, size: int, mtime_ns: int) -> bytes:
    """A file of so many bytes and this time is read once a process."""
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
