"""Recipes that distil, and R-Drop: the loss of a run against one counted by hand, and what is refused."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers.training_runs import (
    CLEAN,
    base_logits,
    in_both_orders,
    losses,
    proof,
    refuses,
    soft_labels,
)
from sft_judge.cli import main
from sft_judge.data.battles import battle_table, write_battles
from sft_judge.data.probs import Probs, read_probs, write_probs
from sft_judge.modeling.verdict_head import VerdictHead
from sft_judge.training.losses import symmetric_kl
from sft_judge.training.soft_labels import (
    MIN_LABEL,
)
from sft_judge.training.trainer import JudgeTrainer

unit, engine = pytest.mark.unit, pytest.mark.engine


@engine
def test_two_teachers_each_with_its_weight_and_temperature_give_the_naive_loss(train, synthetic_file, tmp_path):
    """The first step, before anything moved: against the plain losses of one teacher alone, and of none."""
    files = [soft_labels(tmp_path / "one.parquet", synthetic_file, CLEAN), tmp_path / "two.parquet"]
    one = read_probs(files[0])
    write_probs(files[1], Probs(one.ids, one.orders, np.roll(one.logp, 2, axis=0), one.metadata))
    same = {"limit": 4, "lora_dropout": 0.0, "max_steps": 1}
    hard = losses(train("hard", **same))[0]
    alone = [
        losses(train(f"alone-{place}", labels=file, distill_weight=1.0, distill_temperature=temperature, **same))[0]
        for place, (file, temperature) in enumerate(zip(files, (1.0, 5.0), strict=True))
    ]
    settings = {"labels": files, "distill_weight": [0.45, 0.35], "distill_temperature": [1.0, 5.0]}
    seen = losses(train("both", **settings, **same))[0]
    assert seen == pytest.approx(0.2 * hard + 0.45 * alone[0] + 0.35 * alone[1], abs=1e-5)
    assert json.loads((tmp_path / "both" / "judge.json").read_text())["training"]["corrected"] == 0


@engine
@pytest.mark.parametrize("layout", [{}, {"padding_free": "true"}])
def test_r_drop_without_differing_passes_is_the_plain_curve(layout, train):
    """Dropout of almost nothing: the passes are the same, their mean is the plain loss, their KL nothing."""
    same = {"max_steps": 4, **layout}
    plain = losses(train("plain", lora_dropout=0.0, **same))
    again = losses(train("again", lora_dropout=1e-9, rdrop_weight=5.0, **same))
    np.testing.assert_allclose(again, plain, atol=2e-5)


def labels_as_shown(file, rows: int) -> np.ndarray:
    """A teacher's probabilities [N, 2, 3] of the first battles, each in the order shown."""
    probs = np.exp(read_probs(file).logp).reshape(-1, 2, 3)[:rows]
    assert probs.min() > MIN_LABEL  # else they would be floored
    return np.stack([probs[:, 0], probs[:, 1][:, [1, 0, 2]]], axis=1)


def own_labels(rows: list[dict]) -> np.ndarray:
    """The battles' own verdicts, one-hot [N, 3]."""
    return np.array([[row["verdict"] == name for name in ("a", "b", "tie")] for row in rows], float)


