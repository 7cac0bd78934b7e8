"""A pipeline's `--plan`: that of its trainings, and their sum."""

import re
from pathlib import Path

import pytest
import yaml

from sft_judge.cli import main
from sft_judge.core.errors import InputError
from sft_judge.core.registry import stage_parser
from sft_judge.data.battles import battle_table, write_battles
from sft_judge.modeling.architectures import KNOWN_ARCHITECTURES, model_config_of
from sft_judge.modeling.tiny_models import shrink_config
from sft_judge.modeling.tiny_tokenizers import tokenizer_of
from sft_judge.pipelines.pipeline import read_pipeline, steps_of
from sft_judge.pipelines.planning.pipeline_cost import origin_of, plan_pipeline
from sft_judge.pipelines.planning.step_cost import deep_step_cost, step_cost
from sft_judge.pipelines.planning.training_cost import cost_of_run
from sft_judge.training.config import JudgeConfig, JudgeModelConfig

pytestmark = pytest.mark.unit
SMALL = "Qwen/Qwen2.5-0.5B-Instruct"
RECIPE = f"""
model_name_or_path: {SMALL}
dtype: bfloat16
use_peft: true
lora_r: 8
total_budget: 512
num_train_epochs: 1
gradient_checkpointing: false
per_device_train_batch_size: 2
"""


@pytest.fixture
def steps(tmp_path):
    """A function that gives steps: teachers of two folds, students of two seeds, merged, quantised, predicting."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    train = {"stage": "train", "config": str(tmp_path / "recipe.yaml"), "battles": "{run}/battles.parquet"}
    steps = {
        "teacher": {**train, "each": {"fold": [0, 1]}, "fold": "{fold}", "output_dir": "{run}/teacher/fold-{fold}"},
        "student": {**train, "each": {"seed": [1, 2]}, "seed": "{seed}", "output_dir": "{run}/student-{seed}"},
        "merge": {"args": ["{run}/student-1", "{run}/student-2"], "output": "{run}/judge"},
        "again": {**train, "model_name_or_path": "{run}/judge", "output_dir": "{run}/again"},
        "quantize": {"model": "{run}/judge", "battles": "{run}/battles.parquet", "output": "{run}/w4"},
        "predict": {"model": "{run}/w4", "battles": "{run}/test.parquet", "output": "{run}/probs.parquet"},
    }
    file = tmp_path / "pipeline.yaml"

    def make(**changes) -> list:
        changed = {name: {**fields, **changes.get(name, {})} for name, fields in steps.items()}
        file.write_text(yaml.safe_dump({"vars": {"run": str(tmp_path / "run")}, "steps": changed}, sort_keys=False))
        return steps_of(read_pipeline(file), file)

    return make


@pytest.fixture
def battles(tmp_path, synthetic_rows):
    """The pipeline's battles, as if it had prepared them."""
    (tmp_path / "run").mkdir()
    rows = [{**row, "fold": place % 2} for place, row in enumerate(synthetic_rows)]
    write_battles(tmp_path / "run" / "battles.parquet", battle_table(rows))


def hours_of(text: str, name: str) -> float:
    """What a line of a plan says of an H100."""
    (line,) = [line for line in text.splitlines() if line.startswith(name)]
    return float(re.search(r"H100 ([\d.]+) h", line)[1])


def make_long(monkeypatch):
    """Have a run take hours where it takes seconds."""
    monkeypatch.setattr("sft_judge.pipelines.planning.pipeline_cost.hours", lambda flops, gpu: flops / 1e13)


def test_the_sum_is_that_of_each_training_as_train_plans_it(steps, battles, tmp_path, monkeypatch, capsys):
    made = steps()
    text = plan_pipeline(made, made, 1)
    student = next(line for line in text.splitlines() if line.startswith("student, 2 runs"))
    words = ["--config", str(tmp_path / "recipe.yaml"), "--battles", str(tmp_path / "run/battles.parquet"), "--plan"]
    assert main(["train", *words]) == 0
    alone = capsys.readouterr().out
    tokens, peak = re.search(r"([\d,]+) tokens per epoch", alone)[1], re.search(r"([\d.]+)  L4", alone)[1]
    assert (
        f"{tokens} tokens per epoch" in student
        and f": {float(peak):.1f} GB on each GPU, fits L4, RTX 4090," in student
    )
    make_long(monkeypatch)
    text = plan_pipeline(made, made, 1)
    each = [hours_of(text, name) for name in ("teacher", "student", "again")]
    assert hours_of(text, "sum") == pytest.approx(sum(each), abs=0.2)
    assert each[1] == pytest.approx(2 * each[2], abs=0.2)


