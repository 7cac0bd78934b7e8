"""A training's settings: checked and not changed, read by one parser, the machine's own where nothing is said."""

import pytest

from sft_judge.core.errors import InputError
from sft_judge.training.config import JudgeConfig
from sft_judge.training.machine_defaults import DEFAULTS
from sft_judge.training.recipes import read_recipe

pytestmark = pytest.mark.unit


@pytest.fixture
def recipe(tmp_path):
    """A function that reads a recipe of a few lines with words of a command line."""
    (tmp_path / "recipe.yaml").write_text("learning_rate: 1.0e-3\nmax_steps: 6\nbf16: false\n")

    def read(*words: str):
        return read_recipe(str(tmp_path / "recipe.yaml"), ["--output_dir", str(tmp_path / "judge"), *words])

    return read


def test_the_command_line_wins_over_the_file_and_the_file_over_the_machine(recipe, monkeypatch):
    monkeypatch.setitem(DEFAULTS, "bf16", lambda: True)
    monkeypatch.setitem(DEFAULTS, "disable_tqdm", lambda: False)
    config, _ = recipe("--max_steps", "7").configs({"learning_rate": 0.5, "max_steps": 8})
    assert (config.max_steps, config.learning_rate, config.bf16) == (7, 0.5, False)
    assert config.disable_tqdm is False


@pytest.mark.parametrize("key", sorted(DEFAULTS))
def test_a_null_in_a_recipe_is_the_machines_default(recipe, tmp_path, key):
    (tmp_path / "recipe.yaml").write_text(f"{key}: null\n")
    config, _ = recipe().configs()
    assert getattr(config, key) == getattr(JudgeConfig(output_dir=str(tmp_path)), key)


def test_an_empty_setting_is_one_that_is_missing(recipe):
    with pytest.raises(InputError, match="no 'output_dir'"):
        recipe("--output_dir=").output_paths()


def test_words_have_the_types_of_their_settings(recipe):
    config, _ = recipe("--save_strategy", "no", "--learning_rate", "1e-4", "--run_name", "12").configs()
    assert config.save_strategy == "no" and config.learning_rate == 1e-4 and config.run_name == "12"


def test_what_a_pipeline_is_told_of_a_recipe_is_what_its_training_gets(recipe, tmp_path):
    labels = [str(tmp_path / "one.parquet"), str(tmp_path / "two.parquet")]
    read = recipe("--battles", "rows.parquet", "--labels", *labels)
    config, _ = read.configs()
    assert [read.settings["battles"]] == config.battles and read.settings["labels"] == config.labels == labels
    assert [str(path) for path in read.output_paths()] == [config.output_dir]


@pytest.mark.parametrize(
    ("processes", "deepspeed", "backend", "use_cpu"),
    [("1", None, None, True), ("1", "true", None, False), ("2", None, "gloo", True), ("2", "true", "gloo", False)],
)
def test_training_on_cpus_says_so_to_all_but_deepspeed_and_a_launch_gets_gloo(
    monkeypatch, processes, deepspeed, backend, use_cpu
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("WORLD_SIZE", processes)
    if deepspeed:
        monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", deepspeed)
    assert (DEFAULTS["ddp_backend"](), DEFAULTS["use_cpu"](), DEFAULTS["bf16"]()) == (backend, use_cpu, False)


def test_a_copy_with_changes_leaves_the_original_alone(tmp_path):
    config = JudgeConfig(output_dir=str(tmp_path))
    other = config.with_changes(output_dir="elsewhere", push_to_hub=True)
    assert (config.output_dir, config.push_to_hub) == (str(tmp_path), False)
    assert (other.output_dir, other.push_to_hub, other.seed) == ("elsewhere", True, config.seed)


def test_a_value_of_the_wrong_type_is_one_line(recipe):
    with pytest.raises(InputError, match="max_steps"):
        recipe("--max_steps", "many").configs()


def test_several_trackers_stand_on_the_command_line_as_in_a_file(recipe, tmp_path):
    words = ("--report_to", "wandb", "trackio")
    assert recipe(*words).configs()[0].report_to == ["wandb", "trackio"]
    assert recipe("--report_to", "wandb").configs()[0].report_to == ["wandb"]
