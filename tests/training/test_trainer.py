"""The trainer: what a step adds up to, what evaluation tells, and how a killed run goes on."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, log_loss

from helpers.training_runs import (
    CRASH,
    base_logits,
    in_both_orders,
    log_loss_of,
    losses,
    weights,
)
from sft_judge.cli import main
from sft_judge.data.battles import battle_table, write_battles
from sft_judge.modeling.judge_spec import read_spec
from sft_judge.modeling.loading import load_model, load_tokenizer
from sft_judge.prompts.prompt import JudgePrompt
from sft_judge.training import train as training
from sft_judge.training.collator import VerdictCollator
from sft_judge.training.trainer import JudgeTrainer

unit, engine = pytest.mark.unit, pytest.mark.engine
ONE_BY_ONE = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}


# Batches


@unit
def test_a_batch_holds_each_order_of_each_battle_as_a_row():
    examples = [
        {"input_ids": [[5, 6, 1], [7, 2]], "targets": [[1.0, 0.0], [0.0, 1.0]]},
        {"input_ids": [[8, 1], [9, 9, 9, 2]], "targets": [[0.5, 0.5], [0.25, 0.75]]},
    ]
    batch = VerdictCollator(pad_token_id=3, pad_to_multiple_of=8)(examples)
    rows = [ids for example in examples for ids in example["input_ids"]]
    assert batch["input_ids"].shape == (4, 8)
    for row, ids in enumerate(rows):
        assert batch["input_ids"][row].tolist() == ids + [3] * (8 - len(ids))
        assert batch["attention_mask"][row].tolist() == [1] * len(ids) + [0] * (8 - len(ids))
        assert batch["labels"][row].tolist() == [-100] * (len(ids) - 1) + ids[-1:] + [-100] * (8 - len(ids))
    assert batch["targets"].tolist() == [example["targets"] for example in examples]


@engine
@pytest.mark.parametrize(
    "changes",
    [
        *({}, ONE_BY_ONE, {"padding_free": "true"}, {"pad_to_multiple_of": 64}, {"last_layer_at_answer": "true"}),
        pytest.param({"torch_compile": "true"}, marks=pytest.mark.full),
    ],
)
def test_steps_of_any_shape_give_one_curve(changes, train, monkeypatch):
    """14 battles in steps of 8: the second step of an epoch has 6, as 4 and 2, and is a mean over the 6."""
    shapes, compute_loss = [], JudgeTrainer.compute_loss

    def watched(self, model, inputs, *args, **more):
        shapes.append((len(inputs["targets"]), *inputs["input_ids"].shape))
        return compute_loss(self, model, inputs, *args, **more)

    monkeypatch.setattr(JudgeTrainer, "compute_loss", watched)
    settings = {"limit": 14, "lora_dropout": 0.0, "max_steps": 8, "logging_steps": 1}
    plain = losses(train("plain", **settings, per_device_train_batch_size=8))
    shape = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    other = losses(train("other", **settings, **{**shape, **changes}))
    assert len(plain) == 8 and np.ptp(plain) > 0.01
    np.testing.assert_allclose(other, plain, atol=2e-5)
    assert abs(np.mean(other) - np.mean(plain)) < 5e-6
    (first, *_), (battles, rows, width) = zip(*shapes[:8], strict=True), np.array(shapes[8:]).T
    assert set(first) == {8, 6} and set(battles) == ({1} if changes == ONE_BY_ONE else {4, 2})
    assert (rows == (1 if "padding_free" in changes else 2 * battles)).all()
    assert (width % changes.get("pad_to_multiple_of", 1) == 0).all() and any(each[2] % 64 for each in shapes[:8])


@engine
def test_mixed_precision_gives_adapters_what_the_layers_have_and_the_same_losses(train, monkeypatch):
    """PEFT would widen each input to float32 for mixed precision to narrow it again."""
    seen, forward = set(), torch.nn.Linear.forward

    def watched(self, given):
        if self.weight.shape[0] == 4 and self.training:  # the first half of an adapter
            seen.add(given.dtype)
        return forward(self, given)

    monkeypatch.setattr(torch.nn.Linear, "forward", watched)
    settings = {"lora_r": 4, "lora_dropout": 0.0, "max_steps": 3, "logging_steps": 1, "limit": 16}
    mixed = {"bf16": "true", "dtype": "bfloat16"}
    narrow = losses(train("narrow", **settings, **mixed))
    assert seen == {torch.bfloat16}
    monkeypatch.setattr(JudgeTrainer, "_casts_by_itself", lambda self: False)
    wide = losses(train("wide", **settings, **mixed))
    assert seen == {torch.bfloat16, torch.float32} and narrow == wide


@engine
def test_a_battle_of_weight_two_counts_as_one_that_stands_there_twice(train, synthetic_table, tmp_path):
    rows = synthetic_table.slice(0, 3).to_pylist()
    files = {
        "weighted": [{**row, "weight": weight} for row, weight in zip(rows, (2.0, 1.0, 0.0), strict=True)],
        "repeated": [rows[0], {**rows[0], "id": "again"}, rows[1]],
    }
    seen = {}
    for name, table in files.items():
        write_battles(tmp_path / f"{name}.parquet", battle_table(table))
        settings = {"lora_dropout": 0.0, "max_steps": 2, "num_verdicts": 3}
        seen[name] = losses(train(name, battles=tmp_path / f"{name}.parquet", **settings))
    np.testing.assert_allclose(seen["weighted"], seen["repeated"], atol=1e-5)


@engine
@pytest.mark.parametrize(
    "changes", [{"full_vocab_weight": 0.3}, {"agreement_weight": 0.7}, {"label_smoothing_factor": 0.2}]
)
def test_every_term_of_the_loss_is_the_naive_one(changes, train, bases, synthetic_table):
    """The first step's loss, before anything moved, against whole logits and torch's own losses."""
    folder = train(limit=4, lora_dropout=0.0, max_steps=1, **changes)
    spec, tokenizer = read_spec(folder), load_tokenizer(str(bases["qwen2"]))
    rows, model = synthetic_table.slice(0, 4).to_pylist(), load_model(str(bases["qwen2"]), "float32")
    total = 0.0
    for row, shown in zip(rows, JudgePrompt.of(tokenizer, spec).encode(rows, ("ab", "ba")), strict=True):
        with torch.no_grad():
            whole = torch.stack([model(input_ids=torch.tensor([ids])).logits[0, -1] for ids in shown])
        places = torch.tensor([{"a": 0, "b": 1, "tie": 2}[row["verdict"]], {"a": 1, "b": 0, "tie": 2}[row["verdict"]]])
        logits, smoothing = whole[:, spec.verdict_ids], changes.get("label_smoothing_factor", 0.0)
        share = changes.get("full_vocab_weight", 0.0)  # at 1 the plain loss of a language model on the verdict's token
        total += share * F.cross_entropy(whole, torch.tensor(spec.verdict_ids)[places]).item()
        total += (1 - share) * F.cross_entropy(logits, places, label_smoothing=smoothing).item()
        p, q = torch.softmax(logits[0], 0), torch.softmax(logits[1], 0)[[1, 0, 2]]
        apart = ((p * (p / q).log()).sum() + (q * (q / p).log()).sum()).item() / 2
        total += changes.get("agreement_weight", 0.0) * apart
    assert losses(folder)[0] == pytest.approx(total / 4, abs=1e-4)


@engine
def test_margin_scale_takes_a_battles_own_margin_from_its_preferred_verdicts_logit(
    train, bases, synthetic_table, tmp_path
):
    """The first step's loss, a battle without a margin and one of a soft label among them, against torch's own."""
    rows, margins = synthetic_table.slice(0, 4).to_pylist(), [3.0, 0.0, None, 1.5]
    labels = [[0.75, 0.25, 0.0], *([float(row["verdict"] == name) for name in ("a", "b", "tie")] for row in rows[1:])]
    rows[0] |= {"verdict": None, "soft_a": 0.75, "soft_b": 0.25, "soft_tie": 0.0}
    table = battle_table([{**row, "margin": margin} for row, margin in zip(rows, margins, strict=True)])
    write_battles(tmp_path / "margins.parquet", table)
    settings = {"margin_scale": 0.7, "lora_dropout": 0.0, "max_steps": 1, "num_verdicts": 3}
    folder = train(battles=tmp_path / "margins.parquet", **settings)
    logits, targets = base_logits(folder, bases["qwen2"], rows), in_both_orders(labels)
    lowered = logits - 0.7 * torch.tensor([3.0, 0.0, 0.0, 1.5])[:, None, None] * targets
    expected, plain = (F.cross_entropy(each.flatten(0, 1), targets.flatten(0, 1)) for each in (lowered, logits))
    assert losses(folder)[0] == pytest.approx(expected.item(), abs=1e-5) and expected - plain > 0.1


@engine
def test_neftune_adds_noise_of_its_size_to_the_embeddings_in_training_alone(train, monkeypatch):
    """Uniform within alpha / sqrt(tokens * width) (Jain et al. 2023, algorithm 1, https://arxiv.org/abs/2310.05914)."""
    noise = {True: [], False: []}
    load_base = training.load_base

    def watched(*args):
        model, shown = load_base(*args), []
        embedding = model.get_input_embeddings()

        def look(layer, args, kwargs):
            hidden = args[0] if args else kwargs["hidden_states"]
            added = hidden.detach() - embedding.weight[shown[-1]].detach()
            noise[layer.training].append(added * (added[0].numel() ** 0.5))

        embedding.register_forward_pre_hook(lambda _, args: shown.append(args[0]))
        model.get_decoder().layers[0].register_forward_pre_hook(look, with_kwargs=True)
        return model

    monkeypatch.setattr(training, "load_base", watched)
    settings = {"lora_dropout": 0.0, "max_steps": 2, "learning_rate": 1e-30, "fold": 1}
    settings |= {"eval_strategy": "steps", "eval_steps": 1}
    plain = train("plain", **settings)
    assert not any(added.any() for added in noise[True] + noise[False])
    noise[True].clear(), noise[False].clear()
    noisy = train("noisy", **settings, neftune_noise_alpha=5)
    for added in noise[True]:
        assert 4.9 < added.abs().max() <= 5.001 and abs(added.mean()) < 0.1
    assert noise[True] and noise[False] and not any(added.any() for added in noise[False])
    assert min(abs(one - other) for one, other in zip(losses(plain), losses(noisy), strict=True)) > 1e-4
    told = [read_spec(folder).training["eval"]["eval_log_loss"] for folder in (plain, noisy)]
    assert told[0] == pytest.approx(told[1], abs=1e-9)


@engine
def test_the_first_loss_is_the_mean_over_both_orders_of_the_first_battles(train, bases, synthetic_table):
    """Both orders of a battle in one step; a fresh adapter adds nothing, so the base gives the loss."""
    folder = train(limit=4, lora_dropout=0.0, max_steps=1)
    seen, spec = losses(folder)[0], read_spec(folder)
    tokenizer = load_tokenizer(str(bases["qwen2"]))
    rows, model = synthetic_table.slice(0, 4).to_pylist(), load_model(str(bases["qwen2"]), "float32")
    total = 0.0
    for row, shown in zip(rows, JudgePrompt.of(tokenizer, spec).encode(rows, ("ab", "ba")), strict=True):
        for ids, places in zip(shown, ({"a": 0, "b": 1, "tie": 2}, {"a": 1, "b": 0, "tie": 2}), strict=True):
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1, spec.verdict_ids]
            total += F.cross_entropy(logits, torch.tensor(places[row["verdict"]])).item()
    assert seen == pytest.approx(total / 8, abs=1e-4)


