"""Dry runs: what cannot run here is replaced and named, and every recipe runs shrunk."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sft_judge.cli import main
from sft_judge.core.errors import InputError
from sft_judge.core.registry import parse
from sft_judge.inference.submission import check_submission, read_sample
from sft_judge.modeling.architectures import KNOWN_ARCHITECTURES, model_config_of
from sft_judge.modeling.judge_spec import read_spec
from sft_judge.modeling.loading import load_model, load_tokenizer, modules_beyond_text
from sft_judge.modeling.tiny_tokenizers import tokenizer_of
from sft_judge.pipelines.pipeline import override, read_pipeline, steps_of
from sft_judge.pipelines.shrink import make_small_inputs, shrunk_settings, shrunk_steps
from sft_judge.training.base_model import check_base, load_base
from sft_judge.training.config import JudgeConfig, JudgeModelConfig, check_keys
from sft_judge.training.recipes import read_recipe

unit, engine, full = pytest.mark.unit, pytest.mark.engine, pytest.mark.full
ROOT = Path(__file__).parents[2]
RECIPES = [path for path in sorted((ROOT / "recipes").glob("*/*.yaml")) if "use_peft" in read_recipe(str(path)).values]
RECIPES = [path for path in RECIPES if "model_name_or_path" in read_recipe(str(path)).values]
# one a family; each kind of recipe among them
ONE_A_FAMILY = [
    "qwen2.5-0.5b/student",
    "qwen3-8b/teacher",
    "gemma-2-9b/student",
    "gemma-3-12b/postpretrain",
    "llama-3.3-70b/teacher",
    "phi-4/student",
    "mistral-small/postpretrain",
]


@unit
def test_what_a_gpu_can_do_is_replaced_only_without_one():
    recipe = {"dtype": "bfloat16", "optim": "paged_adamw_8bit", "distill_weight": 0.9}
    folder = Path("small")
    on_gpu, on_cpu = shrunk_settings(recipe, folder, True), shrunk_settings(recipe, folder, False)
    assert on_cpu.items() - on_gpu.items() == {("dtype", "float32"), ("optim", "adamw_torch")}
    assert on_gpu["labels"] == "small/labels.parquet"
    given = {**recipe, "battles": "own.parquet"}
    assert not {"battles", "labels"} & shrunk_settings(given, folder, True).keys()


@unit
def test_the_recipe_of_the_guide_to_training_is_one():
    text = (ROOT / "docs/guides/train.md").read_text(encoding="utf-8")
    blocks = [block.split("```")[0] for block in text.split("```yaml\n")[1:]]
    (settings,) = [yaml.safe_load(block) for block in blocks if "model_name_or_path" in block]
    check_keys(settings)
    assert settings["model_name_or_path"] == "Qwen/Qwen2.5-0.5B-Instruct"


@unit
def test_liger_is_refused_where_it_cannot_run_and_left_out_of_a_dry_run(tmp_path):
    config = JudgeConfig(output_dir=str(tmp_path), use_liger_kernel=True)
    with pytest.raises(InputError, match="use_liger_kernel is set"):
        check_base(JudgeModelConfig(model_name_or_path="none"), config)
    small = shrunk_settings({"use_liger_kernel": True, "use_kernels": True}, tmp_path, gpu=False)
    assert small["use_liger_kernel"] is False and small["use_kernels"] is False


@unit
def test_weights_that_text_does_not_reach_are_not_trained(tmp_path):
    """They get no gradient, and DDP would wait for it; all parameters of the rest are trained."""
    folder = tmp_path / "small"
    make_small_inputs("google/gemma-3-12b-it", folder)
    config = JudgeConfig(output_dir=str(tmp_path))
    model = load_base(JudgeModelConfig(model_name_or_path=str(folder / "model"), attn_implementation="eager"), config)
    trained = {name: weight.requires_grad for name, weight in model.named_parameters()}
    assert all(grad == ("vision_tower" not in name and "projector" not in name) for name, grad in trained.items())
    assert {True, False} == set(trained.values())


def check_shrunk(folder: Path, recipe: Path) -> None:
    """A judge stands there, trained with the recipe's own settings but those that were named as replaced."""
    spec, settings = read_spec(folder), read_recipe(str(recipe)).values
    assert spec.training["steps"] == 4 and spec.training["status"] == "finished"
    assert spec.training["recipe"]["per_device_train_batch_size"] == settings["per_device_train_batch_size"]
    assert spec.training["recipe"]["gradient_accumulation_steps"] == settings["gradient_accumulation_steps"]
    assert bool(spec.training["recipe"]["labels"]) == ("distill_weight" in settings)
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == settings["lora_r"]
    log = json.loads((folder / "trainer_log.json").read_text())
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2, 3, 4]


