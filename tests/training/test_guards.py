"""What stops a run: a collapse to one verdict, a loss that is no number, a spike."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sft_judge.cli import main
from sft_judge.data.battles import battle_table, read_battles, write_battles
from sft_judge.modeling.judge_spec import read_spec
from sft_judge.training.guards import CollapseGuard, SpikeGuard

unit, engine = pytest.mark.unit, pytest.mark.engine


@engine
@pytest.mark.parametrize("on_collapse", ["stop", "warn"])
def test_a_collapse_is_told_with_its_figures(on_collapse, command, tmp_path, capsys):
    # a rate too high collapses on one machine and not on another; one that moves nothing is the same on all
    changes = {"learning_rate": 1e-9, "lora_dropout": 0.0, "per_device_train_batch_size": 20}
    words = command(**changes, max_steps=60, collapse_after=10, on_collapse=on_collapse)
    stop = on_collapse == "stop"
    assert main(words) == (3 if stop else 0)
    said = capsys.readouterr().err
    assert "the loss is above that of the class frequencies" in said or "nothing has been learnt" in said
    assert "over the last 1000 battles" in said and (tmp_path / "judge").exists() != stop
    if stop:
        stopped = json.loads((tmp_path / ".judge.partial" / "stopped.json").read_text())
        assert stopped["status"] == "collapsed" and stopped["why"] in said and len(stopped["log"]) > 40
        assert "Stopped at step 59" in said and "a lower learning rate (now " in said and "on_collapse: warn" in said
    else:
        assert read_spec(tmp_path / "judge").training["status"] == "collapsed"


@engine
def test_a_loss_that_is_no_number_stops_the_run_before_the_step_and_names_the_battle(
    command, synthetic_table, tmp_path, capsys
):
    rows = synthetic_table.slice(0, 20).to_pylist()
    rows[7]["margin"] = 3e38  # times margin_scale it is infinite
    write_battles(tmp_path / "margins.parquet", battle_table(rows))
    assert main(command(battles=tmp_path / "margins.parquet", margin_scale=1000, max_steps=9, num_verdicts=3)) == 3
    said = capsys.readouterr().err
    assert f"the loss of battles {rows[7]['id']} is not finite" in said and not (tmp_path / "judge").exists()


def guard_after(gain: float, hits: float, rows: int = 2000, seed: int = 0, guard=None) -> str | None:
    """What the guard says of a judge of two verdicts that gains this much loss and accuracy over the frequencies."""
    rng = np.random.default_rng(seed)
    guard = guard or CollapseGuard(torch.tensor([0.5, 0.5]))
    right, place = rng.random(rows) < 0.5 + hits, rng.integers(0, 2, rows)
    sure = np.linspace(0.5001, 0.9999, 4000)
    gains = np.log(2) + (0.5 + hits) * np.log(sure) + (0.5 - hits) * np.log(1 - sure)
    probs = sure[np.abs(gains - gain).argmin()]
    chosen = np.eye(2)[np.where(right, place, 1 - place)]
    logits = torch.tensor(np.log(np.where(chosen > 0, probs, 1 - probs)))[:, None].float()
    targets = F.one_hot(torch.tensor(place), 2).float()[:, None]
    for part in range(0, rows, 100):
        guard.add(logits[part : part + 100], targets[part : part + 100])
    return guard.look(guard.moments)


@unit
def test_the_collapse_guard_tells_chance_from_skill():
    assert guard_after(0.08, 0.2) is None
    assert "loss is above" in guard_after(-0.3, 0.0)
    assert "nothing has been learnt" in guard_after(0.0, 0.0)
    assert guard_after(-0.3, 0.0, rows=500) is None  # too few to tell
    false_alarms = sum(guard_after(0.02, 0.1, seed=seed) is not None for seed in range(200))
    missed = sum(guard_after(0.0, 0.0, seed=seed) is None for seed in range(200))
    assert false_alarms == 0 and missed <= 20  # two standard errors: 2.3 % of chance passes for skill


@unit
def test_a_judge_that_learnt_and_then_fell_back_is_caught_and_one_that_recovers_is_let_off():
    """Looks far apart and close together; 1,400 battles of skill, 1,100 of chance, 1,100 of skill."""
    for size in (50, 1100):
        guard = CollapseGuard(torch.tensor([0.5, 0.5]))

        def said(gain, hits, rows, guard=guard, size=size):
            looks = range(0, rows, size)
            return [guard_after(gain, hits, min(size, rows - start), seed=start, guard=guard) for start in looks][-1]

        assert said(0.08, 0.2, 1400) is None
        assert "nothing has been learnt" in said(0.0, 0.0, 1100)
        assert said(0.08, 0.2, 1100) is None


@unit
def test_a_spike_is_a_loss_far_above_those_before_and_leaves_their_mean_alone():
    guard = SpikeGuard(4.0)
    rng = np.random.default_rng(0)
    assert not any(guard.is_spike(loss) for loss in rng.uniform(0.2, 1.8, 300))
    mean = guard.mean
    assert guard.is_spike(9.0) and guard.mean == mean and mean == pytest.approx(1, abs=0.2)
    assert not guard.is_spike(1.5)


@engine
@pytest.mark.parametrize(("policy", "factor"), [("skip", None), ("stop", None), ("skip", 5000)])
def test_a_spike_is_skipped_or_stops_the_run(policy, factor, command, synthetic_file, tmp_path, capsys, monkeypatch):
    """One battle of weight 1,000 among 60: its micro-batch is the spike, unless one is more than that."""
    monkeypatch.setattr(SpikeGuard, "WARM_UP", 5)
    rows = [{**row, "weight": 1.0} for row in read_battles(synthetic_file).to_pylist()]
    rows[40]["weight"] = 1000.0
    write_battles(tmp_path / "heavy.parquet", battle_table(rows))
    settings = {"on_spike": policy, "spike_factor": factor, "per_device_train_batch_size": 1, "max_steps": 60}
    words = command(battles=tmp_path / "heavy.parquet", **settings)
    assert main(words) == (3 if policy == "stop" else 0)
    said = capsys.readouterr().err
    if policy == "stop":
        assert f"in battles {rows[40]['id']}." in said and not (tmp_path / "judge").exists()
    else:
        assert said.count("skipped a batch") == (factor is None)
        assert read_spec(tmp_path / "judge").training.get("batches_left_out", 0) == (factor is None)