@engine
@pytest.mark.parametrize(
    "changes", [{"distill_kind": "cosine"}, {"distill_kind": "both"}, {"distill_confidence": "true"}], ids=str
)
def test_every_way_to_distil_gives_the_naive_loss(changes, train, bases, synthetic_file, synthetic_table, tmp_path):
    """The first step's loss, before anything moved, counted out by hand."""
    file = soft_labels(tmp_path / "labels.parquet", synthetic_file, CLEAN)
    settings = {"limit": 4, "lora_dropout": 0.0, "max_steps": 1, "distill_weight": 0.6, "distill_temperature": 2.0}
    folder, rows = train(labels=file, **settings, **changes), synthetic_table.slice(0, 4).to_pylist()
    logits = base_logits(folder, bases["qwen2"], rows).double().numpy()
    teacher, hard = labels_as_shown(file, 4), in_both_orders(own_labels(rows)).numpy()
    student, softened = np.exp(logits / 2), np.sqrt(teacher)
    student, softened = (each / each.sum(axis=-1, keepdims=True) for each in (student, softened))
    kl = (softened * np.log(softened / student)).sum(axis=-1)
    lengths = np.linalg.norm(softened, axis=-1) * np.linalg.norm(student, axis=-1)
    cosine = 1 - (softened * student).sum(axis=-1) / lengths
    soft = 4 * {"cosine": cosine, "both": (kl + cosine) / 2}.get(changes.get("distill_kind"), kl)
    weight = np.full_like(soft, 0.6)
    if "distill_confidence" in changes:
        weight *= 1 + (teacher * np.log(teacher)).sum(axis=-1) / np.log(3)
        assert np.ptp(weight) > 0.1
    verdicts = -(hard * (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))).sum(axis=-1)
    expected = ((1 - weight) * verdicts + weight * soft).mean()
    assert losses(folder)[0] == pytest.approx(expected, abs=1e-5)


@engine
@pytest.mark.parametrize("ties", ["drop", "split"])
def test_a_recipe_says_what_a_student_of_two_verdicts_makes_of_a_teachers_ties(
    ties, train, bases, synthetic_table, tmp_path
):
    """The first step's loss of a teacher of three verdicts alone: KL from its a and b, tie dropped or split."""
    rows = [row for row in synthetic_table.to_pylist() if row["verdict"] != "tie"][:4]
    write_battles(tmp_path / "battles.parquet", battle_table(rows))
    file = soft_labels(tmp_path / "labels.parquet", tmp_path / "battles.parquet", CLEAN)
    settings = {"distill_weight": 1.0, "distill_temperature": 1.0, "lora_dropout": 0.0, "max_steps": 1}
    folder = train(battles=tmp_path / "battles.parquet", labels=file, teacher_ties=ties, **settings)
    teacher, logits = labels_as_shown(file, 4), base_logits(folder, bases["qwen2"], rows)
    a, b, tie = np.moveaxis(teacher, -1, 0)
    first = {"drop": a / (a + b), "split": a + tie / 2}[ties]
    targets = torch.tensor(np.stack([first, 1 - first], axis=-1))
    expected = F.kl_div(torch.log_softmax(logits.double(), dim=-1), targets, reduction="none").sum(dim=-1).mean()
    assert logits.shape == (4, 2, 2) and losses(folder)[0] == pytest.approx(expected.item(), abs=1e-5)
    assert np.abs(a / (a + b) - a - tie / 2).max() > 0.05


@engine
def test_a_recipe_says_how_sure_teachers_must_be_to_correct_a_label(
    train, bases, synthetic_file, synthetic_table, tmp_path
):
    """The first step's loss of the labels alone: a verdict gives way where both orders' mean is surer of another."""
    file, count = soft_labels(tmp_path / "labels.parquet", synthetic_file, CLEAN), 12
    settings = {"limit": count, "per_device_train_batch_size": count, "lora_dropout": 0.0, "max_steps": 1}
    folder = train(labels=file, distill_weight=0.0, correct_above=0.6, **settings)
    rows = synthetic_table.slice(0, count).to_pylist()
    mean = np.exp(read_probs(file).logp).reshape(-1, 2, 3)[:count].mean(axis=1)
    own = own_labels(rows)
    corrected = (mean.max(axis=1) > 0.6) & (mean.argmax(axis=1) != own.argmax(axis=1))
    targets = in_both_orders(np.where(corrected[:, None], mean, own)).flatten(0, 1)
    expected = F.cross_entropy(base_logits(folder, bases["qwen2"], rows).flatten(0, 1), targets)
    assert losses(folder)[0] == pytest.approx(expected.item(), abs=1e-5)
    assert json.loads((folder / "judge.json").read_text())["training"]["corrected"] == corrected.sum()
    assert 0 < corrected.sum() < ((mean > 0.5) & (own == 0)).any(axis=1).sum()  # another limit corrects others


