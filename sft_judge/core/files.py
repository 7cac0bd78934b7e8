"""
Atomic writes of files and folders, and hashes that detect changes.

Everything is written to a temporary path next to its destination and then renamed. A killed process leaves the old
version or the new version, never a partial one.
"""

import errno
import functools
import hashlib
import json
import os
import shutil
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sft_judge.core.errors import InputError
from sft_judge.core.model_files import ADAPTER, BASE, JUDGE, TRAINING_LOG, base_hash, json_hash
from sft_judge.core.write_errors import NamedOutput


class InputPath(type(Path())):
    """Path that a stage reads; the manifest stores a hash of each."""


class OutputPath(type(Path())):
    """Path that a stage writes; the manifest is written next to the first."""


def check_columns(path, names: list[str]) -> None:
    """
    Check that no column name occurs twice, because it would be unclear which column is meant.

    Args:
        path: the file, for messages.
        names: its column names.

    Raises:
        InputError: a name occurs twice.
    """
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise InputError(
            f"{path}: column {twice!r} occurs twice; expected each name once. Rename or drop one of them."
        )


def load_json(text: str, **options):
    """
    Parse JSON and reject duplicate keys, see `check_columns`.

    Args:
        text: the JSON.
        **options: options of `json.loads`.

    Raises:
        ValueError: the JSON is invalid, or a key occurs twice in an object.
    """
    return json.loads(text, object_pairs_hook=_once, **options)


def _once(pairs: list[tuple]) -> dict:
    if len(fields := dict(pairs)) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"{twice!r} occurs twice")
    return fields


def load_yaml(text: str):
    """
    Parse YAML and reject duplicate keys, see `check_columns`.

    Raises:
        yaml.YAMLError: the YAML is invalid, or a key occurs twice in a mapping.
    """
    import yaml  # imported here to keep `--help` fast

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
            if twice := [key for key, count in keys.items() if count > 1]:
                raise yaml.YAMLError(f"{twice[0]!r} occurs twice, in line {node.start_mark.line + 1} and after")
            return super().construct_mapping(node, deep)

    return yaml.load(text, Loader)


def partial_path(path: Path) -> Path:
    """Return the temporary path at which `path` is written before it is renamed."""
    path = Path(path)
    return path.with_name(f".{path.name}.partial")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path that is renamed to `path` if the block succeeds, and removed otherwise."""
    path = Path(path)
    aside = partial_path(path)
    with NamedOutput(path, aside):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield aside
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)


def check_folder(path: Path) -> None:
    """
    Check, before the work starts, that a folder can be created at `path`.

    Raises:
        OSError: a file is in the place of the folder or of a parent.
    """
    there = next(place for place in (Path(path), *Path(path).parents) if place.exists())
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """
    Yield a temporary folder that is renamed to `path` if the block succeeds, and removed otherwise.

    An existing folder is replaced only at the end.
    """
    path = Path(path)
    check_folder(path)
    aside = partial_path(path)
    shutil.rmtree(aside, ignore_errors=True)
    with NamedOutput(path, aside):
        aside.mkdir(parents=True)
        try:
            yield aside
            replace_folder(aside, path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def replace_folder(source: Path, path: Path) -> None:
    """
    Rename a finished folder into place, with the permissions given by the umask; safetensors creates files with 0600.

    An existing folder is renamed first, because a folder cannot be renamed over another.

    Args:
        source: the finished folder.
        path: its destination.
    """
    _give_usual_rights(source)
    old = path.with_name(f".{path.name}.old.partial")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        os.rename(path, old)
    os.rename(source, path)
    shutil.rmtree(old, ignore_errors=True)


def _give_usual_rights(folder: Path) -> None:
    """Add the permissions that `mkdir` and `open` would have given to a folder and everything in it."""
    umask = os.umask(0)
    os.umask(umask)
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink():
            continue
        status, usual = path.stat(), (0o777 if path.is_dir() else 0o666) & ~umask
        if not usual & ~status.st_mode:
            continue
        if path.is_file() and status.st_nlink > 1:  # a hard link: do not change the other file's permissions
            copy = partial_path(path)
            shutil.copyfile(path, copy)
            os.replace(copy, path)
        path.chmod(stat.S_IMODE(status.st_mode) | usual)


def write_text(path: Path, text: str) -> None:
    """
    Write a text file in UTF-8 atomically, with line breaks unchanged.

    Args:
        path: file to write.
        text: its text.
    """
    with whole_file(path) as aside:
        aside.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, value) -> None:
    """
    Write a value as indented JSON atomically.

    Args:
        path: file to write.
        value: the value.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def content_hash(path: Path) -> str:
    """
    Compute a SHA-256 of a file, or of the names and contents of a folder's files.

    Files that do not change what a folder is are left out: manifests, unfinished work, the training log (its losses
    are means since the last start, and a run may have been resumed), and TensorBoard logs. The calibration inside
    judge.json is left out because it is fitted on the judge's own output and so cannot be part of its identity. An
    adapter's hash includes its base.
    """
    path = Path(path)
    if path.is_dir():
        digest = hashlib.sha256()
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            name = file.relative_to(path).as_posix()
            if name.endswith(("manifest.json", TRAINING_LOG)) or ".partial" in name or ".tfevents." in name:
                continue
            digest.update(f"{name}\0{_hash_in_folder(file)}\n".encode())
        return digest.hexdigest()
    status = path.stat()
    return _file_hash(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _file_hash(path: Path, size: int, mtime_ns: int) -> str:
    """
    Hash a file, once per process for each size and modification time.

    A stage and its manifest ask for the same hashes.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_in_folder(file: Path) -> str:
    """Hash a file as part of its folder: judge.json without its calibration, an adapter's config with its base."""
    if file.name == JUDGE:
        return json_hash(file, ("calibration",)).hex()
    if file.name == ADAPTER:  # ignore the base's path, but include its contents
        return json_hash(file, (BASE,)).hex() + base_hash(file.parent)
    return content_hash(file)
