"""Going on after an interruption: from this run's own last whole checkpoint, or afresh."""

import shutil

import pytest

from helpers.training_runs import ADAPTER_WEIGHTS, cut_short, losses, weights
from sft_judge.cli import main
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
    fingerprint = (work / "fingerprint").read_text()
    other = {"save_strategy": "steps", "save_steps": 2, "lora_r": 8}
    capsys.readouterr()
    judge = train("judge", **other)
    assert "Going on from" not in capsys.readouterr().out and len(losses(judge)) == 6
    assert len(fingerprint) == 64 and not work.exists()
    afresh = weights(train("afresh", **other))
    assert all((afresh[name] == value).all() for name, value in weights(judge).items())


@engine
@pytest.mark.parametrize("damage", [without_its_state, empty, weights_cut_short, state_cut_short, optimizer_cut_short])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(damage, stopped, tmp_path, capsys):
    words, work = stopped
    damage(work / "checkpoint-4")
    capsys.readouterr()
    assert main(words) == 0
    assert f"Going on from {work / 'checkpoint-2'}" in capsys.readouterr().out
    assert len(losses(tmp_path / "judge")) == 6
