"""
Dry run of a recipe: the model's own architecture class, chat template and features, at sizes that a laptop can train.

`--shrink` replaces everything that prevents a dry run and reports the replacements: sizes and weights, a tokenizer
that is not available, and, on a machine without a GPU, the attention kernel, the paged optimizer and half precision.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, set_seed

from sft_judge.core import registry
from sft_judge.core.files import content_hash, whole_folder
from sft_judge.data.battles import battle_table, write_battles
from sft_judge.data.probs import Probs, write_probs
from sft_judge.data.synthetic.generator import generate_split
from sft_judge.data.synthetic.preference_model import preset_settings
from sft_judge.modeling.architectures import KNOWN_ARCHITECTURES, model_config_of, tokenizer_at_hand
from sft_judge.modeling.tiny_models import shrink_config
from sft_judge.modeling.tiny_tokenizers import tokenizer_of
from sft_judge.pipelines.pipeline import Step, outputs_of
from sft_judge.training.recipes import read_recipe

ROWS, STEPS = 64, 4
SOURCE_ROWS = 120  # rows of each source that a pipeline trains on
# settings of each training of a pipeline; with the full budgets each training takes minutes on a CPU
SMALL_TRAINING = {"max_steps": 2, "save_steps": 1, "prompt_budget": 64, "response_budget": 64, "total_budget": 512}
SMALL_STAGES = {"quantize": ["--seqlen", "256", "--nsamples", "16", "--iters", "2"], "verify": ["--limit", "24"]}


def shrunk_settings(settings: dict, folder: Path, gpu: bool) -> dict:
    """
    Return the settings that a dry run changes.

    Args:
        settings: settings of the recipe.
        folder: folder of the small model and its inputs.
        gpu: the machine has a GPU.
    """
    new = {"model_name_or_path": str(folder / "model"), "max_steps": STEPS, "warmup_steps": 1}
    new |= {"logging_steps": 1, "save_steps": STEPS // 2}
    if not settings.get("battles"):
        new["battles"] = str(folder / "battles.parquet")
        if "distill_weight" in settings:
            new["labels"] = str(folder / "labels.parquet")
    if settings.get("gguf_file"):
        new["gguf_file"] = None
    if not gpu:
        new["dtype"] = "float32"
        if str(settings.get("optim")).startswith("paged"):
            new["optim"] = "adamw_torch"
        new |= {name: False for name in ("use_kernels", "use_liger_kernel") if settings.get(name)}
    return {key: value for key, value in new.items() if settings.get(key) != value}


def make_small_model(model: str, folder: Path) -> list[str]:
    """
    Save a tiny random model with its tokenizer, and return lines that describe the replacements.

    Args:
        model: name of the model to imitate.
        folder: folder to write.
    """
    own = tokenizer_at_hand(model)
    tokenizer = own or tokenizer_of(KNOWN_ARCHITECTURES[model].tokenizer)
    config = model_config_of(model)
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(config).num_parameters()
    set_seed(0)
    small = AutoModelForCausalLM.from_config(shrink_config(config, tokenizer), dtype=torch.float32)
    small.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return [
        f"weights: {small.num_parameters():,} random parameters for {whole:,} ({type(small).__name__})",
        f"tokenizer: {'original' if own else 'newly trained'}, {len(tokenizer):,} tokens; chat template kept",
    ]


def make_small_inputs(model: str, folder: Path) -> list[str]:
    """
    Write a tiny random model, synthetic battles and labels, and return lines that describe the model's replacements.

    Args:
        model: name of the model to imitate.
        folder: folder to write.
    """
    with whole_folder(folder) as work:
        lines = make_small_model(model, work / "model")
        _write_battles(work / "battles.parquet", work / "labels.parquet")
    return lines


def _write_battles(file: Path, labels: Path) -> None:
    """Write synthetic battles in two folds, and their true probabilities as a teacher's out-of-fold labels."""
    split = generate_split(preset_settings("easy", rows=ROWS, test_rows=1, shifted_rows=1), "train")
    rows = [{**row, "fold": place % 2} for place, row in enumerate(split.rows)]
    write_battles(file, battle_table(rows))
    ids = [row["id"] for row in rows]
    proof = {str(fold): {"model": "the truth", "folds_seen": []} for fold in (0, 1)}
    metadata = {"folds": proof, "battles_sha256": content_hash(file)}
    orders = np.tile(["ab", "ba"], ROWS)
    write_probs(labels, Probs(np.repeat(ids, 2), orders, np.log(np.repeat(split.probs, 2, axis=0)), metadata))


def shrunk_steps(steps: list[Step], folder: Path, gpu: bool) -> list[Step]:
    """
    Change a pipeline's commands for a dry run on the user's own battles: tiny models of the same classes, few rows.

    A model that no step makes is replaced by a tiny model in `folder`, made by a step before all others. Test rows are
    all kept, because a sample submission asks for each of them.

    Args:
        steps: steps of the pipeline.
        folder: folder of the tiny models.
        gpu: the machine has a GPU; without one, engines are replaced by those that run on a CPU.
    """
    made = {str(path): step for step in steps for path in outputs_of(step)}
    limited = {id(source) for step in steps for source in _sources(step, made) if step.stage in ("train", "shift")}
    bases, changed = {}, []
    for step in steps:
        words = list(SMALL_STAGES.get(step.stage, []))
        if step.stage in ("train", "shift"):
            words = _small_training(step, made, folder, bases, gpu)
        elif not gpu:
            words += _without_gpu(step)
        if id(step) in limited:
            words += ["--limit", str(SOURCE_ROWS)]
        changed.append(replace(step, argv=[*step.argv, *words], launch=step.launch if gpu else []))
    return [*bases.values(), *changed]


def _sources(step: Step, made: dict[str, Step]):
    """Yield the import steps that a step's battles come from."""
    args = registry.parse(step.stage, step.argv)
    if step.stage == "import":
        yield step
    elif step.stage == "train":
        yield from _sources_of([read_recipe(args.config, args.overrides).settings.get("battles")], made)
    elif step.stage == "shift":
        yield from _sources_of([args.ref, args.other], made)
    elif step.stage == "prepare":
        yield from _sources_of(args.battles, made)


def _sources_of(files: list, made: dict[str, Step]):
    for file in files:
        if str(file) in made:
            yield from _sources(made[str(file)], made)


def _small_training(step: Step, made: dict, folder: Path, bases: dict[str, Step], gpu: bool) -> list[str]:
    """Return the options that shrink a training, and add the step that makes its tiny base model to `bases`."""
    args = registry.parse(step.stage, step.argv)
    recipe = read_recipe(args.config, args.overrides)
    model = recipe.require("model_name_or_path")
    new = shrunk_settings({**recipe.settings, "battles": "given"}, folder, gpu)
    new |= SMALL_TRAINING
    del new["model_name_or_path"]
    if str(model) not in made:
        base = folder / Path(model).name
        bases.setdefault(model, Step("small", "base", ["--like", str(model), "--output", str(base)]))
        new["model_name_or_path"] = base
    return [str(word) for key, value in new.items() for word in (f"--{key}", value)]


def _without_gpu(step: Step) -> list[str]:
    """
    Return the options for a machine without a GPU: `auto` engines, and for quantised judges a 4-bit scheme.

    Only 4-bit schemes have a kernel in vLLM on a CPU.
    """
    if step.stage == "quantize":
        return ["--scheme", "W4A16"]
    if step.stage == "verify":
        return ["--engines", "auto"]
    return ["--engine", "auto"] if step.stage == "predict" and "vllm" in step.argv else []
