"""Going on after an interruption: from this run's own last whole checkpoint, or afresh."""

import json
import shutil
import zipfile

import pytest

from helpers.training_runs import ADAPTER_WEIGHTS, cut_short, losses, refuses, weights
from sft_judge.cli import main
from sft_judge.core.errors import InputError
from sft_judge.core.files import content_hash
from sft_judge.training.recipes import Recipe
from sft_judge.training.resume import STAMP, _damage
from sft_judge.training.trainer import JudgeTrainer

engine = pytest.mark.engine


@pytest.fixture
def stopped(command, tmp_path, monkeypatch):
    """A run that was interrupted after its checkpoint-4: its words, and the folder of its work."""

    def interrupted(self, *args, **options):
        if self.state.global_step == 4:
            raise KeyboardInterrupt
        return compute_loss(self, *args, **options)

    compute_loss = JudgeTrainer.compute_loss
    words = command("judge", save_strategy="steps", save_steps=2)
    with monkeypatch.context() as patch:
        patch.setattr(JudgeTrainer, "compute_loss", interrupted)
        assert main(words) == 130
    work = tmp_path / ".judge.partial"
    assert (work / "checkpoint-2").is_dir() and (work / "checkpoint-4").is_dir()
    return words, work


def without_its_state(checkpoint):
    """As a kill leaves it: what Trainer writes last is not there."""
    (checkpoint / "trainer_state.json").unlink()


def empty(checkpoint):
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


def weights_cut_short(checkpoint):
    cut_short(checkpoint / ADAPTER_WEIGHTS)


def state_cut_short(checkpoint):
    cut_short(checkpoint / "trainer_state.json")


def optimizer_cut_short(checkpoint):
    cut_short(checkpoint / "optimizer.pt")


@engine
def test_the_checkpoint_of_another_run_is_not_gone_on_from(stopped, command, train, tmp_path, capsys):
    _, work = stopped
    fingerprint = json.loads((work / STAMP).read_text())["fingerprint"]
    other = {"save_strategy": "steps", "save_steps": 2, "lora_r": 8}
    capsys.readouterr()
    judge = train("judge", **other)
    said = capsys.readouterr().out
    assert f"{work} belongs to another recipe, data or version: starting from step 0." in said
    assert "Resuming from" not in said and len(losses(judge)) == 6
    assert len(fingerprint) == 64 and not work.exists()
    afresh = weights(train("afresh", **other))
    assert all((afresh[name] == value).all() for name, value in weights(judge).items())


def without_its_optimizer(checkpoint):
    """As save_only_model leaves it."""
    (checkpoint / "optimizer.pt").unlink()


def without_its_scheduler(checkpoint):
    (checkpoint / "scheduler.pt").unlink()


DAMAGES = [without_its_state, empty, weights_cut_short, state_cut_short, optimizer_cut_short, without_its_optimizer]


@engine
@pytest.mark.parametrize("damage", [*DAMAGES, without_its_scheduler])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(damage, stopped, tmp_path, capsys):
    words, work = stopped
    damage(work / "checkpoint-4")
    capsys.readouterr()
    assert main(words) == 0
    assert f"Resuming from {work / 'checkpoint-2'}" in capsys.readouterr().out
    assert len(losses(tmp_path / "judge")) == 6


@engine
def test_a_run_that_was_interrupted_makes_the_folder_of_one_that_was_not(stopped, tmp_path):
    """But for its log, whose losses are means since the last start; stages that read the folder are up to date."""
    words, _ = stopped
    assert main(words) == 0
    resumed = content_hash(tmp_path / "judge")
    shutil.move(tmp_path / "judge", tmp_path / "resumed")
    assert main(words) == 0
    assert content_hash(tmp_path / "judge") == resumed
    logs = [json.loads((tmp_path / name / "trainer_log.json").read_text()) for name in ("judge", "resumed")]
    assert logs[0] != logs[1]


@engine
def test_checkpoints_without_an_optimizer_are_not_gone_on_from(stopped, tmp_path, capsys):
    words, work = stopped
    for checkpoint in work.glob("checkpoint-*"):
        without_its_optimizer(checkpoint)
    capsys.readouterr()
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said.count(": it has no optimiser state") == 2 and "Resuming from" not in said
    assert len(losses(tmp_path / "judge")) == 6


@pytest.mark.unit
@pytest.mark.parametrize(
    ("files", "is_whole"),
    [
        (["global_step4/x"], True),
        (["optimizer_0/x", "scheduler.pt"], True),
        (["optimizer.pt", "scheduler.pt"], True),
        (["optimizer_0/x"], False),
        (["scheduler.pt"], False),
    ],
)
def test_the_optimizer_is_where_each_launcher_keeps_it(files, is_whole, tmp_path):
    for name in ["trainer_state.json", *files]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
        if name.endswith(".pt"):
            with zipfile.ZipFile(tmp_path / name, "w"):
                pass
    assert (_damage(tmp_path) is None) == is_whole


@engine
@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("processes", 2, "processes was 2 and is 1"),
        ("gradient_accumulation_steps", 4, "gradient_accumulation_steps was 4 and is 1"),
        ("mixed precision", "bf16", "mixed precision was bf16 and is no"),
        ("launcher", "DeepSpeed ZeRO-2", "launcher was DeepSpeed ZeRO-2 and is one process"),
    ],
)
def test_another_launch_of_the_same_run_is_refused_before_the_model_is_loaded(
    name, value, line, stopped, tmp_path, capsys, monkeypatch
):
    words, work = stopped
    stamp = json.loads((work / STAMP).read_text())
    assert name in stamp
    (work / STAMP).write_text(json.dumps({**stamp, name: value}))
    monkeypatch.setattr("sft_judge.training.train.load_base", None)
    refuses(words, 2, line, tmp_path, capsys)
    assert (work / "checkpoint-4").is_dir()
    (work / STAMP).write_text(json.dumps(stamp))
    monkeypatch.undo()
    assert main(words) == 0
    assert f"Resuming from {work / 'checkpoint-4'}" in capsys.readouterr().out


@pytest.mark.unit
def test_the_files_that_a_recipe_names_are_part_of_its_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("rows.parquet", "mine.jinja", "chat.jinja", "zero.json"):
        (tmp_path / name).write_text("text")
    keys = {"battles": "rows.parquet", "chat_template_path": "chat.jinja", "deepspeed": "zero.json"}
    named = Recipe("mine", {**keys, "prompt_template": "mine.jinja"}, []).input_paths()
    assert sorted(path.name for path in named) == ["chat.jinja", "mine.jinja", "rows.parquet", "zero.json"]
    assert [path.name for path in Recipe("mine", {"deepspeed": {"a": 1}}, []).input_paths()] == ["pair.jinja"]
    with pytest.raises(InputError, match="battles is 5, expected the name of a file"):
        Recipe("mine", {"battles": 5}, []).input_paths()
