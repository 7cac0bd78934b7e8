#!/usr/bin/env python3
"""
Set up the environment: `python3 scripts/setup.py`; `--minimal` sets up the environment of the import test.

Makes a virtual environment, installs uv into it, then the exact pins of requirements/, then this project, editable.
Installs the CUDA pins if `nvidia-smi` works, else the CPU pins. Does nothing if nothing has changed since.

Needs only the Python of the system, without packages. The syntax of this file must run on an old Python, so that it
can print that its version is not supported.

The pins resolve (`uv pip compile`, wheels only) for Linux x86-64 with glibc 2.31 or newer and Python 3.11, 3.12 and
3.13, in all three sets. The CPU and the minimal set are tested on 3.11, with torch from PIP_FIND_LINKS. The CUDA set
and PyTorch's index are not tested. DeepSpeed has no wheel; it builds without a compiler.
"""

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
UV = "uv==0.13.8"
PYTHONS = ((3, 11), (3, 12), (3, 13))
GLIBC = (2, 31)
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
KEPT_OUT = ("torchvision", "torchaudio", "torchcodec")


class SetupError(Exception):
    """Signal a failure; the message is one line that tells what failed and what to try."""


def main():
    parser = argparse.ArgumentParser(description="Set up the environment of this checkout.")
    parser.add_argument("--venv", type=Path, metavar="DIR", help="folder of the environment (.venv, or .venv-minimal)")
    parser.add_argument("--force", action="store_true", help="install even if nothing has changed")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--cpu", action="store_const", const="cpu", dest="pins", help="use the CPU pins even if there is a GPU"
    )
    which.add_argument("--cuda", action="store_const", const="cuda", dest="pins", help="use the CUDA pins")
    which.add_argument(
        "--minimal", action="store_const", const="minimal", dest="pins", help="use the CPU pins of the core alone"
    )
    args = parser.parse_args()
    try:
        venv = args.venv or ROOT / (".venv-minimal" if args.pins == "minimal" else ".venv")
        set_up(venv.absolute(), args.pins, args.force)
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("setup: interrupted; downloads are kept, and the same command resumes.", file=sys.stderr)
        return 130
    return 0