@engine
def test_the_same_seed_gives_the_same_weights_and_another_does_not(train):
    first, again, other = train("one", max_steps=3), train("two", max_steps=3), train("three", max_steps=3, seed=7)
    assert losses(first) == losses(again) != losses(other)
    for name, value in weights(first).items():
        assert value.equal(weights(again)[name])


@engine
def test_evaluation_is_one_forward_a_batch_and_its_log_loss_is_that_of_every_row(
    train, bases, synthetic_table, monkeypatch
):
    """20 battles in batches of 8: the last batch is short, and none of its rows may be lost."""
    from sft_judge.modeling.verdict_head import VerdictHead

    calls, forward = [], VerdictHead.__call__

    def counted(self, model, inputs, *more):
        calls.append((model.training, len(inputs["input_ids"])))
        return forward(self, model, inputs, *more)

    monkeypatch.setattr(VerdictHead, "__call__", counted)
    folder = train(fold=1, eval_strategy="steps", eval_steps=6, per_device_eval_batch_size=8)
    assert [rows for training_mode, rows in calls if not training_mode] == [16, 16, 8]
    spec = read_spec(folder)
    assert spec.training["folds_seen"] == [0, 2]
    assert sum(spec.training["verdict_shares"]) == pytest.approx(1) and min(spec.training["verdict_shares"]) > 0

    held = [row for row in synthetic_table.to_pylist() if row["fold"] == 1]
    prompt, model = JudgePrompt.of(load_tokenizer(str(folder)), spec), load_model(str(folder), "float32")
    losses_of_rows, chosen, probs, masses = [], [], [], []
    truth = ["a b tie".split().index(row["verdict"]) for row in held]
    for place, shown in zip(truth, prompt.encode(held, ("ab", "ba")), strict=True):
        orders = []
        for ids, columns in zip(shown, ([0, 1, 2], [1, 0, 2]), strict=True):
            with torch.no_grad():
                whole = model(input_ids=torch.tensor([ids])).logits[0, -1]
            logits = whole[spec.verdict_ids][columns]
            losses_of_rows.append(F.cross_entropy(logits, torch.tensor(place)).item())
            masses.append(torch.softmax(whole, dim=0)[spec.verdict_ids].sum().item())
            orders.append(torch.softmax(logits.double(), dim=0).numpy())
        probs.append(np.mean(orders, axis=0))
        chosen.append([order.argmax() for order in orders])
    logged = {key.removeprefix("eval_"): value for key, value in spec.training["eval"].items()}
    assert logged["loss"] == pytest.approx(np.mean(losses_of_rows), abs=1e-5)
    assert logged["log_loss"] == pytest.approx(log_loss(truth, probs, labels=[0, 1, 2]), abs=1e-5)
    assert logged["accuracy"] == pytest.approx(accuracy_score(truth, np.argmax(probs, axis=1)))
    assert logged["swap_agreement"] == pytest.approx(np.mean([first == second for first, second in chosen]))
    assert logged["choice_mass"] == pytest.approx(np.mean(masses), rel=1e-4)
    for name in ("log_loss", "accuracy"):
        assert logged[f"{name}_low"] < logged[name] < logged[f"{name}_high"]


