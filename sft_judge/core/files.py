"""
Files that appear whole or not at all, and the hashes that say whether one changed.

Everything is written aside, beside its destination, and renamed: a kill leaves the old or the new, never half.
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


class InputPath(type(Path())):
    """A path a stage reads. The manifest hashes every one of them."""


class OutputPath(type(Path())):
    """A path a stage makes. The manifest stands beside the first."""


def check_columns(path, names: list[str]) -> None:
    """Raise `InputError` where two columns of a file have one name: which of them is meant, nobody could tell."""
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise InputError(
            f"{path}: column {twice!r} stands twice; expected each name once. Rename or drop one of them."
        )


def load_json(text: str, **options):
    """Parse JSON. Raises `ValueError` for a key that stands twice in an object: see `check_columns`."""
    return json.loads(text, object_pairs_hook=_once, **options)


def _once(pairs: list[tuple]) -> dict:
    if len(fields := dict(pairs)) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"{twice!r} stands twice")
    return fields


def load_yaml(text: str):
    """Parse YAML. Raises `yaml.YAMLError` for a key that stands twice in a mapping: see `check_columns`."""
    import yaml  # here, as `--help` has no need of it

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
            if twice := [key for key, count in keys.items() if count > 1]:
                raise yaml.YAMLError(f"{twice[0]!r} stands twice, line {node.start_mark.line + 1} and after")
            return super().construct_mapping(node, deep)

    return yaml.load(text, Loader)


def partial_path(path: Path) -> Path:
    """Where `path` is built before it is renamed into place."""
    path = Path(path)
    return path.with_name(f".{path.name}.partial")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to; it becomes `path` if the block ends without an error, and is removed otherwise."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = partial_path(path)
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def check_folder(path: Path) -> None:
    """Raise `OSError` where a file stands in the place of a folder to be made: before the work, not after it."""
    there = next(place for place in (Path(path), *Path(path).parents) if place.exists())
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """The same for a folder. One that exists is replaced at the very end."""
    path = Path(path)
    check_folder(path)
    aside = partial_path(path)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        replace_folder(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def replace_folder(source: Path, path: Path) -> None:
    """
    Rename a finished folder into place, with the rights that the umask gives; safetensors makes its files 0600.

    An old folder steps aside first: none is renamed over.
    """
    _give_usual_rights(source)
    old = path.with_name(f".{path.name}.old.partial")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        os.rename(path, old)
    os.rename(source, path)
    shutil.rmtree(old, ignore_errors=True)


def _give_usual_rights(folder: Path) -> None:
    """Add to a folder and all in it the rights that `mkdir` and `open` would have given."""
    umask = os.umask(0)
    os.umask(umask)
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink():
            continue
        status, usual = path.stat(), (0o777 if path.is_dir() else 0o666) & ~umask
        if not usual & ~status.st_mode:
            continue
        if path.is_file() and status.st_nlink > 1:  # a link to somebody's file: that one's rights are not ours
            copy = partial_path(path)
            shutil.copyfile(path, copy)
            os.replace(copy, path)
        path.chmod(stat.S_IMODE(status.st_mode) | usual)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all, its line breaks as they are."""
    with whole_file(path) as aside:
        aside.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, value) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def content_hash(path: Path) -> str:
    """
    SHA-256 of a file, or of a folder's files and their names.

    Left out are what may be added without changing what the folder *is*: manifests, unfinished work, the training's
    log (its losses are means since the last start, and a run may have been interrupted) and those of TensorBoard, and
    the calibration inside judge.json (it is fitted on the judge's own output, so it cannot be part of its identity).
    An adapter's hash is of its base too.
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
    """A stage and its manifest ask for the same hashes: a file of so many bytes and this time is read once."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_in_folder(file: Path) -> str:
    """A file's hash as part of its folder's: of a judge.json without its calibration, of an adapter with its base."""
    if file.name == JUDGE:
        return json_hash(file, ("calibration",)).hex()
    if file.name == ADAPTER:  # the base's place may change, and the base may change in its place
        return json_hash(file, (BASE,)).hex() + base_hash(file.parent)
    return content_hash(file)