@engine
@pytest.mark.parametrize("name", ONE_A_FAMILY)
def test_a_recipe_runs_shrunk(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recipe = ROOT / "recipes" / f"{name}.yaml"
    assert main(["train", "--config", str(recipe), "--shrink"]) == 0
    folder = tmp_path / "runs" / "shrunk" / name.replace("/", "-")
    check_shrunk(folder, recipe)
    known = KNOWN_ARCHITECTURES[read_recipe(str(recipe)).values["model_name_or_path"]]
    base = load_model(str(folder.with_name(f"small-{folder.name}") / "model"))
    assert base.config.model_type == known.model_type
    said = capsys.readouterr().out
    assert f"{base.num_parameters():,} random parameters for" in said and f"({type(base).__name__})" in said
    assert load_tokenizer(str(folder)).chat_template == tokenizer_of(known.tokenizer).chat_template
    if modules_beyond_text(base):  # the image tower has no adapter
        weights = (folder / "adapter_model.safetensors").read_bytes()
        assert b"language_model" in weights and b"vision_tower" not in weights


@full
@engine
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_recipe_runs_shrunk_under_the_launcher_that_it_names(recipe, tmp_path):
    lines = [line for line in recipe.read_text().splitlines() if line.startswith("#   accelerate launch")]
    named = lines[0].split("--config_file ")[1].split()[0] if lines else "recipes/accelerate/ddp.yaml"
    config = ROOT / named
    assert yaml.safe_load(config.read_text())["num_processes"] == 2
    command = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    command += ["--config_file", str(config), str(ROOT / "scripts/train.py"), "--config", str(recipe), "--shrink"]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    check_shrunk(tmp_path / "runs" / "shrunk" / f"{recipe.parent.name}-{recipe.stem}", recipe)


def road_of(name: str) -> list:
    """The steps of a competition's pipeline, all its files somewhere else."""
    file = ROOT / "recipes" / name / "pipeline.yaml"
    pipeline = read_pipeline(file)
    override(pipeline, [f"{key}=file.csv" for key, value in pipeline["vars"].items() if value is None])
    return steps_of(pipeline, file)


@unit
def test_a_shrunk_road_has_a_tiny_model_for_each_that_no_step_makes_and_few_rows_of_what_is_trained_on():
    steps = road_of("wsdm")
    small = shrunk_steps(steps, Path("small"), gpu=False)
    bases = [step for step in small if step.stage == "base"]
    assert small[: len(bases)] == bases and [step.name for step in small[len(bases) :]] == [
        step.name for step in steps
    ]
    models = (
        "Nexusflow/Athene-V2-Chat",
        *(f"Qwen/Qwen2.5-{size}-Instruct" for size in ("14B", "72B")),
        "microsoft/phi-4",
    )
    assert {step.argv[1] for step in bases} == set(models)
    limited = {step.name for step in small if step.stage == "import" and "--limit" in step.argv}
    assert limited == {"import-train", "import-lmsys", "import-arena", "import-preferences"}  # test rows stay whole
    seen = set()
    for step in small:
        args = parse(step.stage, step.argv)
        if step.stage == "train":
            settings = read_recipe(args.config, args.overrides).settings
            assert settings["max_steps"] == "2" and settings["load_in_4bit"]
            assert settings["battles"].startswith("runs/wsdm")
            seen.add(settings["model_name_or_path"])
        if step.stage == "quantize":
            assert (args.scheme, args.iters) == ("W4A16", 2)
        assert getattr(args, "engine", None) != "vllm"
    tiny = {f"small/{name}" for name in ("Athene-V2-Chat", "Qwen2.5-14B-Instruct", "Qwen2.5-72B-Instruct", "phi-4")}
    assert seen == tiny | {"runs/wsdm/base/athene", "runs/wsdm/base/qwen"}


@unit
def test_on_a_gpu_a_shrunk_road_keeps_its_engines_and_its_scheme():
    for step in shrunk_steps(road_of("wsdm"), Path("small"), gpu=True):
        assert not {"auto", "W4A16"} & set(step.argv)


@unit
def test_a_tiny_model_is_made_like_another_or_of_a_family_that_has_text(tmp_path, capsys):
    assert main(["base", "--like", "microsoft/phi-4", "--output", str(tmp_path / "phi")]) == 0
    assert model_config_of(str(tmp_path / "phi")).model_type == "phi3"
    assert "random parameters for 14,659,507,200" in capsys.readouterr().out
    assert main(["base", "--family", "qwen2", "--output", str(tmp_path / "none")]) == 2
    assert "--battles F" in capsys.readouterr().err and not (tmp_path / "none").exists()


@full
@engine
@pytest.mark.parametrize("name", ["lmsys", "wsdm"])
def test_a_competitions_road_runs_whole_shrunk(name, data_folder, tmp_path, monkeypatch, capsys):
    """From the competition's files to a submission in the sample's format; then nothing is left to do."""
    monkeypatch.chdir(tmp_path)
    suffix = {"lmsys": "csv", "wsdm": "parquet"}[name]
    files = {part: data_folder / name / f"{part}.{suffix}" for part in ("train", "test")}
    files |= {"sample": data_folder / name / "sample_submission.csv"}
    files |= {"arena": data_folder / "mtbench_majority_q1to7.jsonl"}
    if name == "wsdm":
        files |= {"lmsys": data_folder / "lmsys/train.csv", "preferences": data_folder / "llamafactory_dpo.jsonl"}
    words = ["run", str(ROOT / "recipes" / name / "pipeline.yaml"), "--shrink"]
    words += [word for key, value in files.items() for word in ("--set", f"{key}={value}")]
    assert main(words) == 0
    check_submission(tmp_path / "runs" / f"{name}-shrunk" / "submission.csv", read_sample(files["sample"]))
    capsys.readouterr()
    assert main([*words, "--plan"]) == 0
    assert "to do" not in capsys.readouterr().out
