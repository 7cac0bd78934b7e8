"""The trainer: what a step adds up to, what a run sees and refuses, and how a killed one goes on."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, log_loss

from sft_judge.battles.schema import battle_table, read_battles, write_battles
from sft_judge.cli import main
from sft_judge.collator import VerdictCollator
from sft_judge.engines.transformers_engine import TransformersEngine
from sft_judge.errors import GateError, InputError
from sft_judge.files import content_hash
from sft_judge.guards import CollapseGuard, SpikeGuard
from sft_judge.learning_rates import question
from sft_judge.models import load_model, load_tokenizer
from sft_judge.probs import Probs, write_probs
from sft_judge.prompts import JudgePrompt
from sft_judge.samplers import BalancedSampler
from sft_judge.spec import Budget, read_spec
from sft_judge.templates import read_template
from sft_judge.trainer import JudgeTrainer
from sft_judge.training import counts_line
from sft_judge.training_data import mixed, read_teacher, shown_orders, split_folds, verdict_dataset

RECIPE = """
dtype: float32
prompt_template: compact
total_budget: 256
swap: both
learning_rate: 1.0e-3
per_device_train_batch_size: 4
max_steps: 6
logging_steps: 1
save_strategy: "no"
disable_tqdm: true
use_peft: true
lora_r: 4
"""
ADAPTER_WEIGHTS = "adapter_model.safetensors"
unit, engine = pytest.mark.unit, pytest.mark.engine


@pytest.fixture
def command(bases, planted_file, tmp_path):
    """A function that gives the words of a training command; a setting of None is left out."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)

    def words(output: str = "judge", **changes) -> list[str]:
        settings = {"model_name_or_path": bases["qwen2"], "battles": planted_file, "output_dir": tmp_path / output}
        pairs = {**settings, **changes}.items()
        lists = [(key, value if isinstance(value, list) else [value]) for key, value in pairs if value is not None]
        given = [str(word) for key, values in lists for word in (f"--{key}", *values)]
        return ["train", "--config", str(tmp_path / "recipe.yaml"), *given]

    return words


@pytest.fixture
def train(command, tmp_path):
    """A function that trains through the command line and gives the judge's folder."""

    def run(output: str = "judge", **changes) -> Path:
        assert main(command(output, **changes)) == 0
        return tmp_path / output

    return run


def losses(folder: Path) -> list[float]:
    log = json.loads((folder / "trainer_log.json").read_text())
    return [entry["loss"] for entry in log if "loss" in entry]


def weights(folder: Path) -> dict:
    return load_file(folder / ADAPTER_WEIGHTS)


def soft_labels(path: Path, battles: Path, folds: dict | None, drop: int = 0) -> Path:
    """A teacher's file: drawn probabilities for both orders, with the proof that `folds` gives."""
    ids = read_battles(battles)["id"].to_pylist()[drop:]
    probs = np.random.default_rng(3).dirichlet(np.ones(3), 2 * len(ids))
    metadata = {} if folds is None else {"folds": folds, "battles_sha256": content_hash(battles)}
    write_probs(path, Probs(np.repeat(ids, 2), np.tile(["ab", "ba"], len(ids)), np.log(probs), metadata))
    return path


def proof(seen: dict) -> dict:
    return {str(fold): {"model": f"fold-{fold}", "folds_seen": folds} for fold, folds in seen.items()}


CLEAN = proof({0: [1, 2], 1: [0, 2], 2: [0, 1]})


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
def test_any_split_of_a_batch_into_accumulated_steps_gives_one_curve(train):
    curves = []
    for place, (size, steps) in enumerate([(4, 1), (2, 2), (1, 4)]):
        changes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "lora_dropout": 0.0}
        curves.append(losses(train(f"judge-{place}", **changes)))
    assert len(curves[0]) == 6 and len(set(curves[0])) == 6
    np.testing.assert_allclose(curves[1], curves[0], atol=1e-5)
    np.testing.assert_allclose(curves[2], curves[0], atol=1e-5)


@engine
@pytest.mark.parametrize("changes", [{}, {"padding_free": "true"}, {"pad_to_multiple_of": 64}])
def test_steps_of_any_shape_give_one_curve(changes, train):
    """14 battles in steps of 8: the second step of an epoch has 6, as 4 and 2, and is a mean over the 6."""
    settings = {"limit": 14, "lora_dropout": 0.0, "max_steps": 8, "logging_steps": 1}
    plain = losses(train("plain", **settings, per_device_train_batch_size=8))
    shape = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    other = losses(train("other", **settings, **shape, **changes))
    assert len(plain) == 8 and np.ptp(plain) > 0.01
    np.testing.assert_allclose(other, plain, atol=2e-5)
    assert abs(np.mean(other) - np.mean(plain)) < 5e-6


