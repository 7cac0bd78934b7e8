"""What a pipeline's `--plan` adds up: against closed forms, a whole model's cost, and its own parts."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from sft_judge.cli import main
from sft_judge.core.errors import InputError
from sft_judge.data.battles import battle_table, read_battles, write_battles
from sft_judge.modeling.architectures import KNOWN_ARCHITECTURES, model_config_of
from sft_judge.modeling.tiny_models import shrink_config
from sft_judge.modeling.tiny_tokenizers import tokenizer_of
from sft_judge.pipelines.pipeline import declared_of, read_pipeline, steps_of
from sft_judge.pipelines.planning import pipeline_cost as road_plan
from sft_judge.pipelines.planning.forward_cost import extended, forward_cost
from sft_judge.pipelines.planning.pipeline_cost import Piece, Road
from sft_judge.pipelines.planning.report import total_lines
from sft_judge.pipelines.planning.step_cost import step_cost
from sft_judge.pipelines.planning.training_cost import GPUS, hours
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
ROWS, TOKENS, BUDGET = 1000, 200, 512


@pytest.fixture
def road(tmp_path):
    """A function that gives a Road: teachers of five folds, students of two seeds, merged, quantised, predicting."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    train = {"stage": "train", "config": str(tmp_path / "recipe.yaml"), "battles": "{run}/battles.parquet"}
    steps = {
        "teacher": {**train, "each": {"fold": [0, 1, 2, 3, 4]}, "fold": "{fold}", "holdout_fold": 0},
        "labels": {"stage": "predict", "model": "{run}/teacher", "battles": "{run}/battles.parquet"},
        "student": {**train, "each": {"seed": [1, 2]}, "seed": "{seed}", "output_dir": "{run}/student-{seed}"},
        "merge": {"args": ["{run}/student-1", "{run}/student-2"], "output": "{run}/judge"},
        "quantize": {"model": "{run}/judge", "battles": "{run}/battles.parquet", "output": "{run}/w4", "seqlen": 64},
        "predict": {"model": "{run}/w4", "battles": "{run}/test.parquet", "output": "{run}/probs.parquet"},
        "calibrate": {"probs": "{run}/probs.parquet", "battles": "{run}/battles.parquet", "model": "{run}/w4"},
    }
    steps["teacher"]["output_dir"] = "{run}/teacher/fold-{fold}"
    steps["labels"] |= {"output": "{run}/labels.parquet", "out_of_fold": True}
    declared = {
        "{run}/battles.parquet": {"rows": ROWS, "tokens": TOKENS, "folds": 5},
        "{run}/test.parquet": {"rows": 300, "tokens": TOKENS},
    }
    file = tmp_path / "pipeline.yaml"

    def make(declared=declared, gpus=1, **changes) -> Road:
        changed = {name: {**fields, **changes.get(name, {})} for name, fields in steps.items()}
        pipeline = {"vars": {"run": str(tmp_path / "run")}, "steps": changed, "declared": declared}
        file.write_text(yaml.safe_dump(pipeline, sort_keys=False))
        return Road(steps_of(read_pipeline(file), file), declared_of(read_pipeline(file), file), gpus)

    return make


def pieces_of(road: Road) -> dict[str, list[Piece]]:
    found = {}
    for step in road.steps:
        found.setdefault(step.name, []).append(road.piece(step))
    return found


def test_tokens_disk_and_flops_are_those_of_closed_forms(road):
    pieces = pieces_of(road())
    fifth = ROWS // 5
    # both orders; a fold's teacher leaves out its own fold and the kept one, which for fold 0 are the same
    assert [piece.tokens for piece in pieces["teacher"]] == [2 * TOKENS * fifth * n for n in (4, 3, 3, 3, 3)]
    assert [piece.tokens for piece in pieces["student"]] == [2 * TOKENS * ROWS] * 2
    assert pieces["labels"][0].tokens == 2 * TOKENS * ROWS  # out of fold: each row by one judge
    assert pieces["predict"][0].tokens == 2 * TOKENS * 300
    config = model_config_of(SMALL)
    table = config.vocab_size * config.hidden_size
    linear = 2 * (KNOWN_ARCHITECTURES[SMALL].billions * 1e9 - table)  # FLOPs a token, forward; the head is K rows
    attention = 4 * config.num_hidden_layers * config.hidden_size * TOKENS  # scores and values
    assert pieces["predict"][0].flops == pytest.approx(600 * TOKENS * (linear + attention), rel=0.02)
    # adapters alone, no checkpointing: forward, and back for the activations
    assert pieces["student"][0].flops == pytest.approx(2 * ROWS * TOKENS * 2 * linear, rel=0.15)
    assert pieces["merge"][0].disk == pytest.approx(2 * KNOWN_ARCHITECTURES[SMALL].billions * 1e9, rel=0.01)
    packed = (KNOWN_ARCHITECTURES[SMALL].billions * 1e9 - table) * (4 + 20 / 128) / 8 + 2 * table
    assert pieces["quantize"][0].disk == pytest.approx(packed, rel=0.01)


def test_the_total_is_the_sum_of_the_steps(road):
    pieces = [piece for of_step in pieces_of(road()).values() for piece in of_step]
    said = "\n".join(total_lines(pieces, 1))
    assert int(re.search(r"total: ([\d,]+) tokens", said)[1].replace(",", "")) == sum(each.tokens for each in pieces)
    by_hand = sum(each.flops for each in pieces) / (GPUS["H100"][1] * 1e12 * 0.4) / 3600
    assert f"H100 {by_hand:,.1f} h" in said and "an estimate" in said and "on one GPU" in said