def set_up(venv, pins, force):
    """
    Bring an environment up to date with the pins.

    Args:
        venv: folder of the environment.
        pins: "cpu", "cuda" or "minimal"; None selects by the machine.
        force: install even if nothing has changed.
    """
    start = time.monotonic()
    check_platform()
    pins = pins or ("cuda" if has_nvidia_gpu() else "cpu")
    stamp, wanted = venv / "sft-judge-setup", f"{pins} {digest(pins)}"
    before = stamp.read_text().strip() if stamp.is_file() else ""
    if before == wanted and not force:
        print(f"setup: {venv.name} is up to date ({pins} pins).")
        return
    print(f"setup: {venv} with Python {platform.python_version()}, {pins} pins", flush=True)
    make_venv(venv, fresh=bool(before) and before.split()[0] != pins)
    stamp.unlink(missing_ok=True)
    env = index_settings()
    install_pins(venv, pins, env)
    project = ["pip", "install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT)]
    status, said = uv(venv, env, project)
    if status:
        raise failure(said)
    stamp.write_text(wanted + "\n")
    print(f"setup: done in {time.monotonic() - start:.0f} s. Try: {venv.name}/bin/sft-judge doctor")


def check_platform():
    """Raise `SetupError` on a platform for which the pins have no wheels."""
    libc, release = platform.libc_ver()
    glibc = tuple(int(part) for part in release.split(".")[:2]) if libc == "glibc" else (0, 0)
    here = "{} {}, {} {}".format(platform.system(), platform.machine(), libc or "no glibc", release).rstrip()
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64") or glibc < GLIBC:
        wanted = "Linux x86-64 with glibc {}.{} or newer".format(*GLIBC)
        raise SetupError(f"expected {wanted}; this is {here}. Use another machine or a container.")
    if sys.version_info[:2] not in PYTHONS:
        known = ", ".join("{}.{}".format(*version) for version in PYTHONS)
        raise SetupError(
            f"Python {platform.python_version()} is not supported, expected {known}: make setup PYTHON=python3.11"
        )


def has_nvidia_gpu():
    """Return True if nvidia-smi exists and works."""
    if not shutil.which("nvidia-smi"):
        return False
    return subprocess.call(["nvidia-smi"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0


def digest(pins):
    """Return a hash of everything that determines what is installed."""
    files = [*sorted(REQUIREMENTS.glob("*.txt")), ROOT / "pyproject.toml", Path(__file__)]
    parts = [pins, platform.python_version(), str(ROOT), *(file.read_bytes() for file in files)]
    return hashlib.sha256(b"\0".join(p if isinstance(p, bytes) else p.encode() for p in parts)).hexdigest()[:16]


def make_venv(venv, fresh):
    """
    Make a virtual environment of this Python with uv, if needed.

    Args:
        venv: folder of the environment; one that is broken or of another Python is replaced.
        fresh: replace it in any case.
    """
    python = venv / "bin" / "python"
    version = f"import sys; print(sys.version_info[:2] == {tuple(sys.version_info[:2])})"
    works = python.exists() and not fresh and _output([str(python), "-c", version]).strip() == "True"
    if not works:
        clear = ["--clear"] if (venv / "pyvenv.cfg").is_file() else []
        if subprocess.call([sys.executable, "-m", "venv", *clear, str(venv)]):
            raise SetupError(
                f"venv: could not make a virtual environment at {venv}. On Debian: apt install python3-venv"
            )
    if UV.replace("==", " ") not in _output([str(venv / "bin" / "uv"), "--version"]):
        pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", UV]
        if subprocess.call(pip):
            raise SetupError(f"{UV}: pip could not install it. Does `pip download {UV}` reach an index?")


def _output(command):
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    except OSError:
        return ""


def index_settings():
    """Return environment variables that give uv the index, links and certificates of pip's settings."""
    lines = _output([sys.executable, "-m", "pip", "config", "list"]).splitlines()
    pairs = [line.partition("=")[::2] for line in lines if "=" in line]
    pip = {key: value.strip("'\"") for key, value in pairs}
    env = dict(os.environ)
    names = {
        "index-url": "UV_DEFAULT_INDEX",
        "extra-index-url": "UV_INDEX",
        "find-links": "UV_FIND_LINKS",
        "cert": "SSL_CERT_FILE",
    }
    for name, variable in names.items():
        known = [pip[key + name] for key in (":env:.", "install.", "global.") if pip.get(key + name)]
        if known:
            env.setdefault(variable, known[0].replace(" ", ",") if name == "find-links" else known[0])
    env.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")  # as in pip: the best version of all indexes
    return env


def install_pins(venv, pins, env):
    """
    Install the pins; torch's CPU build is from pip's links if they have it, else from PyTorch's index.

    Args:
        venv: folder of the environment.
        pins: "cpu", "cuda" or "minimal".
        env: environment variables for uv.
    """
    uv(venv, env, ["pip", "uninstall", "--quiet", *KEPT_OUT])
    overrides = ["--overrides", str(REQUIREMENTS / "overrides.txt")]
    # If Python cannot write bytecode (as in many containers), each command would compile torch again: 20 s.
    install = ["pip", "install", "--compile-bytecode", "-r", str(REQUIREMENTS / (pins + ".txt")), *overrides]
    status, said = uv(venv, env, install)
    if status and "+cpu" in said:
        print(f"setup: torch's CPU build is not in pip's indexes; trying {TORCH_CPU_INDEX}", flush=True)
        # That index has old versions of other packages; other strategies would prefer them to those of the main index.
        extra = ["--extra-index-url", TORCH_CPU_INDEX, "--index-strategy", "unsafe-best-match"]
        status, again = uv(venv, env, [*install, *extra])
        said += again
    if status:
        raise failure(said)


def uv(venv, env, arguments):
    """
    Run uv and print its progress.

    Args:
        venv: folder of the environment.
        env: environment variables.
        arguments: arguments of uv.

    Returns:
        Exit status, and standard error for `failure`.
    """
    command = [str(venv / "bin" / "uv"), *arguments, "--python", str(venv / "bin" / "python")]
    said = []
    with subprocess.Popen(command, cwd=str(ROOT), env=env, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            said.append(line)
            if line.startswith(("Resolved", "Building", "Built", "Prepared", "Installed", "Bytecode compiled")):
                print("  " + line.strip(), flush=True)
    return process.returncode, "".join(said)


PACKAGE_OF = (
    r"[Ff]ailed to (?:build|download|fetch|install|unzip|extract)[^`]*`([^`]+)`",
    r"no version of (\S+)",
    r"(\S+==\S+) has no ",
    r"package `?([\w.-]+)`? ",
)


def failure(said):
    """Return a `SetupError` for the output of uv: the package, its last lines, and what to try."""
    found = [match.group(1) for match in (re.search(pattern, said) for pattern in PACKAGE_OF) if match]
    if re.search(r"No space left", said):
        hint = "The disk is full: the CPU set takes about 4 GB, the CUDA set several more."
    elif found and found[0].startswith("torch"):
        where = f"Neither the folders in PIP_FIND_LINKS nor {TORCH_CPU_INDEX} have it"
        hint = f"{where} for Python {platform.python_version()}: add its wheel to such a folder, or check the network."
    elif re.search(r"error sending request|dns error|connect|timed? ?out|certificate", said):
        hint = "The index did not answer: check the network, or set a mirror in PIP_INDEX_URL; then run this again."
    else:
        hint = "Try again with Python 3.11 (make setup PYTHON=python3.11), or see requirements/ for the pins."
    last = "\n".join("    " + line for line in said.strip().splitlines()[-8:])
    return SetupError("{} could not be installed. {}\n{}".format(found[0] if found else "a package", hint, last))


if __name__ == "__main__":
    sys.exit(main())
