"""Every module imports without vLLM, DeepSpeed, auto-round, bitsandbytes and Ray: in a second, minimal environment."""

import json
import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parent.parent
ABSENT = ("vllm", "deepspeed", "auto_round", "bitsandbytes", "ray", "fasttext", "torchvision")

PROBE = """
import importlib, importlib.util, json, pkgutil, sys, traceback
import sft_judge
present = [name for name in sys.argv[1:] if importlib.util.find_spec(name)]
names = [module.name for module in pkgutil.walk_packages(sft_judge.__path__, "sft_judge.", onerror=lambda name: None)]
failed = {}
for name in names:
    try:
        importlib.import_module(name)
    except BaseException:
        failed[name] = traceback.format_exc(limit=-3)
print(json.dumps({"present": present, "names": names, "failed": failed, "file": sft_judge.__file__}))
"""


@pytest.fixture(scope="module")
def minimal_python() -> str:
    """The Python of the minimal environment, which `make test` sets up and names: there it must be."""
    named = os.environ.get("SFT_JUDGE_MINIMAL_PYTHON")
    python = ROOT / (named or ".venv-minimal/bin/python")
    if named is None and not python.exists():
        pytest.skip(f"minimal environment: no {python}; python3 scripts/setup.py --minimal makes it")
    return str(python)


@pytest.fixture(scope="module")
def probe(minimal_python) -> dict:
    # The checkout alone, by PYTHONPATH: the modules tested are these, wherever that environment was made.
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([minimal_python, "-c", PROBE, *ABSENT], capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_the_minimal_environment_lacks_what_is_optional(probe):
    assert probe["present"] == []


def test_every_module_imports_there(probe):
    files = {file.relative_to(ROOT).with_suffix("") for file in (ROOT / "sft_judge").rglob("*.py")}
    expected = {".".join(file.parts).removesuffix(".__init__") for file in files} - {"sft_judge"}
    assert Path(probe["file"]).parent == ROOT / "sft_judge"
    assert set(probe["names"]) == expected, "a folder without __init__.py hides modules"
    assert not probe["failed"], "\n".join(probe["failed"].values())