def test_more_gpus_shorten_trainings_alone(road):
    one, four = pieces_of(road()), pieces_of(road(gpus=4))
    assert four["student"][0].flops == pytest.approx(one["student"][0].flops / 4)
    assert four["predict"][0].flops == one["predict"][0].flops


def test_declared_rows_are_used_and_said_until_the_file_is_there(road, synthetic_rows, tmp_path):
    made = road()
    assert pieces_of(made)["student"][0].said == "declared"
    assert any(
        line.startswith("declared: the battles are not there yet")
        for line in total_lines([road().piece(made.steps[5])], 1)
    )
    file = tmp_path / "run" / "battles.parquet"
    file.parent.mkdir()
    write_battles(file, battle_table([{**row, "fold": place % 5} for place, row in enumerate(synthetic_rows)]))
    counted = pieces_of(road())
    assert counted["student"][0].said == "by characters" and counted["predict"][0].said == "declared"
    assert counted["student"][0].tokens < 2 * TOKENS * len(read_battles(file))


def test_what_is_neither_there_nor_declared_is_not_in_the_total(road):
    pieces = [each for of_step in pieces_of(road(declared={})).values() for each in of_step]
    assert {each.name for each in pieces if each.said.startswith("not known")} == {
        "teacher",
        "labels",
        "student",
        "predict",
    }
    assert any(line.startswith("not in the total: teacher (not known: ") for line in total_lines(pieces, 1))


def test_an_adapter_of_a_4_bit_base_is_scored_on_one(road, tmp_path):
    """A 72B teacher's labels fit a GPU of 48 GB then, and none in bfloat16."""
    held = {}
    for packed in ("true", "false"):
        made = road(student={"model_name_or_path": "Qwen/Qwen2.5-72B-Instruct", "load_in_4bit": packed})
        step = replace(made.steps[5], argv=["--model", str(tmp_path / "run/student-1"), *made.steps[5].argv[2:]])
        held[packed] = made.piece(step).gpus
    assert "L40S" in held["true"] and held["false"] == ()


def test_a_step_that_no_gpu_holds_is_named_and_its_time_left_out():
    small = Piece("small", 10, 1e18, ("H100", "H200"), 1e9)
    said = "\n".join(total_lines([small, replace(small, name="huge", gpus=())], 1))
    assert f"H100 {hours(1e18, 'H100'):,.1f} h" in said and re.search(r"none of T4, .* holds it: huge", said)


def test_folds_and_seeds_of_a_recipe_are_costed_once(road, monkeypatch):
    seen = []

    def counting(*settings):
        seen.append(settings)
        return step_cost(*settings)

    monkeypatch.setattr(road_plan, "step_cost", counting)
    pieces_of(road())
    assert len(seen) == 2  # two depths of one model, for five teachers and two students


@pytest.mark.parametrize("model", [SMALL, "google/gemma-2-9b-it"])
def test_two_shallow_models_tell_a_deep_ones_cost(model, tmp_path):
    """Two kinds of layers alternate in Gemma-2."""
    config = shrink_config(model_config_of(model), tokenizer_of(KNOWN_ARCHITECTURES[model].tokenizer))
    config.num_hidden_layers, config.layer_types = 10, model_config_of(model).layer_types[:10]
    settings = JudgeConfig(output_dir=str(tmp_path), gradient_checkpointing=True)
    adapters = JudgeModelConfig(model_name_or_path=model, use_peft=True, lora_r=4, dtype="float32")
    assert extended(step_cost, config, settings, adapters, 2, 96) == step_cost(config, settings, adapters, 2, 96)
    assert extended(forward_cost, config, adapters, 2, 96) == forward_cost(config, adapters, 2, 96)


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        ({"rows": 10}, "tokens None, expected a number above 0"),
        ({"rows": 0, "tokens": 5}, "rows 0, expected a number above 0"),
        ({"rows": 10, "token": 5}, "Did you mean 'tokens'?"),
    ],
)
def test_wrong_declarations_are_refused(declared, reason, road):
    with pytest.raises(InputError, match=re.escape(reason)):
        road(declared={"{run}/battles.parquet": declared})


def test_the_plan_of_a_pipeline_is_printed_after_what_is_to_do(road, tmp_path, capsys):
    road(labels={"each": {}})
    assert main(["run", str(tmp_path / "pipeline.yaml"), "--plan", "--gpus", "2"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("to do       teacher: sft-judge train") and "teacher, 5 runs" in said
    assert "trainings on 2 GPUs each, all else on one" in said and not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["lmsys", "wsdm"])
def test_a_competitions_pipeline_declares_all_battles_that_its_steps_need(name):
    file = Path(__file__).parents[3] / "recipes" / name / "pipeline.yaml"
    pipeline = read_pipeline(file)
    pipeline["vars"] = {key: value or "file.csv" for key, value in pipeline["vars"].items()}
    declared = declared_of(pipeline, file)
    needed = set()
    for step in steps_of(pipeline, file):
        if step.stage in ("train", "predict"):
            first = step.argv.index("--battles") + 1
            needed |= {Path(word) for word in step.argv[first : first + 2] if word.endswith(".parquet")}
        elif step.stage == "shift":
            needed |= set(map(Path, step.argv[:2]))
    assert needed == set(declared)
