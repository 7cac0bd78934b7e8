"""The wheel, installed outside the checkout: prompts and recipes are found by name inside it, and commands run."""

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this checkout, built by the hatchling of this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    run = subprocess.run([sys.executable, "-c", build, str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return folder / run.stdout.split()[-1]


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The bin folder of a fresh environment with the wheel; dependencies are lent by this one, the checkout is not."""
    folder = tmp_path_factory.mktemp("outside")
    venv.create(folder, with_pip=False)
    site = next(folder.glob("lib/python3.*/site-packages"))
    # A path from a .pth file is not searched for .pth files itself, so the editable install stays unseen.
    (site / "stack.pth").write_text(sysconfig.get_path("purelib") + "\n")
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}") or shutil.which("uv")
    assert uv is not None, "make setup installs uv"
    python = folder / "bin" / "python"
    run = subprocess.run(
        [uv, "pip", "install", "--offline", "--no-deps", "--python", str(python), str(wheel)],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return folder / "bin"


@pytest.fixture
def sft_judge(installed, tmp_path):
    """Runs the installed command in an empty folder and returns what came of it."""

    def run(*words, program="sft-judge"):
        command = [str(installed / program), *map(str, words)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)

    return run


def test_every_prompt_and_recipe_of_the_checkout_is_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name.removeprefix("sft_judge/resources/") for name in archive.namelist()}
    files = [*ROOT.glob("prompts/**/*.jinja"), *ROOT.glob("recipes/**/*.yaml")]
    assert len(files) >= 3
    assert {file.relative_to(ROOT).as_posix() for file in files} <= packed


def test_a_prompt_is_found_by_name_in_the_wheels_own_copy(sft_judge, installed):
    found = "print(sft_judge.__file__, find_resource('prompts', 'pair'))"
    code = f"import sft_judge; from sft_judge.core.resources import find_resource; {found}"
    run = sft_judge("-c", code, program="python")
    module, prompt = (Path(word) for word in run.stdout.split())
    assert module.is_relative_to(installed.parent) and not module.is_relative_to(ROOT)
    assert prompt == module.parent / "resources" / "prompts" / "pair.jinja"
    assert prompt.read_bytes() == (ROOT / "prompts" / "pair.jinja").read_bytes()


def test_help_answers(sft_judge):
    assert "example:" in sft_judge("prompt", "--help").stdout
    assert "example:" in sft_judge("-m", "sft_judge", "train", "--help", program="python").stdout


def test_a_recipe_by_name_is_read_and_its_gap_named(sft_judge, tmp_path):
    run = sft_judge("train", "--config", "demo/from_scratch", "--output_dir", "out")
    assert run.returncode == 2, run.stderr
    assert "model_name_or_path" in run.stderr.splitlines()[-1] and "Traceback" not in run.stderr
    assert not (tmp_path / "out").exists()


def test_an_unknown_recipe_names_the_nearest(sft_judge):
    run = sft_judge("train", "--config", "demo/from_scrtach", "--output_dir", "out")
    assert run.returncode == 2
    assert "Did you mean 'demo/from_scratch'?" in run.stderr


def test_prompt_show_and_train_run_by_name(sft_judge, tmp_path):
    """Synthetic battles to a trained judge, nothing named by a path into the checkout."""
    for words in (
        ["plant", "--output", "planted", "--rows", 60, "--test-rows", 10, "--shifted-rows", 10, "--seed", 1],
        ["import", "planted/train.csv", "--output", "train.parquet"],
        ["base", "--family", "qwen2", "--battles", "train.parquet", "--output", "base", "--vocab", 600],
    ):
        run = sft_judge(*words)
        assert run.returncode == 0, run.stderr

    show = ["prompt", "show", "--model", "base", "--template", "pair", "--battles", "train.parquet"]
    run = sft_judge(*show)
    assert run.returncode == 0, run.stderr
    assert "Response_A" in run.stdout

    model = ["--model_name_or_path", "base", "--battles", "train.parquet", "--output_dir", "judge"]
    run = sft_judge("train", "--config", "demo/from_scratch", "--limit", 40, *model)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "judge" / "judge.json").is_file()
    assert (tmp_path / "judge" / "manifest.json").is_file()