@engine
@pytest.mark.parametrize(
    ("folds", "key"), [(proof({0: [0], 1: [1], 2: [2]}), "allow_in_sample"), (None, "external_teacher")]
)
def test_a_recipe_may_vouch_for_labels_that_nothing_proves(folds, key, train, command, synthetic_file, tmp_path):
    labels = soft_labels(tmp_path / "labels.parquet", synthetic_file, folds)
    assert main(command("refused", labels=labels)) == 3
    judge = train(labels=labels, max_steps=1, **{key: "true"})
    assert json.loads((judge / "judge.json").read_text())["training"]["recipe"][key] is True


@engine
@pytest.mark.parametrize("layout", [{}, {"padding_free": "true"}])
def test_r_drop_gives_the_naive_loss_of_two_passes(layout, train, monkeypatch):
    """Each step's loss from the verdict logits of both passes: the mean of their own, and the weighted KL."""
    passes, shown = [], []
    forward, plain = VerdictHead.__call__, JudgeTrainer.compute_loss

    def watched_forward(*args):
        output = forward(*args)
        passes.append(output.logits.detach().double().chunk(2))
        return output

    def watched_loss(self, model, inputs, *args, **more):
        shown.append(inputs["targets"].flatten(0, 1).double())
        return plain(self, model, inputs, *args, **more)

    monkeypatch.setattr(VerdictHead, "__call__", watched_forward)
    monkeypatch.setattr(JudgeTrainer, "compute_loss", watched_loss)
    settings = {"rdrop_weight": 3.0, "lora_dropout": 0.5, "learning_rate": 0.02, "max_steps": 3}
    seen, terms = losses(train(**settings, **layout)), []
    for loss, (one, other), targets in zip(seen, passes, shown, strict=True):
        p, q = torch.softmax(one, dim=1), torch.softmax(other, dim=1)
        own = (F.cross_entropy(one, targets) + F.cross_entropy(other, targets)) / 2
        kl = ((p * (p / q).log()).sum(dim=1) + (q * (q / p).log()).sum(dim=1)).mean() / 2
        terms.append(kl.item())
        assert loss == pytest.approx((own + 3.0 * kl).item(), abs=1e-4)
    assert max(terms) > 1e-3


@engine
def test_r_drop_without_dropout_and_a_student_in_its_teachers_place_are_refused(
    command, synthetic_file, tmp_path, capsys
):
    refuses(command(lora_dropout=0.0, rdrop_weight=1.0), 2, "no dropout is active", tmp_path, capsys)
    labels = soft_labels(tmp_path / "labels.parquet", synthetic_file, CLEAN)
    probs = read_probs(labels)
    for model in (tmp_path / "judge", tmp_path / "judge" / "fold-0"):
        write_probs(labels, Probs(probs.ids, probs.orders, probs.logp, {**probs.metadata, "model": str(model)}))
        refuses(command(labels=labels), 2, "which it would replace", tmp_path, capsys)


@unit
def test_symmetric_kl_is_the_mean_of_both_ways_and_zero_for_equal_passes():
    draw = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 4, 2, 3, generator=draw)
    p, q = torch.softmax(one, -1), torch.softmax(other, -1)
    both = F.kl_div(p.log(), q, reduction="none").sum(-1) + F.kl_div(q.log(), p, reduction="none").sum(-1)
    torch.testing.assert_close(symmetric_kl(one, other), both / 2)
    assert symmetric_kl(one, one + 3.0).abs().max() < 1e-6


@unit
def test_the_front_door_says_what_a_wrong_labels_file_is(command, tmp_path, capsys):
    (tmp_path / "labels.csv").write_text("id,a\n1,2\n")
    capsys.readouterr()
    assert main(command(labels=tmp_path / "labels.csv")) == 2
    assert "logp_a" in capsys.readouterr().err