@engine
def test_a_battle_of_weight_two_counts_as_one_that_stands_there_twice(train, planted_table, tmp_path):
    rows = planted_table.slice(0, 3).to_pylist()
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
    "changes", [{"full_vocab_weight": 1.0}, {"agreement_weight": 1.0}, {"label_smoothing_factor": 0.2}]
)
def test_every_term_of_the_loss_is_the_naive_one(changes, train, bases, planted_table):
    """The first step's loss, before anything moved, against whole logits and torch's own losses."""
    folder = train(limit=4, lora_dropout=0.0, max_steps=1, **changes)
    spec, tokenizer = read_spec(folder), load_tokenizer(str(bases["qwen2"]))
    rows, model = planted_table.slice(0, 4).to_pylist(), load_model(str(bases["qwen2"]), "float32")
    total = 0.0
    for row, shown in zip(rows, JudgePrompt.of(tokenizer, spec).encode(rows, ("ab", "ba")), strict=True):
        with torch.no_grad():
            whole = torch.stack([model(input_ids=torch.tensor([ids])).logits[0, -1] for ids in shown])
        places = torch.tensor([{"a": 0, "b": 1, "tie": 2}[row["verdict"]], {"a": 1, "b": 0, "tie": 2}[row["verdict"]]])
        logits, smoothing = whole[:, spec.verdict_ids], changes.get("label_smoothing_factor", 0.0)
        if "full_vocab_weight" in changes:  # the plain loss of a language model on the verdict's token
            total += F.cross_entropy(whole, torch.tensor(spec.verdict_ids)[places]).item()
        else:
            total += F.cross_entropy(logits, places, label_smoothing=smoothing).item()
        if "agreement_weight" in changes:
            p, q = torch.softmax(logits[0], 0), torch.softmax(logits[1], 0)[[1, 0, 2]]
            total += ((p * (p / q).log()).sum() + (q * (q / p).log()).sum()).item() / 2
    assert losses(folder)[0] == pytest.approx(total / 4, abs=1e-4)


@engine
def test_the_first_loss_is_the_mean_over_both_orders_of_the_first_battles(train, bases, planted_table):
    """Both orders of a battle in one step; a fresh adapter adds nothing, so the base gives the loss."""
    folder = train(limit=4, lora_dropout=0.0, max_steps=1)
    seen, spec = losses(folder)[0], read_spec(folder)
    tokenizer = load_tokenizer(str(bases["qwen2"]))
    rows, model = planted_table.slice(0, 4).to_pylist(), load_model(str(bases["qwen2"]), "float32")
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
    train, bases, planted_table, monkeypatch
):
    """20 battles in batches of 8: the last batch is short, and none of its rows may be lost."""
    from sft_judge.verdict_head import VerdictHead

    calls, forward = [], VerdictHead.__call__

    def counted(self, model, inputs, *more):
        calls.append((model.training, len(inputs["input_ids"])))
        return forward(self, model, inputs, *more)

    monkeypatch.setattr(VerdictHead, "__call__", counted)
    folder = train(fold=1, eval_strategy="steps", eval_steps=6, per_device_eval_batch_size=8)
    assert [rows for training_mode, rows in calls if not training_mode] == [16, 16, 8]
    spec = read_spec(folder)
    assert spec.training["folds_seen"] == [0, 2]

    held = [row for row in planted_table.to_pylist() if row["fold"] == 1]
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
def test_the_best_evaluation_chooses_the_judge(train, planted_file):
    """Asked for the greatest log loss, which is an early one: those weights are kept, and theirs is what is told."""
    often = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    chosen = {"load_best_model_at_end": "true", "metric_for_best_model": "log_loss", "greater_is_better": "true"}
    folder = train(fold=1, learning_rate=0.05, lora_dropout=0.0, **often, **chosen)
    log = json.loads((folder / "trainer_log.json").read_text())
    seen = [entry["eval_log_loss"] for entry in log if "eval_log_loss" in entry]
    told = read_spec(folder).training["eval"]["eval_log_loss"]
    assert told == max(seen) > seen[-1]
    assert log_loss_of(folder, planted_file) == pytest.approx(told, abs=1e-4)


# Going on


CRASH = """
import os, signal, sys
from transformers import TrainerCallback
import sft_judge.training as training
from sft_judge.cli import main

class Crash(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)

whole = training.JudgeTrainer
training.JudgeTrainer = lambda **options: whole(**options, callbacks=[Crash()])
sys.exit(main(sys.argv[2:]))
"""


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
    assert "Going on from" in capsys.readouterr().out and len(steps) == 2
    killed = tmp_path / "killed"
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(killed)[name], value, atol=1e-6, rtol=0)
    assert losses(killed) == losses(whole)
    assert not (tmp_path / ".killed.partial").exists()


@engine
def test_an_interrupted_run_with_other_settings_starts_afresh(train, command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(JudgeTrainer, "compute_loss", interrupt_after(4, JudgeTrainer.compute_loss))
    assert main(command("judge", save_strategy="steps", save_steps=2)) == 130
    assert "this goes on" in capsys.readouterr().err and not (tmp_path / "judge").exists()
    monkeypatch.undo()
    fresh = train("judge", learning_rate=5e-4)
    assert "Going on" not in capsys.readouterr().out and len(losses(fresh)) == 6


def interrupt_after(count: int, compute_loss):
    calls = []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) > count:
            raise KeyboardInterrupt
        return compute_loss(self, *args, **kwargs)

    return interrupted