@engine
def test_the_best_evaluation_chooses_the_judge(train, synthetic_file):
    """Asked for the greatest log loss, which is an early one: those weights are kept, and theirs is what is told."""
    often = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    chosen = {"load_best_model_at_end": "true", "metric_for_best_model": "log_loss", "greater_is_better": "true"}
    folder = train(fold=1, learning_rate=0.05, lora_dropout=0.0, **often, **chosen)
    log = json.loads((folder / "trainer_log.json").read_text())
    seen = [entry["eval_log_loss"] for entry in log if "eval_log_loss" in entry]
    told = read_spec(folder).training["eval"]["eval_log_loss"]
    assert told == max(seen) > seen[-1]
    assert log_loss_of(folder, synthetic_file) == pytest.approx(told, abs=1e-4)


# Going on


@engine
def test_a_killed_run_goes_on_and_ends_as_an_undisturbed_one(train, command, tmp_path, capsys, monkeypatch):
    settings = {"save_strategy": "steps", "save_steps": 2}  # dropout on: the random state goes on as well
    whole = train("whole", **settings)
    words = command("killed", **settings)
    run = subprocess.run([sys.executable, "-c", CRASH, "5", *words], capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL, run.stderr[-2000:]
    assert not (tmp_path / "killed").exists() and (tmp_path / ".killed.partial" / "checkpoint-4").is_dir()
    capsys.readouterr()
    steps, compute_loss = [], JudgeTrainer.compute_loss
    monkeypatch.setattr(JudgeTrainer, "compute_loss", lambda *args, **kw: steps.append(1) or compute_loss(*args, **kw))
    assert main(words) == 0
    assert "Resuming from" in capsys.readouterr().out and len(steps) == 2
    killed = tmp_path / "killed"
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(killed)[name], value, atol=1e-6, rtol=0)
    assert losses(killed) == losses(whole)
    assert not (tmp_path / ".killed.partial").exists()


@engine
def test_an_interrupted_run_with_other_settings_starts_afresh(train, command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(JudgeTrainer, "compute_loss", interrupt_after(4, JudgeTrainer.compute_loss))
    assert main(command("judge", save_strategy="steps", save_steps=2)) == 130
    assert "To resume, run" in capsys.readouterr().err and not (tmp_path / "judge").exists()
    monkeypatch.undo()
    fresh = train("judge", learning_rate=5e-4)
    assert "Resuming" not in capsys.readouterr().out and len(losses(fresh)) == 6


def interrupt_after(count: int, compute_loss):
    calls = []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) > count:
            raise KeyboardInterrupt
        return compute_loss(self, *args, **kwargs)

    return interrupted
