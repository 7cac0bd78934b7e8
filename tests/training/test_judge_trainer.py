"""JudgeTrainer from Python: the habits of TRL's trainers, as the tests of its SFTTrainer list them."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, TrainingArguments
from trl import SFTConfig

from helpers.training_runs import CLEAN, soft_labels
from sft_judge import Judge, JudgeConfig, JudgeTrainer
from sft_judge.core.errors import GateError, InputError
from sft_judge.data.battles import read_battles
from sft_judge.training.from_python import settings_of

unit, engine = pytest.mark.unit, pytest.mark.engine
BATTLES = [
    {"prompt": f"what is {i}?", "response_a": f"it is {i}", "response_b": "no idea", "verdict": "a" if i % 3 else "b"}
    for i in range(24)
]
CHOSEN = [{"prompt": f"what is {i}?", "chosen": f"it is {i}", "rejected": "no idea"} for i in range(24)]


def settings(folder, **more) -> JudgeConfig:
    usual = {"max_steps": 2, "per_device_train_batch_size": 4, "total_budget": 256, "gradient_checkpointing": False}
    usual |= {"save_strategy": "no", "logging_steps": 1}
    return JudgeConfig(output_dir=str(folder / "judge"), **{**usual, **more})


@pytest.fixture
def trainer(bases, tmp_path):
    """Make a trainer of a tiny model; what a test says takes the place of the usual."""

    def make(args=None, model=None, rows=BATTLES, **more):
        more.setdefault("train_dataset", None if rows is None else Dataset.from_list(rows))
        return JudgeTrainer(model=model or str(bases["qwen2"]), args=args or settings(tmp_path), **more)

    return make


# Forms of data sets

FORMS = {
    "battles": BATTLES,
    "winner": [{**{k: v for k, v in row.items() if k != "verdict"}, "winner": "model_a"} for row in BATTLES],
    "turns": [{**row, **{k: [row[k]] for k in ("prompt", "response_a", "response_b")}} for row in BATTLES],
    "preference": CHOSEN,
    "implicit prompt": [{k: f"{row['prompt']} {row[k]}" for k in ("chosen", "rejected")} for row in CHOSEN],
    "conversational": [
        {k: [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row[k]}] for k in
         ("chosen", "rejected")} for row in CHOSEN
    ],
    "competition": [
        {"id": i, **{k: json.dumps([row[k]]) for k in ("prompt", "response_a", "response_b")}, "winner_model_a": 1,
         "winner_model_b": 0, "winner_tie": 0} for i, row in enumerate(BATTLES)
    ],
}  # fmt: skip


@engine
@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_data_set_trains_on_the_same_texts(form, trainer):
    made = trainer(rows=FORMS[form])
    assert made.data.rows["prompt"].to_pylist()[3] == ["what is 3?"]
    sides = {made.data.rows[f"response_{side}"][3].as_py()[0].strip() for side in "ab"}
    assert sides == {"it is 3", "no idea"} and made.data.counts["rows"] == 24
    before = {name: weight.clone() for name, weight in made.model.named_parameters()}
    made.train()
    assert any(not torch.equal(weight, before[name]) for name, weight in made.model.named_parameters())


@unit
def test_a_class_label_is_read_by_its_name(trainer):
    features = Features({**dict.fromkeys(BATTLES[0], Value("string")), "verdict": ClassLabel(names=["a", "b"])})
    made = trainer(train_dataset=Dataset.from_list(BATTLES, features=features))
    assert made.data.rows["verdict"].to_pylist() == [row["verdict"] for row in BATTLES]


WRONG = {
    "no labels": ([{k: v for k, v in row.items() if k != "verdict"} for row in BATTLES], "No battle with a verdict"),
    "unknown columns": ([{"text": "x"}] * 3, "no column 'prompt'"),
    "near columns": ([{**CHOSEN[0], "chosen": None}], "none of its 1 rows is a battle"),
    "an id twice": ([{**BATTLES[0], "id": "x"}] * 2, "id 'x' is in more than one row"),
    "a teacher of no side": (
        [{**r, "teacher_a": 0.9, "teacher_b": 0.1} for r in CHOSEN],
        "teacher_a: refers to a or b",
    ),
    "soft labels of no side": ([{**r, "soft_a": 0.9, "soft_b": 0.1} for r in CHOSEN], "soft_a: refers to a or b"),
    "half a teacher": ([{**row, "teacher_a": 0.5} for row in BATTLES], "The data set has teacher_a"),
}


@unit
@pytest.mark.parametrize("case", WRONG)
def test_a_data_set_that_cannot_be_trained_on_is_a_value_error_that_names_what_is_wrong(case, trainer):
    rows, reason = WRONG[case]
    with pytest.raises(ValueError, match=reason):
        trainer(rows=rows)


@unit
def test_rows_that_are_no_battle_are_left_out_and_counted(trainer, caplog):
    made = trainer(rows=[*CHOSEN, {**CHOSEN[0], "rejected": CHOSEN[0]["chosen"]}])
    assert made.data.counts["rows"] == 24 and "skipped 1 of 25 rows, not battles" in caplog.text


@unit
def test_an_iterable_data_set_and_other_things_are_refused(trainer):
    for wrong, reason in ((Dataset.from_list(BATTLES).to_iterable_dataset(), "IterableDataset"), (BATTLES, "a list")):
        with pytest.raises(InputError, match=reason):
            trainer(train_dataset=wrong)
    with pytest.raises(InputError, match="There is nothing to train on"):
        trainer(rows=None)


# Models and settings


@engine
def test_a_model_in_memory_and_its_name_train_alike(trainer, bases, tmp_path):
    named = trainer()
    named.train()
    loaded = trainer(model=AutoModelForCausalLM.from_pretrained(bases["qwen2"], dtype=torch.float32))
    loaded.train()
    assert loaded.start.folder == str(bases["qwen2"])
    for (name, one), (_, other) in zip(named.model.named_parameters(), loaded.model.named_parameters(), strict=True):
        assert torch.equal(one, other), name


@unit
def test_model_init_kwargs_give_the_precision_and_the_attention(trainer, tmp_path):
    options = {"dtype": torch.bfloat16, "attn_implementation": "eager"}
    made = trainer(settings(tmp_path, model_init_kwargs=options))
    assert made.model.dtype == torch.bfloat16 and made.model.config._attn_implementation == "eager"
    assert trainer().model.dtype == torch.float32
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="use_kernels is set, but kernels>=.* or there is no GPU"):
            trainer(settings(tmp_path, model_init_kwargs={"use_kernels": True}))


@unit
@pytest.mark.parametrize("kind", [TrainingArguments, SFTConfig])
def test_settings_of_transformers_and_of_sft_are_taken(kind, tmp_path):
    given = kind(output_dir=str(tmp_path / "out"), max_steps=3, learning_rate=3e-4, report_to="none", use_cpu=True)
    config = settings_of(given, "model")
    assert isinstance(config, JudgeConfig) and config.output_dir == given.output_dir
    assert (config.max_steps, config.learning_rate, config.weight_decay) == (3, 3e-4, given.weight_decay)


@unit
def test_without_settings_the_folder_is_named_after_the_model():
    assert settings_of(None, "me/qwen2").output_dir == "qwen2-judge"
    with pytest.raises(InputError, match="args is a dict"):
        settings_of({}, "me/qwen2")


@unit
def test_a_model_of_which_nothing_is_known_needs_its_tokenizer_and_takes_no_adapter(trainer, bases):
    model = AutoModelForCausalLM.from_config(AutoModelForCausalLM.from_pretrained(bases["qwen2"]).config)
    model.config._name_or_path = ""
    with pytest.raises(InputError, match="give processing_class"):
        trainer(model=model)
    tokenizer = AutoTokenizer.from_pretrained(bases["qwen2"])
    assert trainer(model=model, processing_class=tokenizer).data.counts["rows"] == 24
    with pytest.raises(InputError, match="save it first"):
        trainer(model=model, processing_class=tokenizer, peft_config=LoraConfig())


@unit
def test_callbacks_and_optimizers_are_trainers(trainer):
    class Seen(TrainerCallback):
        steps = 0

        def on_step_end(self, args, state, control, **kwargs):
            Seen.steps += 1

    model = trainer().model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    made = trainer(model=model, callbacks=[Seen()], optimizers=(optimizer, None))
    made.train()
    assert Seen.steps == 2 and made.optimizer.optimizer is optimizer


@engine
def test_a_run_goes_on_from_its_checkpoint_as_if_it_had_not_stopped(trainer, tmp_path):
    whole = trainer(settings(tmp_path, max_steps=4))
    whole.train()
    first = trainer(settings(tmp_path, max_steps=4, save_strategy="steps", save_steps=2))
    first.add_callback(StopAt(2))
    first.train()
    second = trainer(settings(tmp_path, max_steps=4))
    second.train(resume_from_checkpoint=True)
    assert second.state.global_step == 4
    for name, weight in whole.model.named_parameters():
        torch.testing.assert_close(second.model.get_parameter(name), weight, atol=1e-6, rtol=0)


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


# PEFT


@engine
def test_adapters_start_alike_for_one_seed_change_and_leave_the_base(trainer):
    starts = []
    for seed in range(2):
        torch.manual_seed(seed)
        made = trainer(peft_config=LoraConfig(target_modules="all-linear"))
        starts.append({n: p.clone() for n, p in made.model.named_parameters()})
    assert all(torch.equal(weight, starts[1][name]) for name, weight in starts[0].items())
    made.train()
    changed = {name for name, weight in made.model.named_parameters() if not torch.equal(weight, starts[1][name])}
    assert changed and all("lora_" in name for name in changed)


@unit
def test_other_adapters_than_lora_are_refused(trainer):
    with pytest.raises(InputError, match="PREFIX_TUNING"):
        trainer(peft_config=PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))


@engine
@pytest.mark.parametrize("start", [True, "pissa"])
def test_an_adapter_is_saved_on_the_base_as_it_was(start, trainer, tmp_path):
    made = trainer(peft_config=LoraConfig(target_modules="all-linear", init_lora_weights=start))
    made.train()
    made.save_model()
    rows = [BATTLES[3]]
    expected = made.predict(Dataset.from_list(rows)).predictions[0]
    saved = Judge.load(str(tmp_path / "judge")).judge(BATTLES[3]["prompt"], "it is 3", "no idea")
    probs = np.exp(expected - np.logaddexp.reduce(expected, axis=-1, keepdims=True))[0]
    assert saved.a == pytest.approx((probs[0, 0] + probs[1, 1]) / 2, abs=1e-4)


@unit
@pytest.mark.parametrize("more", [{"use_dora": True}, {"modules_to_save": ["norm"]}])
def test_an_adapter_that_would_lose_what_it_learnt_when_it_is_saved_is_refused(more, trainer):
    with pytest.raises(InputError, match="is set, but an adapter initialised by pissa is saved as its difference"):
        trainer(peft_config=LoraConfig(target_modules="all-linear", init_lora_weights="pissa", **more))


@unit
def test_a_model_with_an_adapter_already_is_taken(trainer, bases):
    base = AutoModelForCausalLM.from_pretrained(bases["qwen2"], dtype=torch.float32)
    made = trainer(model=get_peft_model(base, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")))
    assert made.start.folder == str(bases["qwen2"])


# Evaluation


@engine
def test_the_figures_of_an_evaluation_are_the_judges_own(trainer, tmp_path):
    config = settings(tmp_path, eval_strategy="steps", eval_steps=1, metric_for_best_model="ece", save_steps=1,
                      load_best_model_at_end=True, save_strategy="steps")  # fmt: skip
    made = trainer(config, eval_dataset=Dataset.from_list(BATTLES[:12]))
    made.train()
    logged = [entry for entry in made.state.log_history if "eval_log_loss" in entry]
    assert len(logged) == 2
    assert {"eval_log_loss", "eval_accuracy", "eval_ece", "eval_swap_agreement"} <= set(logged[0])
    assert made.state.best_metric == min(entry["eval_ece"] for entry in logged)


@engine
def test_several_data_sets_have_figures_of_their_own_and_so_has_a_fresh_one(trainer, tmp_path):
    sets = {"one": Dataset.from_list(BATTLES[:12]), "other": Dataset.from_list(BATTLES[:8] * 1)}
    made = trainer(settings(tmp_path, eval_strategy="steps", eval_steps=2), eval_dataset=DatasetDict(sets))
    made.train()
    logged = {key for entry in made.state.log_history for key in entry}
    assert {"eval_one_log_loss", "eval_other_log_loss"} <= logged
    fresh = made.evaluate(Dataset.from_list(BATTLES[12:]))
    assert 0 < fresh["eval_log_loss"] < 3
    own = made.predict(Dataset.from_list(BATTLES[12:]), metric_key_prefix="test")
    assert own.metrics["test_log_loss"] == pytest.approx(fresh["eval_log_loss"])


@unit
def test_ones_own_compute_metrics_takes_the_place(trainer, tmp_path):
    made = trainer(compute_metrics=lambda prediction: {"mine": len(prediction.label_ids)})
    assert made.evaluate(Dataset.from_list(BATTLES[:10]))["eval_mine"] == 10


@unit
def test_an_evaluation_without_battles_is_refused(trainer, tmp_path):
    with pytest.raises(InputError, match="eval_strategy is steps, but no battles are held out to"):
        trainer(settings(tmp_path, eval_strategy="steps", eval_steps=1))


# Teachers


@engine
def test_a_battles_file_and_proven_labels_train_a_student(trainer, synthetic_file, tmp_path):
    labels = soft_labels(tmp_path / "labels.parquet", synthetic_file, CLEAN)
    made = trainer(settings(tmp_path, battles=str(synthetic_file)), rows=None, teacher_labels=labels)
    assert "teacher" in made.train_dataset.column_names
    made.train()
    assert made.state.global_step == 2
    with pytest.raises(GateError, match="proven only for a battles file"):
        trainer(train_dataset=Dataset(read_battles(synthetic_file)), teacher_labels=labels)


@unit
def test_columns_of_a_teacher_are_labels_only_where_the_user_vouches_for_it(trainer, tmp_path):
    rows = [{**row, "teacher_a": 0.2, "teacher_b": 0.8} for row in BATTLES]
    with pytest.raises(GateError, match="external_teacher: true"):
        trainer(rows=rows)
    made = trainer(settings(tmp_path, external_teacher=True), rows=rows)
    shown = np.array(made.train_dataset[0]["teacher"])  # [order, teacher, verdict]
    np.testing.assert_allclose(shown[:, 0], [[0.2, 0.8], [0.8, 0.2]], atol=1e-6)


@unit
@pytest.mark.parametrize(("ties", "label"), [("drop", [0.25, 0.75]), ("split", [0.3, 0.7])])
def test_a_tie_in_columns_of_a_teacher_is_dropped_or_split_as_the_settings_say(ties, label, trainer, tmp_path):
    rows = [{**row, "teacher_a": 0.2, "teacher_b": 0.6, "teacher_tie": 0.2} for row in BATTLES]
    made = trainer(settings(tmp_path, external_teacher=True, teacher_ties=ties), rows=rows)
    shown = np.array(made.train_dataset[0]["teacher"])  # [order, teacher, verdict]
    np.testing.assert_allclose(shown[:, 0], [label, label[::-1]], atol=1e-6)


# What is left behind


@engine
def test_the_folder_is_a_judge_that_predicts_what_the_trainer_does(trainer, tmp_path):
    made = trainer(settings(tmp_path, save_strategy="steps", save_steps=1))
    made.train()
    made.save_model()
    folder = tmp_path / "judge"
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "tokenizer.json", "judge.json", "README.md"} <= names
    assert not {"training_args.bin", "start"} & names and not (folder / "checkpoint-1" / "README.md").exists()
    assert "judge" in (folder / "README.md").read_text() and made.model.model_tags == ["trl", "judge"]
    saved = Judge.load(str(folder)).judge(BATTLES[3]["prompt"], "it is 3", "no idea")
    expected = made.predict(Dataset.from_list([BATTLES[3]])).predictions[0][0]
    probs = np.exp(expected - np.logaddexp.reduce(expected, axis=-1, keepdims=True))
    assert saved.a == pytest.approx((probs[0, 0] + probs[1, 1]) / 2, abs=1e-5)
    training = json.loads((folder / "judge.json").read_text())["training"]
    assert training["rows"] == 24 and training["steps"] == 2 and training["battles_sha256"] is None


@engine
def test_the_command_and_the_class_train_the_same_weights(trainer, train, synthetic_file, tmp_path):
    """One code path: a recipe of the command, and its settings from Python."""
    folder = train("command", use_peft="false", max_steps=2)
    recipe = json.loads((folder / "judge.json").read_text())["training"]["recipe"]
    names = ("prompt_template", "learning_rate", "swap", "per_device_train_batch_size")
    config = settings(tmp_path, battles=recipe["battles"], **{name: recipe[name] for name in names})
    made = trainer(config, rows=None)
    made.train()
    made.save_model(str(tmp_path / "python"))
    one, other = ((place / "model.safetensors").read_bytes() for place in (folder, tmp_path / "python"))
    assert one == other


@unit
def test_a_table_of_battles_is_taken_as_it_is(trainer, synthetic_table):
    made = trainer(train_dataset=synthetic_table)
    assert isinstance(made.data.rows, pa.Table) and made.data.rows.num_rows == synthetic_table.num_rows
    assert Path(made.start.folder).name == "qwen2"
