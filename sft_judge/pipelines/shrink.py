"""
A recipe run small: the model's own architecture class, chat template and features, at sizes that a laptop trains.

`--shrink` replaces what stands in the way of a dry run and says what: sizes and weights, a tokenizer that is not at
hand, and on a machine without a GPU the attention kernel, the paged optimizer and half precision.
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
SOURCE_ROWS = 120  # of each source that a pipeline trains on
# of a training in a pipeline of many: with 6,400 tokens each took five minutes on two busy cores
SMALL_ROAD = {"max_steps": 2, "save_steps": 1, "prompt_budget": 64, "response_budget": 64, "total_budget": 512}
SMALL_STAGES = {"quantize": ["--seqlen", "256", "--nsamples", "16", "--iters", "2"], "verify": ["--limit", "24"]}


def shrunk_settings(settings: dict, folder: Path, gpu: bool) -> dict:
    """What a dry run sets otherwise than the recipe; its small inputs stand in `folder`. `gpu`: there is one."""
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
    """Save a tiny random `model` with its tokenizer in `folder`; returns lines that say what stands for what."""
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
        f"weights: {small.num_parameters():,} random ones for {whole:,} ({type(small).__name__})",
        f"tokenizer: {'its own' if own else 'made on the spot'}, {len(tokenizer):,} tokens; chat template kept",
    ]


def make_small_inputs(model: str, folder: Path) -> list[str]:
    """Put a tiny random `model`, synthetic battles and labels into `folder`; returns what it says of the model."""
    with whole_folder(folder) as work:
        lines = make_small_model(model, work / "model")
        _write_battles(work / "battles.parquet", work / "labels.parquet")
    return lines


def _write_battles(file: Path, labels: Path) -> None:
    """Synthetic battles in two folds, and their true probabilities as a teacher's labels out of fold."""
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
    A pipeline's commands for a dry run on the user's own battles: tiny models of each model's class, few rows.

    A model that no step makes stands as a tiny one in `folder`, by a step before all others; test rows stay whole, as
    a sample asks for each. Without a GPU (`gpu`) engines are those that run here.
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
    """The import steps that a step's battles come from."""
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
    """The words that shrink a training; the step of its tiny base goes to `bases`."""
    args = registry.parse(step.stage, step.argv)
    recipe = read_recipe(args.config, args.overrides)
    model = recipe.require("model_name_or_path")
    new = shrunk_settings({**recipe.settings, "battles": "given"}, folder, gpu)
    new |= SMALL_ROAD
    del new["model_name_or_path"]
    if str(model) not in made:
        base = folder / Path(model).name
        bases.setdefault(model, Step("small", "base", ["--like", str(model), "--output", str(base)]))
        new["model_name_or_path"] = base
    return [str(word) for key, value in new.items() for word in (f"--{key}", value)]


def _without_gpu(step: Step) -> list[str]:
    """vLLM where this machine's has a kernel, which for quantised judges is one of 4 bits."""
    if step.stage == "quantize":
        return ["--scheme", "W4A16"]
    if step.stage == "verify":
        return ["--engines", "auto"]
    return ["--engine", "auto"] if step.stage == "predict" and "vllm" in step.argv else []
