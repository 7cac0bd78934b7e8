"""Recipes, found on disk: every key is known, every launch line names what exists, every prompt renders."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from sft_judge.core.registry import parse
from sft_judge.modeling.architectures import KNOWN_ARCHITECTURES
from sft_judge.modeling.judge_spec import Budget
from sft_judge.modeling.loading import load_tokenizer
from sft_judge.pipelines.pipeline import override, read_pipeline, steps_of
from sft_judge.pipelines.sweep import KEYS, read_sweep, unique_steps
from sft_judge.prompts.prompt import JudgePrompt
from sft_judge.prompts.verdict_tokens import choose_verdict_words
from sft_judge.training.config import JudgeConfig, JudgeModelConfig
from sft_judge.training.recipes import read_recipe

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[1]
GUIDES = [page for page in sorted((ROOT / "docs").glob("[gt]u*/*.md")) if "launch --config_file" in page.read_text()]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
PROMPTS = sorted((ROOT / "prompts").glob("*.jinja"))


def kind(recipe: Path) -> str:
    keys = yaml.safe_load(recipe.read_text()).keys()
    if "sweeps" in recipe.parts:
        return "sweep"
    return "pipeline" if {"steps", "extends"} & keys else "launch" if "distributed_type" in keys else "training"


def of_kind(wanted: str):
    found = [recipe for recipe in RECIPES if kind(recipe) == wanted]
    return pytest.mark.parametrize("recipe", found, ids=lambda path: path.relative_to(ROOT / "recipes").as_posix())


def launch_lines(recipe: Path) -> list[list[str]]:
    """The commands in a recipe's header, as words."""
    header = recipe.read_text().split("\n\n")[0] + "\n"
    comment = "".join(re.findall(r"^#(.*\n)", header, re.M)).replace("\\\n", " ")
    lines = [line.strip() for line in comment.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith(("sft-judge ", "accelerate launch "))]


def test_there_are_recipes_of_each_kind_and_prompts():
    assert {kind(recipe) for recipe in RECIPES} == {"pipeline", "sweep", "launch", "training"} and len(PROMPTS) >= 2


@of_kind("training")
def test_a_training_recipe_is_read_by_the_parser_it_is_for(recipe, tmp_path):
    read = read_recipe(str(recipe), ["--output_dir", str(tmp_path)])
    config, model_config = read.configs()
    for key, value in read.values.items():
        holder = config if key in JudgeConfig.__dataclass_fields__ else model_config
        assert getattr(holder, key) in (value, [value])  # a single value of a list


@of_kind("pipeline")
def test_a_pipeline_holds_commands_that_parse(recipe):
    pipeline = read_pipeline(recipe)
    unset = [name for name, value in pipeline["vars"].items() if value is None]
    override(pipeline, [f"{name}=file.csv" for name in unset])
    assert steps_of(pipeline, recipe)
    for settings in pipeline["steps"].values():
        if "names" in settings and "probs" in settings:
            files = [settings["probs"]] if isinstance(settings["probs"], str) else settings["probs"]
            assert len(settings["names"]) == len(files)  # a recipe that extends another may change one of them


def claims_of(recipe: Path) -> list[list[str]]:
    """The rows of the table in a pipeline's header: setting, here, published, why."""
    rows = [line[3:].split("|") for line in recipe.read_text().splitlines() if line.startswith("# |")]
    return [[cell.strip() for cell in row] + [""] * (4 - len(row)) for row in rows][1:]


def setting_of(steps: list, name: str):
    """What a step of a pipeline resolves `step.key` to."""
    step_name, key = name.split(".")
    step = next(step for step in steps if step.name.split("[")[0] == step_name)
    args = parse(step.stage, step.argv)
    if step.stage != "train":
        return getattr(args, key)
    configs = read_recipe(args.config, args.overrides).configs()
    return next(getattr(config, key) for config in configs if hasattr(config, key))


@pytest.mark.parametrize("name, least", [("lmsys", 20), ("wsdm", 30)])
def test_the_table_in_a_competitions_header_is_what_its_steps_resolve_to(name, least):
    recipe = ROOT / "recipes" / name / "pipeline.yaml"
    pipeline = read_pipeline(recipe)
    override(pipeline, [f"{key}=file.csv" for key, value in pipeline["vars"].items() if value is None])
    steps, claims = steps_of(pipeline, recipe), claims_of(recipe)
    assert len(claims) >= least
    for setting, here, published, why in claims:
        value = setting_of(steps, setting)
        seen = ", ".join(map(str, value)) if isinstance(value, list) else str(getattr(value, "value", value))
        assert seen == here, setting
        assert published.startswith("same") or (published and why), f"{setting}: another value than published, why?"


@pytest.mark.parametrize("name", ["lmsys", "wsdm"])
def test_all_trainings_of_a_competition_are_launched_and_alike_in_what_the_header_says_of_one(name):
    recipe = ROOT / "recipes" / name / "pipeline.yaml"
    pipeline = read_pipeline(recipe)
    trainings = {key: step for key, step in pipeline["steps"].items() if "train" in (key, step.get("stage"))}
    assert trainings
    for step in trainings.values():
        assert step["launch"] == {"config": "zero2", "processes": "{gpus}"}
        if name == "wsdm":
            assert (step["swap"], step["battle_order"]) == ("random", "random")


@of_kind("pipeline")
def test_no_pipeline_reports_calibrated_figures_of_the_rows_that_its_calibration_was_fitted_on(recipe):
    pipeline = read_pipeline(recipe)
    steps = {name: {"stage": name, **step} for name, step in pipeline["steps"].items()}
    files = {name: [step for step in steps.values() if step["stage"] == name] for name in ("calibrate", "evaluate")}
    fitted_on = {step["probs"] for step in files["calibrate"]}
    for step in files["evaluate"]:
        shown = step["probs"] if isinstance(step["probs"], list) else [step["probs"]]
        assert step.get("uncalibrated") or not fitted_on & set(shown)