# A moving average, and the order


@engine
def test_the_judge_is_the_average_of_the_weights_after_each_step(train, command, tmp_path):
    """Against the checkpoints of a run without: the same steps, averaged by hand with the decay's warm-up."""
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1}
    kept = []
    save = JudgeTrainer._save_checkpoint

    def keep(self, model, trial):
        save(self, model, trial)
        kept.append(load_file(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}" / ADAPTER_WEIGHTS))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JudgeTrainer, "_save_checkpoint", keep)
        last = weights(train("plain", **settings))
    start = {name: torch.zeros_like(value) for name, value in last.items()}
    average = weights(train("start", **settings, ema_decay=0.99999, learning_rate=1e-30)) | start
    average = {name: value for name, value in average.items() if "lora_B" in name}  # A starts at random, B at zero
    for step, after in enumerate(kept, 1):
        decay = min(0.9, (1 + step) / (10 + step))
        average = {name: decay * value + (1 - decay) * after[name] for name, value in average.items()}
    seen = weights(train("averaged", **settings, ema_decay=0.9))
    assert len(kept) == 4
    for name, value in average.items():
        torch.testing.assert_close(seen[name], value, atol=1e-7, rtol=1e-4)
        assert not torch.allclose(seen[name], last[name], atol=1e-6)


@engine
def test_a_killed_run_goes_on_with_its_average(train, command, tmp_path, capsys):
    settings = {"save_strategy": "steps", "save_steps": 2, "ema_decay": 0.9}
    whole = weights(train("whole", **settings))
    run = subprocess.run([sys.executable, "-c", CRASH, "5", *command("killed", **settings)], capture_output=True)
    assert run.returncode == -signal.SIGKILL
    killed = weights(train("killed", **settings))
    assert "Going on from" in capsys.readouterr().out
    for name, value in whole.items():
        torch.testing.assert_close(killed[name], value, atol=1e-6, rtol=0)


@unit
def test_batches_of_like_lengths_keep_the_verdicts_in_proportion_over_windows():
    rng = np.random.default_rng(0)
    verdicts, lengths = rng.choice(3, 5000, p=[0.4, 0.4, 0.2]), rng.lognormal(6, 0.8, 5000).astype(int)
    plain = BalancedSampler(verdicts, np.zeros(5000, int), lengths, 0, None)
    grouped = BalancedSampler(verdicts, np.zeros(5000, int), lengths, 0, 8)
    order = np.array(list(grouped))
    assert sorted(order) == list(range(5000)) and list(order) != list(plain)
    shares = np.bincount(verdicts) / 5000
    for end in range(1600, 5001, 1600):
        assert np.abs(np.bincount(verdicts[order[:end]], minlength=3) - shares * end).max() <= 1
    padded = {name: padding(lengths[list(sampler)]) for name, sampler in (("plain", plain), ("grouped", grouped))}
    assert padded["grouped"] < 0.05 < padded["plain"]
    grouped.set_epoch(1)
    assert list(grouped) != order.tolist()


def padding(lengths: np.ndarray, size: int = 8) -> float:
    """The share of a batch's tokens that are padding."""
    batches = lengths.reshape(-1, size)
    return 1 - batches.sum() / (batches.max(axis=1) * size).sum()


@unit
def test_learning_rates_far_from_the_known_ones_are_questioned():
    qwen = 14_000_000_000
    assert question(1e-4, qwen, True) is None and question(1e-5, qwen, False) is None
    assert "3e-05 to 0.00014" in question(1e-2, qwen, True) and "all parameters" in question(1e-4, qwen, False)
    assert question(1e-6, qwen, True) and "70B" in question(1e-2, 72_000_000_000, True)
    assert question(1e-1, 1_000_000, True) is None  # tiny ones are tried in seconds


# Adapters


@engine
@pytest.mark.parametrize(
    "changes",
    [{"use_dora": "true"}, {"use_rslora": "true"}, {"lora_init": "pissa"}, {"lora_target_modules": "qkv"}],
    ids=lambda changes: next(iter(changes.values())) + next(iter(changes)),
)
def test_adapters_of_every_kind_open_in_plain_peft_and_merge_to_the_same(changes, train, bases, planted_table, capsys):
    folder = train(max_steps=4, learning_rate=5e-3, lora_dropout=0.0, **changes)
    assert "LoRA r 4, alpha 32" in (said := capsys.readouterr().out) or "DoRA r 4, alpha 32" in said
    spec, base = read_spec(folder), load_model(str(bases["qwen2"]), "float32")
    rows = planted_table.slice(0, 6).to_pylist()
    prompt = JudgePrompt.of(load_tokenizer(str(folder)), spec)
    ids = torch.tensor([shown[0][:60] for shown in prompt.encode(rows, ("ab",))])
    with torch.no_grad():
        untrained = base(input_ids=ids).logits
        adapted = PeftModel.from_pretrained(base, folder)
        seen = adapted(input_ids=ids).logits
        merged = adapted.merge_and_unload()(input_ids=ids).logits
    torch.testing.assert_close(merged, seen, atol=1e-4, rtol=1e-4)
    assert (seen - untrained).abs().max() > 1e-3
    names = {name.split(".")[-3] for name in weights(folder) if "lora_A" in name}
    others = set() if "lora_target_modules" in changes else {"o_proj", "gate_proj", "up_proj", "down_proj"}
    assert names == {"q_proj", "k_proj", "v_proj"} | others


@engine
def test_pissa_starts_as_the_base_and_is_saved_as_what_it_learnt(train, bases, planted_file):
    """W = residual + BA at the start, so the first loss is LoRA's, whose start adds nothing; later ones differ."""
    settings = {"lora_dropout": 0.0, "max_steps": 4, "learning_rate": 5e-3, "fold": 1, "eval_strategy": "steps"}
    plain = train("plain", **settings, eval_steps=4)
    pissa = train("pissa", **settings, eval_steps=4, lora_init="pissa")
    assert losses(pissa)[0] == pytest.approx(losses(plain)[0], abs=1e-5)
    assert abs(losses(pissa)[3] - losses(plain)[3]) > 1e-4
    seen, told = log_loss_of(pissa, planted_file), read_spec(pissa).training["eval"]["eval_log_loss"]
    assert seen == pytest.approx(told, abs=1e-4)


def log_loss_of(folder: Path, battles: Path) -> float:
    """The log loss of a saved judge on fold 1, both orders averaged, by the reference engine."""
    spec = read_spec(folder)
    held = [row for row in read_battles(battles).to_pylist() if row["fold"] == 1]
    with TransformersEngine(str(folder), spec, "float32") as engine:
        both = JudgePrompt.of(engine.tokenizer, spec).encode(held, ("ab", "ba"))
        probs = np.exp(engine.score([ids for shown in both for ids in shown])).reshape(-1, 2, 3)
    probs = (probs[:, 0] + probs[:, 1][:, [1, 0, 2]]) / 2
    return log_loss(["a b tie".split().index(row["verdict"]) for row in held], probs, labels=[0, 1, 2])


# When it goes wrong


@engine
@pytest.mark.parametrize("on_collapse", ["stop", "warn"])
def test_a_collapse_is_told_with_its_figures(on_collapse, command, tmp_path, capsys):
    changes = {"learning_rate": 1.0, "lora_dropout": 0.0, "per_device_train_batch_size": 20}
    words = command(**changes, max_steps=60, collapse_after=10, on_collapse=on_collapse)
    stop = on_collapse == "stop"
    assert main(words) == (3 if stop else 0)
    said = capsys.readouterr().err
    assert "the loss stands above that of the class frequencies" in said or "nothing has been learnt" in said
    assert "over the last 1000 battles" in said and (tmp_path / "judge").exists() != stop
    if stop:
        stopped = json.loads((tmp_path / ".judge.partial" / "stopped.json").read_text())
        assert stopped["status"] == "collapsed" and stopped["why"] in said and len(stopped["log"]) > 40
        assert "Stopped at step 59" in said and "The learning rate is 0.0" in said and "--on_collapse warn" in said
    else:
        assert read_spec(tmp_path / "judge").training["status"] == "collapsed"


@engine
def test_a_loss_that_is_no_number_stops_the_run_before_the_step_and_names_the_battles(command, planted_table, capsys):
    assert main(command(swap="none", learning_rate=1e30)) == 3
    said = capsys.readouterr().err
    names = said.split("Stopped at step 2: the loss of battles ")[1].split(" is not finite")[0].split(", ")
    assert len(names) == 4 and set(names) <= set(planted_table["id"].to_pylist())


def guard_after(gain: float, hits: float, rows: int = 2000, seed: int = 0) -> str | None:
    """What the guard says of a judge of two verdicts that gains this much loss and accuracy over the frequencies."""
    rng = np.random.default_rng(seed)
    guard = CollapseGuard(torch.tensor([0.5, 0.5]))
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
    assert "loss stands above" in guard_after(-0.3, 0.0)
    assert "nothing has been learnt" in guard_after(0.0, 0.0)
    assert guard_after(-0.3, 0.0, rows=500) is None  # too few to tell
    false_alarms = sum(guard_after(0.02, 0.1, seed=seed) is not None for seed in range(200))
    missed = sum(guard_after(0.0, 0.0, seed=seed) is None for seed in range(200))
    assert false_alarms == 0 and missed <= 20  # two standard errors: 2.3 % of chance passes for skill


@unit
def test_a_spike_is_a_loss_far_above_those_before_and_leaves_their_mean_alone():
    guard = SpikeGuard(4.0)
    rng = np.random.default_rng(0)
    assert not any(guard.is_spike(loss) for loss in rng.uniform(0.2, 1.8, 300))
    mean = guard.mean
    assert guard.is_spike(9.0) and guard.mean == mean and mean == pytest.approx(1, abs=0.2)
    assert not guard.is_spike(1.5)


@engine
@pytest.mark.parametrize("policy", ["skip", "stop"])
def test_a_spike_is_skipped_or_stops_the_run(policy, command, planted_file, tmp_path, capsys, monkeypatch):
    """One battle of weight 1,000 among 60: its micro-batch is the spike."""
    monkeypatch.setattr(SpikeGuard, "WARM_UP", 5)
    rows = [{**row, "weight": 1.0} for row in read_battles(planted_file).to_pylist()]
    rows[40]["weight"] = 1000.0
    write_battles(tmp_path / "heavy.parquet", battle_table(rows))
    words = command(battles=tmp_path / "heavy.parquet", on_spike=policy, per_device_train_batch_size=1, max_steps=60)
    assert main(words) == (3 if policy == "stop" else 0)
    said = capsys.readouterr().err
    if policy == "stop":
        assert f"in battles {rows[40]['id']}." in said and not (tmp_path / "judge").exists()
    else:
        assert said.count("left out a batch") == 1
        assert read_spec(tmp_path / "judge").training["batches_left_out"] == 1


# What a run sees


@unit
def test_training_leaves_out_both_folds_and_evaluates_on_one(planted_table):
    train_rows, eval_rows = split_folds(planted_table, 0, 2)
    assert set(train_rows["fold"].to_pylist()) == {1} and set(eval_rows["fold"].to_pylist()) == {0}
    everything, none = split_folds(planted_table, None, None)
    assert everything is planted_table and none is None
    assert split_folds(planted_table, None, 1)[1] is None


@unit
def test_a_row_gets_the_teachers_label_of_the_order_it_is_shown_in(bases, planted_table):
    prompt = make_prompt(bases)
    rows = planted_table.slice(0, 8)
    rng = np.random.default_rng(0)
    teacher = {(name, order): rng.dirichlet(np.ones(3)) for name in rows["id"].to_pylist() for order in ("ab", "ba")}
    for policy in ("both", "random", "none"):
        examples = verdict_dataset(rows, prompt, policy, 5, teacher)[0]
        shown = shown_orders(policy, rows["id"].to_pylist(), 5)
        for row, example, orders in zip(rows.to_pylist(), examples, shown, strict=True):
            for label, ids, order in zip(example["teacher"], example["input_ids"], orders, strict=True):
                a, b, tie = teacher[row["id"], order]
                np.testing.assert_allclose(label, (a, b, tie) if order == "ab" else (b, a, tie), rtol=1e-6)
                assert ids[:-1] == prompt.encode([row], (order,))[0][0]
    assert {orders for orders in shown_orders("random", ["x"] * 50, 1)} == {("ab",), ("ba",)}


@unit
def test_a_row_without_a_verdict_learns_from_the_teacher_alone_or_is_left_out(bases, planted_table):
    rows = [{**row, "verdict": None} for row in planted_table.slice(0, 3).to_pylist()]
    rows[0]["verdict"] = "a"
    prompt = make_prompt(bases)
    dataset, counts = verdict_dataset(battle_table(rows), prompt, "both", 0)
    assert (len(dataset), counts["unlabelled"]) == (1, 2)
    teacher = {(row["id"], order): np.array([0.2, 0.7, 0.1]) for row in rows for order in ("ab", "ba")}
    dataset, counts = verdict_dataset(battle_table(rows), prompt, "both", 0, teacher)
    assert (len(dataset), counts["unlabelled"]) == (3, 0)
    np.testing.assert_allclose(dataset[1]["targets"], [[0.2, 0.7, 0.1], [0.7, 0.2, 0.1]], rtol=1e-6)
    assert [ids[-1] for ids in dataset[1]["input_ids"]] == [prompt.verdict_ids[1], prompt.verdict_ids[0]]


@unit
@pytest.mark.parametrize("soft", [{"soft_a": 0.5, "soft_b": 0.5}, {"soft_a": 3.0, "soft_b": 1.0, "soft_tie": 4.0}])
def test_soft_labels_are_normalised_over_the_judges_verdicts(soft, bases, planted_table):
    rows = battle_table([{**planted_table.slice(0, 1).to_pylist()[0], "verdict": None, **soft}])
    for words in (["A", "B"], ["A", "B", "tie"]):
        prompt = make_prompt(bases, words)
        values = np.array([soft["soft_a"], soft["soft_b"], soft.get("soft_tie", 0.0)])[: len(words)]
        values /= values.sum()
        np.testing.assert_allclose(verdict_dataset(rows, prompt, "none", 0)[0][0]["targets"], [values], rtol=1e-6)


def make_prompt(bases, words=("A", "B", "tie"), template="compact", budget=(200, 200, 400), family="qwen2", **options):
    tokenizer = load_tokenizer(str(bases[family]))
    return JudgePrompt(tokenizer, read_template(template), list(words), Budget(*budget), **options)


# Rows on disk


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of rows, and a list that grows whenever battles are tokenised."""
    tokenised, fit = [], JudgePrompt.fit
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "rows")
    monkeypatch.setattr(JudgePrompt, "fit", lambda self, rows: tokenised.append(len(rows)) or fit(self, rows))
    return tokenised


def drawn_teacher(table, seed=0) -> dict:
    rng = np.random.default_rng(seed)
    return {(name, order): rng.dirichlet(np.ones(3)) for name in table["id"].to_pylist() for order in ("ab", "ba")}


@unit
@pytest.mark.parametrize("policy", ["both", "random", "none"])
@pytest.mark.parametrize("taught", [False, True])
def test_cached_rows_are_the_uncached_ones_and_are_made_once(policy, taught, cache, bases, planted_table):
    teacher = drawn_teacher(planted_table) if taught else None
    plain = verdict_dataset(planted_table, make_prompt(bases), policy, 5, teacher)
    first = verdict_dataset(planted_table, make_prompt(bases), policy, 5, teacher, cached=True)
    made = len(cache)
    again = verdict_dataset(planted_table, make_prompt(bases), policy, 5, teacher, cached=True)
    assert len(cache) == made == 2
    for dataset, counts in (first, again):
        assert counts == plain[1] and dataset.to_list() == plain[0].to_list()
        assert dataset.features.arrow_schema.equals(plain[0].features.arrow_schema)


@unit
def test_other_content_does_not_hit_the_cache(cache, bases, planted_table, monkeypatch):
    teacher = drawn_teacher(planted_table)
    rows = planted_table.to_pylist()
    for field in ("prompt", "response_b"):
        rows[7] = {**rows[7], field: [*rows[7][field][:-1], rows[7][field][-1] + "!"]}
    other = [{**rows[0], "verdict": "a" if rows[0]["verdict"] != "a" else "b"}, *planted_table.to_pylist()[1:]]
    closed = make_prompt(bases)
    closed.tokenizer.chat_template = closed.tokenizer.chat_template.replace("assistant\\n", "assistant\\n\\n")
    variants = [
        (planted_table, make_prompt(bases), "both", 0, None),
        (planted_table, make_prompt(bases), "random", 0, None),
        (planted_table, make_prompt(bases), "random", 1, None),
        (planted_table, make_prompt(bases), "both", 0, teacher),
        (planted_table, make_prompt(bases), "both", 0, drawn_teacher(planted_table, 1)),
        (planted_table, make_prompt(bases, template="rounds"), "both", 0, None),
        (planted_table, make_prompt(bases, budget=(200, 200, 399)), "both", 0, None),
        (planted_table, make_prompt(bases, words=("B", "A", "tie")), "both", 0, None),
        (planted_table, make_prompt(bases, language=True), "both", 0, None),
        (planted_table, make_prompt(bases, family="gemma2"), "both", 0, None),
        (planted_table, closed, "both", 0, None),
        (planted_table.slice(0, 59), make_prompt(bases), "both", 0, None),
        (planted_table.take(list(range(59, -1, -1))), make_prompt(bases), "both", 0, None),
        (battle_table(rows), make_prompt(bases), "both", 0, None),
        (battle_table(other), make_prompt(bases), "both", 0, None),
    ]
    for place, variant in enumerate(variants):
        verdict_dataset(*variant, cached=True)
        assert len(cache) == place + 1, f"variant {place} hit the rows of another"
    for variant in variants:
        verdict_dataset(*variant, cached=True)
    assert len(cache) == len(variants)
    monkeypatch.setattr("sft_judge.row_cache.inspect.getsource", lambda module: "changed code")
    verdict_dataset(*variants[0], cached=True)
    assert len(cache) == len(variants) + 1


@unit
def test_columns_that_rows_are_not_made_of_do_not_matter_to_the_cache(cache, bases, planted_table):
    from sft_judge.battles.schema import set_column

    verdict_dataset(planted_table, make_prompt(bases), "both", 0, cached=True)
    models = pa.array([f"model {place}" for place in range(60)])
    verdict_dataset(set_column(planted_table, "model_a", models), make_prompt(bases), "both", 0, cached=True)
    assert len(cache) == 1


@unit
def test_bad_input_comes_through_the_cache_as_it_is_and_leaves_nothing_there(cache, bases, planted_table, tmp_path):
    with pytest.raises(InputError, match="Raise the total budget"):
        verdict_dataset(planted_table, make_prompt(bases, budget=(20, 20, 20)), "both", 0, cached=True)
    assert not list((tmp_path / "rows").rglob("*.arrow"))


@unit
def test_what_the_budget_cut_is_counted_by_field(bases, planted_table):
    prompt = make_prompt(bases, budget=(8, 12, 200))
    counts = verdict_dataset(planted_table, prompt, "both", 0)[1]
    whole = make_prompt(bases, budget=(9999, 9999, 30_000)).fit(planted_table.to_pylist())
    cut = prompt.fit(planted_table.to_pylist())
    for name in ("prompt", "response_a", "response_b"):
        lost = [
            sum(map(len, getattr(before, name))) - sum(map(len, getattr(after, name)))
            for before, after in zip(whole, cut, strict=True)
        ]
        assert counts["cut"][name] == {"battles": sum(tokens > 0 for tokens in lost), "tokens": sum(lost)}
    assert counts["cut"]["response_a"]["battles"] > 0
    assert f"response_a {counts['cut']['response_a']['battles']} (" in counts_line(counts, 200)


@unit
def test_teacher_labels_are_taken_when_each_fold_was_labelled_by_a_model_that_did_not_see_it(planted_file, tmp_path):
    labels = soft_labels(tmp_path / "labels.parquet", planted_file, CLEAN)
    teacher = read_teacher(labels, planted_file, 3, False)
    assert len(teacher) == 120 and all(probs.sum() == pytest.approx(1) for probs in teacher.values())
    pairs = read_teacher(labels, planted_file, 2, False)
    for key, probs in teacher.items():
        np.testing.assert_allclose(pairs[key], probs[:2] / probs[:2].sum())


@unit
@pytest.mark.parametrize(
    "folds, reason",
    [
        (None, "nothing proves"),
        ({}, "nothing proves"),
        (proof({0: [1, 2], 1: [0, 1], 2: [0, 1]}), "fold 1 was labelled by fold-1"),
    ],
)
def test_labels_that_are_not_proven_out_of_fold_are_refused(folds, reason, planted_file, tmp_path):
    labels = soft_labels(tmp_path / "labels.parquet", planted_file, folds)
    with pytest.raises(GateError, match=reason):
        read_teacher(labels, planted_file, 3, False)
    assert len(read_teacher(labels, planted_file, 3, True)) == 120


@unit
def test_labels_of_another_battles_file_are_refused(planted_file, planted_table, tmp_path):
    labels = soft_labels(tmp_path / "labels.parquet", planted_file, CLEAN)
    write_battles(tmp_path / "other.parquet", planted_table.slice(1))
    with pytest.raises(GateError, match="another battles file"):
        read_teacher(labels, tmp_path / "other.parquet", 3, False)


# What a run refuses


def refuses(words, status, reason, tmp_path, capsys):
    before = {path.name for path in tmp_path.iterdir()}
    capsys.readouterr()
    assert main(words) == status
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sft-judge:")]
    assert len(lines) == 1 and reason in lines[0], lines
    assert {path.name for path in tmp_path.iterdir()} == before


@unit
def test_in_sample_labels_are_refused_with_status_3_and_taken_when_allowed(command, planted_file, tmp_path, capsys):
    labels = soft_labels(tmp_path / "labels.parquet", planted_file, proof({0: [0, 1], 1: [0, 2], 2: [0, 1]}))
    refuses(command(labels=labels), 3, "fold 0 was labelled by fold-0, which trained on it", tmp_path, capsys)


@unit
@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"distil_weight": 0.5}, "Did you mean 'distill_weight'?"),
        ({"learning_rte": 0.5}, "Did you mean 'learning_rate'?"),
        ({"max_length": 512}, "set total_budget instead"),
        ({"packing": "true"}, "packing is on"),
        ({"swap": "bothe"}, "Did you mean 'both'?"),
        ({"num_verdicts": 4}, "expected 2 or 3"),
        ({"distill_weight": 1.5}, "expected 0 to 1"),
        ({"distill_temperature": 0}, "expected 0.01 to 1000"),
        ({"on_spike": "skipp"}, "Did you mean 'skip'?"),
        ({"agreement_weight": -1}, "expected 0 to 1000"),
        ({"learning_rate": "fast"}, "wrong type"),
        ({"fold": 9}, "No battle is in fold 9; the folds are [0, 1, 2]"),
        ({"holdout_fold": 9}, "No battle is in fold 9"),
        ({"num_verdicts": 2}, "is a tie, but the judge has two verdicts"),
        ({"verdict_words": ["A", "B"]}, "2 verdict_words ['A', 'B'] for 3 verdicts"),
        ({"total_budget": 4096}, "has 512 positions"),
        ({"total_budget": 20}, "Raise the total budget"),
        ({"prompt_template": "pairs"}, "Did you mean 'pair'?"),
        ({"dtype": "float8"}, "expected one of auto, float32"),
        ({"battles": None}, "no 'battles'"),
        ({"model_name_or_path": None}, "no 'model_name_or_path'"),
        ({"output_dir": None}, "no 'output_dir'"),
        ({"battles": "/no/such/file.parquet"}, "no such battles file"),
        ({"labels": "/no/such/labels.parquet"}, "no such probs file"),
    ],
)
def test_bad_settings_are_one_line_status_2_and_leave_nothing(changes, reason, command, tmp_path, capsys):
    refuses(command(**changes), 2, reason, tmp_path, capsys)


@unit
@pytest.mark.parametrize(
    "text, reason",
    [
        ("- a\n- b\n", "expected `key: value` lines"),
        ("a: [1\n", "not valid YAML"),
        ("", "expected `key: value` lines"),
        ("distil_temperature: 2\n", "Did you mean 'distill_temperature'?"),
    ],
)
def test_a_bad_recipe_is_one_line_status_2_and_leaves_nothing(text, reason, command, tmp_path, capsys):
    words = command()
    (tmp_path / "recipe.yaml").write_text(text)
    refuses(words, 2, reason, tmp_path, capsys)


@unit
def test_labels_that_miss_a_battle_name_it(command, planted_file, tmp_path, capsys):
    first = read_battles(planted_file)["id"][0].as_py()
    labels = soft_labels(tmp_path / "labels.parquet", planted_file, CLEAN, drop=1)
    refuses(command(labels=labels), 2, f"no row for battle {first}", tmp_path, capsys)


@unit
def test_an_adapter_is_no_base(command, bases, tmp_path, capsys):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(load_model(str(bases["qwen2"])), LoraConfig(r=2, target_modules="all-linear"))
    model.save_pretrained(tmp_path / "adapter")
    load_tokenizer(str(bases["qwen2"])).save_pretrained(tmp_path / "adapter")
    refuses(command(model_name_or_path=tmp_path / "adapter"), 2, "sft-judge merge", tmp_path, capsys)


@engine
def test_what_is_saved_says_what_it_was_trained_on(train, planted_file):
    folder = train(fold=0, holdout_fold=2)
    spec = read_spec(folder)
    assert spec.training["folds_seen"] == [1] and spec.training["rows"] == 20 and spec.num_verdicts == 3
    assert spec.training["battles_sha256"] == content_hash(planted_file)
    assert spec.training["recipe"]["learning_rate"] == 1e-3
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["rows"] == 20 and manifest["inputs"][str(planted_file)] == content_hash(planted_file)
    assert not (folder / "training_args.bin").exists()


# Order and mix


@unit
def test_a_run_sees_every_battle_once_an_epoch_and_verdicts_and_sources_evenly(
    train, planted_file, monkeypatch, tmp_path
):
    from sft_judge.battles.schema import set_column

    table = read_battles(planted_file)
    sources = ["many" if row % 3 else "few" for row in range(table.num_rows)]
    write_battles(tmp_path / "b.parquet", set_column(table, "source", pa.array(sources)))
    seen, rows = [], []
    plain = JudgeTrainer.compute_loss

    def watched(self, model, inputs, *args, **kwargs):
        seen.extend(inputs["targets"][:, 0].argmax(dim=1).tolist())
        rows.extend(tuple(ids[ids > 0].tolist()) for ids in inputs["input_ids"])
        return plain(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(JudgeTrainer, "compute_loss", watched)
    settings = {"battles": tmp_path / "b.parquet", "max_steps": -1, "num_train_epochs": 2, "swap": "none"}
    train(**settings)
    epochs = np.array(seen).reshape(2, -1)
    one, two = rows[: table.num_rows], rows[table.num_rows :]
    assert sorted(one) == sorted(two) and one != two and len(one) == table.num_rows
    lengths = np.arange(1, table.num_rows + 1)
    for verdict in range(3):
        share = (epochs[0] == verdict).mean()
        drift = np.cumsum(epochs == verdict, axis=1) - lengths * share
        assert np.abs(drift).max() < 1
    seen.clear()
    train("other", **settings, battle_order="random")
    drift = np.cumsum(np.array(seen)[: table.num_rows] == 0) - lengths * (epochs[0] == 0).mean()
    assert np.abs(drift).max() > 1  # so the property above is the sampler's


@unit
def test_a_mix_shows_each_source_as_often_as_it_says(planted_table):
    from sft_judge.battles.schema import set_column

    sources = np.array(["x"] * 20 + ["y"] * 30 + ["z"] * 10)
    table = set_column(planted_table, "source", pa.array(sources))
    ids = np.array(mixed(table, {"x": 2.5, "y": 0.1, "z": 0}, seed=0)["id"].to_pylist())
    own = np.array(table["id"].to_pylist())
    times = np.array([(ids == name).sum() for name in own])
    assert times[:20].sum() == 50 and set(times[:20]) == {2, 3}
    assert times[20:50].sum() == 3 and times[20:50].max() == 1 and times[50:].sum() == 0
    assert (np.diff([list(own).index(name) for name in ids]) >= 0).all()  # the order stays
    assert mixed(table, None, 0) is table


@unit
@pytest.mark.parametrize(
    "mix, said",
    [
        ('{"planted": 1, "other": 1}', "sources are"),
        ("{}", "sources are"),
        ('{"planted": -1}', "expected a number"),
        ('{"planted": "all"}', "expected a number"),
    ],
)
def test_a_mix_that_names_other_sources_or_rates_is_one_clear_line(mix, said, command, capsys):
    assert main(command(mix=mix)) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
