"""
Train from random recipes up to the first step, on a two-layer model: each must be used, or refused with one line.

    python scripts/fuzz_recipes.py --recipes 2000 --seed 0

A recipe must be refused before the model is loaded and before a file is written. Prints how many recipes were used,
refused, or ended otherwise, and each recipe that ended otherwise. Writes only to a temporary folder, and uses no
network.
"""

import argparse
import contextlib
import io
import os
import sys
import tempfile
import traceback
from collections import Counter
from dataclasses import MISSING, fields
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}

import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from transformers import TrainerCallback
from transformers.utils import logging as transformers_logging

import sft_judge.training.train as training
from sft_judge.cli import main
from sft_judge.core.resources import find_resource
from sft_judge.data.battles import battle_table, write_battles
from sft_judge.data.synthetic.generator import generate_split
from sft_judge.data.synthetic.preference_model import preset_settings
from sft_judge.modeling.tiny_models import make_base
from sft_judge.training.config import CHOICES, LORA_INITS, JudgeConfig, JudgeModelConfig
from sft_judge.training.settings_checks import enum_values, hints_of
from sft_judge.training.settings_table import MODEL, TRAINING
from sft_judge.training.settings_table import REFUSED as TURNED_DOWN

USED, REFUSED, STOPPED = "used", "refused", "stopped by a guard"
BASE = {"prompt_template": "compact", "total_budget": 256, "per_device_train_batch_size": 4, "max_steps": 2}
BASE |= {"dtype": "float32", "logging_steps": 1, "save_strategy": "no", "limit": 8, "lora_r": 4}
EVALUATED = {"fold": 0, "eval_strategy": "steps", "eval_steps": 1}
NUMBERS = [0, 1, 2, 3, -1, -5, 0.0, 0.5, 1.5, 1e-8, 10**9, 10**12, float("inf"), float("nan"), "3", "1e-3"]
WORDS = ["", "x", "no", "none", "auto", "true", "steps", "epoch", "best", "3", "a b", "\0", "é", "x" * 300]
OTHERS = [None, True, False, [], ["x"], [1], [None], {}, {"a": 1}, {1: [2]}, "{", '{"a": 1}', "[1]"]
VALUES = {  # further values of single keys
    "attn_implementation": ["eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3", "org/kernel"],
    "lora_target_modules": ["all_linear", "qkv", "q_proj", ["q_proj", "lm_head"], ["embed_tokens"], ".*", "[", "norm"],
    "lora_modules_to_save": ["lm_head", ["embed_tokens"], ["norm"], ["q_proj"]],
    "lora_init": [*LORA_INITS, "pissa_niter_2", "pissa_niter_x"],
    "optim_args": ["momentum=0.9", "a=b", "momentum", "rank=x"],
    "lr_scheduler_kwargs": [{"num_cycles": 2}, {"min_lr": 1e-5}, {"num_decay_steps": 1}, {"power": "x"}],
    "gradient_checkpointing_kwargs": [{"use_reentrant": True}, {"selective": True}, {"use_reentrant": 1}],
    "report_to": ["all", ["all"], ["none"], "wandb", "tensorboard", ["tensorboard", "none"]],
    "verdict_words": [["A", "B"], ["A", "B", "tie"], ["A", "A", "A"], ["first answer", "B", "C"], "ABC"],
    "mix": [{"x": 1}, {"x": "y"}, {"x": -1}, {"x": float("nan")}, '{"x": 1}'],
    "prompt_template": ["pair", "compact", "nowhere.jinja"],
    "battles": ["nowhere.parquet", "battles.parquet"],
    "labels": ["nowhere.parquet", ["battles.parquet"]],
    "model_name_or_path": ["nowhere", "org/nowhere", "model"],
    "metric_for_best_model": ["loss", "log_loss", "eval_accuracy", "nonsense"],
    "deepspeed": ["nowhere.json", "battles.parquet", {"zero_optimization": {"stage": 2}}],
    "distill_weight": [[0.5], [0.5, 0.5], [2], ["x"]],
    "fsdp": ["full_shard", "full_shard auto_wrap"],
}
NEVER = {"torch_compile": True, "dataloader_num_workers": 10**9, "lora_r": 10**9}  # slow here, or too large


def recipes():
    """Return a strategy for recipes with one to three random keys, some misspelt, over a base that trains."""
    hints = {**hints_of(JudgeConfig), **hints_of(JudgeModelConfig)}
    items = {item.name: item for kind in (JudgeConfig, JudgeModelConfig) for item in fields(kind)}
    tables = {**TRAINING, **MODEL}
    names = sorted(name for name in items if name != "output_dir")
    names += 3 * [name for name in names if name not in tables or tables[name].handling != TURNED_DOWN]

    def values_of(name):
        item = items[name]
        known = CHOICES.get(name) or item.metadata.get("choices") or enum_values(hints[name])
        default = item.default_factory() if item.default is MISSING else item.default
        near = [default, *list(known), *VALUES.get(name, [])]
        near += [True, False] if hints[name] in (bool, bool | None) else []
        near += NUMBERS[:8] if {int, float} & {hints[name], *getattr(hints[name], "__args__", ())} else []
        far = [*NUMBERS, *WORDS, *OTHERS]
        return st.sampled_from(range(5)).flatmap(lambda one: st.sampled_from(far if one == 3 else near))

    def with_value(name):
        wrong = st.integers(0, len(name) - 1).map(lambda place: name[:place] + name[place + 1 :])
        keys = st.sampled_from(range(20)).flatmap(lambda one: wrong if one == 13 else st.just(name))
        return st.tuples(keys, values_of(name)).filter(lambda pair: NEVER.get(name, st) != pair[1])

    drawn = st.lists(st.sampled_from(names).flatmap(with_value), min_size=1, max_size=3).map(dict)
    bases = st.sampled_from([{}, {"use_peft": True}, {"use_peft": True, **EVALUATED}, {"save_strategy": "steps"}])
    return st.tuples(bases, drawn).map(lambda parts: {**BASE, **parts[0], **parts[1]})