@of_kind("sweep")
def test_every_cell_of_a_sweep_holds_commands_that_parse_and_shares_no_output_by_mistake(recipe):
    unset = [name for name, value in read_pipeline(recipe, also=KEYS)["vars"].items() if value is None]
    sweep = read_sweep(recipe, [f"{name}=file.parquet" for name in unset])
    runs = [sweep.run(cell, seed) for cell in sweep.trials for seed in (*sweep.seeds, *sweep.confirm)]
    assert len(runs) >= 6 and unique_steps(runs)


@of_kind("launch")
def test_a_launch_config_is_one_of_accelerates(recipe):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(recipe))
    assert config.num_machines == (2 if recipe.stem == "multinode" else 1) and config.mixed_precision == "no"
    stage = {"zero1": 1, "zero2": 2, "zero3": 3, "zero3_offload": 3, "multinode": 2}.get(recipe.stem)
    assert config.deepspeed_config.get("zero_stage") == stage


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.relative_to(ROOT / "recipes").as_posix())
def test_the_header_launches_this_very_file(recipe):
    lines = launch_lines(recipe)
    assert lines
    own = recipe.relative_to(ROOT).as_posix()
    for words in lines:
        assert own in words
        named = [word for word in words if word.startswith(("recipes/", "scripts/", "prompts/"))]
        assert all((ROOT / word).is_file() for word in named)


def read_launch(words: list[str]):
    """The launch file of a line, its processes, and the configs of the recipe it trains."""
    given = {name: words[words.index(name) + 1] for name in ("--config_file", "--num_processes") if name in words}
    file = ROOT / "recipes" / "accelerate" / f"{Path(given['--config_file']).stem}.yaml"
    place = words.index("--config")
    launch = yaml.safe_load(file.read_text())
    processes = int(given.get("--num_processes", launch["num_processes"]))
    return launch, processes, read_recipe(words[place + 1], [*words[place + 2 :], "--output_dir", "judge"]).configs()


@pytest.mark.parametrize("recipe", [*GUIDES, *RECIPES], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_launch_line_divides_no_weights_that_are_quantised_and_uses_no_optimizer_that_its_launcher_lacks(recipe):
    if recipe.suffix == ".md":
        text = recipe.read_text(encoding="utf-8").replace("\\\n", " ").replace("$fold", "0")
        lines = [shlex.split(line) for line in text.splitlines() if line.lstrip().startswith("sft-judge launch ")]
        assert lines
    else:
        lines = [line for line in launch_lines(recipe) if line[0] == "accelerate"]
    for words in lines:
        if "--config" not in words:
            continue
        launch, processes, (config, adapters) = read_launch(words)
        stage = (launch.get("deepspeed_config") or {}).get("zero_stage", 0)
        assert stage < 3 or not (adapters.load_in_4bit or adapters.load_in_8bit or "8bit" in config.optim)
        if recipe.suffix == ".md":
            assert config.per_device_train_batch_size * config.gradient_accumulation_steps * processes == 8


@of_kind("training")
def test_the_batch_that_a_recipe_states_is_the_one_it_sets(recipe):
    stated = re.search(r"# training: (\d+) x (\d+) battles a step on one (?:GPU|process)", recipe.read_text())
    settings = read_recipe(str(recipe)).settings
    if "model_name_or_path" in settings or stated:
        sizes = settings["per_device_train_batch_size"], settings["gradient_accumulation_steps"]
        assert tuple(map(int, stated.groups())) == sizes


@pytest.mark.parametrize("template", PROMPTS, ids=lambda path: path.stem)
def test_a_prompt_renders_and_ends_where_the_verdict_stands(template, base, synthetic_rows):
    tokenizer, text = load_tokenizer(str(base)), template.read_text(encoding="utf-8")
    prompt = JudgePrompt(tokenizer, text, choose_verdict_words(tokenizer, text, 3), Budget())
    assert len(set(prompt.verdict_ids)) == 3
    for row, (ids,) in zip(synthetic_rows[:6], prompt.encode(synthetic_rows[:6], ("ab",)), strict=True):
        shown = tokenizer.decode(ids)
        for name in ("prompt", "response_a", "response_b"):
            assert all(turn.strip() in shown for turn in row[name] if turn.isascii())


@of_kind("training")
def test_a_training_recipes_learning_rate_is_one_that_is_known_to_work(recipe):
    """Those of real models; the demo's tiny ones take others."""
    from sft_judge.training.learning_rates import question_learning_rate

    settings = read_recipe(str(recipe)).settings
    if "model_name_or_path" in settings:
        own = KNOWN_ARCHITECTURES[settings["model_name_or_path"]].billions * 1e9
        for parameters in {own, *((5e8, 1.4e10, 7.2e10) if own > 4e8 else ())}:
            assert question_learning_rate(settings["learning_rate"], int(parameters), settings["use_peft"]) is None


@pytest.mark.parametrize("bits", ["load_in_4bit", "load_in_8bit"])
def test_quantised_weights_are_refused_under_zero_3(bits):
    from types import SimpleNamespace

    from sft_judge.core.errors import InputError
    from sft_judge.training.base_model import check_base

    config = SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=3))
    with pytest.raises(InputError, match="Take recipes/accelerate/zero2.yaml"):
        check_base(JudgeModelConfig(model_name_or_path="none", **{bits: True}), config)