def test_more_gpus_shorten_trainings(steps, battles, monkeypatch):
    make_long(monkeypatch)
    made = steps()
    one, four = (hours_of(plan_pipeline(made, made, gpus), "sum") for gpus in (1, 4))
    assert four == pytest.approx(one / 4, rel=0.05)


def test_only_what_is_to_do_is_planned_and_every_name_once(steps, battles, monkeypatch):
    planned = []
    monkeypatch.setattr(
        "sft_judge.pipelines.planning.pipeline_cost.cost_of_run",
        lambda *args: planned.append(args) or cost_of_run(*args),
    )
    made = steps()
    text = plan_pipeline([step for step in made if step.name != "teacher"], made, 1)
    assert len(planned) == 2 and "teacher" not in text


def test_before_the_battles_are_there_memory_is_known_and_no_hours(steps):
    made = steps()
    text = plan_pipeline(made, made, 1)
    assert re.search(r"student, 2 runs \(not in the sum\): [\d.]+ GB .*hours are known once .*battles.parquet", text)
    assert "sum, run one after" not in text


def test_a_model_is_followed_back_to_what_is_there(steps, tmp_path):
    made = steps()
    for name in ("again", "judge", "student-1", "teacher/fold-0"):
        assert origin_of(str(tmp_path / "run" / name), made) == SMALL
    with pytest.raises(InputError, match="w4 does not exist before quantize has run"):
        origin_of(str(tmp_path / "run" / "w4"), made)
    (tmp_path / "run/w4").mkdir(parents=True)
    assert origin_of(str(tmp_path / "run" / "w4"), made) == str(tmp_path / "run" / "w4")


def test_a_training_that_cannot_be_planned_or_held_is_named_and_left_out_of_the_sum(steps, battles, tmp_path):
    made = steps(
        teacher={"model_name_or_path": str(tmp_path / "run/w4")},
        student={"model_name_or_path": "Qwen/Qwen2.5-72B-Instruct", "use_peft": "false"},
    )
    lines = plan_pipeline(made, made, 1).splitlines()
    assert lines[0].startswith("teacher, 2 runs (not in the sum): not planned: ")
    assert lines[1].startswith("student, 2 runs (not in the sum): ") and "fits none of T4" in lines[1]


@pytest.mark.parametrize("model", [SMALL, "google/gemma-2-9b-it"])
def test_two_shallow_models_tell_a_deep_ones_cost(model, tmp_path):
    """Two kinds of layers alternate in Gemma-2."""
    config = shrink_config(model_config_of(model), tokenizer_of(KNOWN_ARCHITECTURES[model].tokenizer))
    config.num_hidden_layers, config.layer_types = 10, model_config_of(model).layer_types[:10]
    settings = JudgeConfig(output_dir=str(tmp_path), gradient_checkpointing=True)
    adapters = JudgeModelConfig(model_name_or_path=model, use_peft=True, lora_r=4, dtype="float32")
    assert deep_step_cost(config, settings, adapters, 2, 96) == step_cost(config, settings, adapters, 2, 96)


@pytest.mark.parametrize("scheme", stage_parser("quantize")._option_string_actions["--scheme"].choices)
def test_a_pipeline_with_any_scheme_has_a_plan(scheme, steps, tmp_path, capsys):
    steps(quantize={"scheme": scheme}, again={"model_name_or_path": str(tmp_path / "run/w4")})
    assert main(["run", str(tmp_path / "pipeline.yaml"), "--plan", "--gpus", "2"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("to do       teacher: sft-judge train") and "\nstudent, 2 runs" in said
    assert "on 2 GPUs each" in said and not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["lmsys", "wsdm"])
def test_every_training_of_a_competitions_pipeline_starts_from_a_model_of_the_hub(name):
    file = Path(__file__).parents[3] / "recipes" / name / "pipeline.yaml"
    pipeline = read_pipeline(file)
    pipeline["vars"] = {key: value or "file.csv" for key, value in pipeline["vars"].items()}
    made = steps_of(pipeline, file)
    folders = [step.argv[step.argv.index("--output_dir") + 1] for step in made if step.stage == "train"]
    assert folders and all(origin_of(folder, made).count("/") == 1 for folder in folders)