class FirstStep(TrainerCallback):
    """Stop the training after one step."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = True


def make_inputs(folder: Path) -> None:
    """Write battles and a two-layer model to `folder`."""
    rows = generate_split(preset_settings("easy", rows=24, test_rows=1, shifted_rows=1), "train").rows
    rows = [{**row, "fold": place % 2} for place, row in enumerate(rows)]
    write_battles(folder / "battles.parquet", battle_table(rows))
    texts = [turn for row in rows for name in ("prompt", "response_a", "response_b") for turn in row[name]]
    frame = find_resource("prompts", "compact").read_text(encoding="utf-8")
    make_base(folder / "model", "qwen2", [*texts, *[frame] * 100], hidden=64, vocab=800, positions=512)


def try_recipe(recipe: dict, folder: Path) -> tuple[str, str]:
    """
    Train from a recipe.

    Args:
        recipe: the recipe.
        folder: folder with the inputs, which is the working directory.

    Returns:
        USED, REFUSED or STOPPED, or a short description of the failure; and the line or traceback that was printed.
    """
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    before, loaded = sorted(folder.iterdir()), []
    whole, load_base = training.JudgeTrainer, training.load_base
    training.JudgeTrainer = lambda **options: whole(**options, callbacks=[FirstStep()])
    training.load_base = lambda *given: loaded.append(given) or load_base(*given)
    words = ["train", "--config", "recipe.yaml", "--output_dir", "judge"]
    words += [word for key in ("battles", "model") for word in _unless_drawn(recipe, key)]
    shown = io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(shown):
            status = main(words)
    except (Exception, SystemExit):  # each of them is a finding
        return "traceback", traceback.format_exc()
    finally:
        training.JudgeTrainer, training.load_base = whole, load_base
        transformers_logging.set_verbosity_warning()
    lines = [line for line in shown.getvalue().splitlines() if line.startswith("sft-judge: ")]
    if status == 0:
        return USED, ""
    if len(lines) != 1 or status not in (2, 3):
        return f"status {status} with {len(lines)} lines", shown.getvalue()
    if status == 3:
        return STOPPED, lines[0]
    if loaded or sorted(folder.iterdir()) != before:
        return "refused after the model was loaded or a file written", lines[0]
    return REFUSED, lines[0]


def _unless_drawn(recipe: dict, key: str) -> list[str]:
    name, value = {"battles": ("battles", "battles.parquet"), "model": ("model_name_or_path", "model")}[key]
    return [] if name in recipe else [f"--{name}", value]


def clear(folder: Path) -> None:
    """Remove the outputs of a training from `folder`."""
    import shutil

    for path in folder.iterdir():
        if path.name not in ("battles.parquet", "model"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def fuzz(count: int, start: int | None, folder: Path, report) -> Counter:
    """
    Try random recipes and count the outcomes.

    Args:
        count: number of recipes.
        start: seed, or None for a fixed sequence.
        folder: folder with the inputs.
        report: function called with (recipe, outcome, text) for each recipe.
    """
    outcomes = Counter()

    @given(recipes())
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        derandomize=start is None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def try_one(recipe):
        clear(folder)
        outcome, text = try_recipe(recipe, folder)
        outcomes[outcome] += 1
        report(recipe, outcome, text)

    (try_one if start is None else seed(start)(try_one))()
    return outcomes


def run(args) -> int:
    """Fuzz in a temporary folder and print the findings."""

    def report(recipe, outcome, text):
        drawn = {key: value for key, value in recipe.items() if BASE.get(key) != value}
        if args.verbose:
            print(f"{outcome}: {drawn} {text.strip().splitlines()[-1:]}", flush=True)
        elif outcome not in (USED, REFUSED, STOPPED):
            print(f"{outcome}: {drawn}\n{text}", flush=True)

    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        os.environ["HF_HOME"] = name
        make_inputs(Path(name))
        outcomes = fuzz(args.recipes, args.seed, Path("."), report)
    print(", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common()))
    return int(not {*outcomes} <= {USED, REFUSED, STOPPED})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", type=int, default=2000, help="number of recipes (2000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the recipes (0)")
    parser.add_argument("--verbose", action="store_true", help="print the outcome of every recipe")
    sys.exit(run(parser.parse_args()))
