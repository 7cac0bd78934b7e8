"""
What a pipeline will take, before it starts: tokens, the GPUs that hold each step, hours, disk, and a total.

A step is planned from its own command. What earlier steps have yet to make is followed back to what is known: a model
to the one that it is trained or merged from, battles to what the pipeline file declares of them. Hours are FLOPs at a
stated share of the published rate, so an estimate; work of the CPU is not counted.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sft_judge.conversion.quantize import ROWS_PER_ROUND
from sft_judge.core import registry
from sft_judge.core.errors import InputError
from sft_judge.data.battles import read_battles, set_column
from sft_judge.modeling.architectures import model_config_of, tokenizer_at_hand
from sft_judge.pipelines.pipeline import Declared, Step, outputs_of
from sft_judge.pipelines.planning.forward_cost import extended, forward_cost
from sft_judge.pipelines.planning.step_cost import step_cost
from sft_judge.pipelines.planning.training_cost import (
    GPUS,
    Load,
    epochs_of,
    fits,
    flops_of,
    load_of,
    plan_run,
    views_of,
)
from sft_judge.training.config import JudgeModelConfig
from sft_judge.training.recipes import read_recipe
from sft_judge.training.train import judge_prompt

SAMPLE = 2000  # battles whose tokens are counted, of a file that is there
OF_A_RUN = ("battles", "labels", "fold", "holdout_fold", "seed", "output_dir", "distill_weight", "distill_temperature")
MODEL_STAGES = ("base", "train", "merge", "quantize")
BITS = {"W4A16": 4, "W8A16": 8}
SCALES = 20 / 128  # bits a weight: for 128 of them a scale of 16 bits and a zero point, which auto-round packs too


@dataclass(frozen=True)
class Piece:
    """A step in numbers; `flops` of each of its GPUs, `disk` in bytes, `said` what the figures rest on."""

    name: str
    tokens: int = 0
    flops: float = 0.0
    gpus: tuple[str, ...] = tuple(GPUS)
    disk: float = 0.0
    said: str = ""
    runs: int = 1


@dataclass
class Rows:
    """A battles file: how many in each fold (None: in none), tokens of some of its rows, and how these are known."""

    by_fold: dict[int | None, int]
    lengths: np.ndarray
    said: str

    def load(self, folds, views: int, budget: int, share: float = 1.0) -> Load:
        """A share of the rows of some folds, each in so many orders."""
        battles = round(share * sum(self.by_fold[fold] for fold in folds))
        return Load(battles, np.resize(self.lengths, battles * views), budget=budget)


@dataclass
class Road:
    """The steps of a pipeline, what it declares, and how many GPUs train."""

    steps: list[Step]
    declared: dict[Path, Declared]
    num_gpus: int = 1
    costs: dict = field(default_factory=dict)

    @cached_property
    def made(self) -> dict[Path, Step]:
        return {path: step for step in self.steps for path in outputs_of(step)}

    def makers(self, path) -> list[Step]:
        """The steps that make a model, or the folds of one; `verify` and `calibrate` add to its folder, no more."""
        wanted = [made for made in self.made if made == Path(path) or Path(path) in made.parents]
        return [self.made[made] for made in wanted if self.made[made].stage in MODEL_STAGES]

    def trained(self, model) -> tuple[str, Step | None, int | None]:
        """A model's origin, which no step makes; the training it went through last; its bits, if it is quantised."""
        training = bits = None
        while makers := self.makers(model):
            step = makers[0]
            args = registry.parse(step.stage, step.argv)
            if step.stage == "base":
                if not Path(model).is_dir():
                    raise InputError(f"its model is not there before {step.name} has run")
                break
            if step.stage == "quantize":
                bits, model = bits or BITS[args.scheme], args.model
            elif step.stage == "merge":
                model = args.models[0]
            else:
                training = training or step
                model = read_recipe(args.config, args.overrides).require("model_name_or_path")
        return str(model), training, bits

    def piece(self, step: Step) -> Piece:
        """A step's numbers, or why there are none."""
        args = registry.parse(step.stage, step.argv)
        try:
            return PLANNERS[step.stage](self, step, args) if step.stage in PLANNERS else Piece(step.name)
        except InputError as reason:
            return Piece(step.name, gpus=(), said=f"not known: {reason}")

    def rows(self, file, config, model: str, labelled: bool) -> Rows:
        """What is known of a battles file: counted on a sample where it is there, else as declared."""
        path = Path(file)
        if path.is_file():
            return _counted(read_battles(path), config, model, labelled)
        if path not in self.declared:
            raise InputError(f"{path} is not there, and the pipeline declares no rows and tokens of it")
        counts = self.declared[path]
        folds = dict.fromkeys(range(counts.folds), counts.rows / counts.folds) if counts.folds else {None: counts.rows}
        return Rows(folds, np.array([min(counts.tokens, config.total_budget)]), "declared")

    def step_cost(self, settings: dict):
        """`step_cost`, once for all folds and seeds of a recipe."""
        key = repr(sorted((name, value) for name, value in settings.items() if name not in OF_A_RUN))

        def cost_of(model_config, config, adapters, rows, tokens):
            whole = (key, adapters.model_name_or_path, rows, tokens)
            if whole not in self.costs:
                self.costs[whole] = extended(step_cost, model_config, config, adapters, rows, tokens)
            return self.costs[whole]

        return cost_of

    def forward_cost(self, model: str, tokens: int):
        """`forward_cost` of one row, once for each model."""
        if (model, tokens) not in self.costs:
            adapters = JudgeModelConfig(model_name_or_path=model)
            self.costs[model, tokens] = extended(forward_cost, model_config_of(model), adapters, 1, tokens)
        return self.costs[model, tokens]


def _counted(battles: pa.Table, config, model: str, labelled: bool) -> Rows:
    """The rows of a file that is there; tokens of a sample of them, spread evenly."""
    if labelled:
        battles = battles.filter(pc.is_valid(battles["verdict"]))
    else:  # test rows: any verdict will do to count their tokens
        battles = set_column(battles, "verdict", pa.array(["a"] * battles.num_rows))
    folds = battles["fold"].to_pylist() if "fold" in battles.column_names else [None] * battles.num_rows
    sample = battles.take(np.linspace(0, battles.num_rows - 1, min(SAMPLE, battles.num_rows)).astype(int))
    tokenizer = tokenizer_at_hand(model)
    load = load_of(sample, config, tokenizer and judge_prompt(config, tokenizer, sample))
    how = "counted" if load.counted else "by characters"
    said = how if sample.num_rows == battles.num_rows else f"{how} on {SAMPLE:,} of {battles.num_rows:,}"
    return Rows({fold: folds.count(fold) for fold in set(folds)}, load.lengths, said)


def _train(road: Road, step: Step, args, share: float = 1.0) -> Piece:
    recipe = read_recipe(args.config, args.overrides)
    settings = recipe.settings
    model, _, _ = road.trained(settings["model_name_or_path"])
    config, adapters = recipe.configs()
    adapters.model_name_or_path = model
    rows = road.rows(config.battles, config, model, labelled=True)
    left_out = {config.fold, config.holdout_fold} - {None}
    if not left_out <= set(rows.by_fold):
        raise InputError(f"{config.battles} is declared without folds")
    load = rows.load(set(rows.by_fold) - left_out, views_of(config), config.total_budget)
    if share < 1:
        load = replace(
            load, battles=round(load.battles * share), lengths=load.lengths[: round(len(load.lengths) * share)]
        )
    run = plan_run(config, adapters, load, road.num_gpus, road.step_cost({**settings, "model_name_or_path": model}))
    tokens = round(load.lengths.sum() * epochs_of(load, config, road.num_gpus))
    disk = run.cost.gradients if adapters.use_peft else run.cost.weights + run.cost.head
    return Piece(step.name, tokens, run.flops, tuple(run.gpus), disk, rows.said)


def _shift(road: Road, step: Step, args) -> Piece:
    """Two trainings, each on all folds of a set but one; what is scored afterwards is little beside them."""
    pieces = []
    for battles in (args.ref, args.other):
        words = ["--config", args.config, *args.overrides, "--battles", str(battles), "--output_dir", "none"]
        pieces.append(
            _train(road, Step(step.name, "train", words), registry.parse("train", words), 1 - 1 / args.folds)
        )
    return together(pieces)


def _predict(road: Road, step: Step, args) -> Piece:
    model, training, bits = road.trained(args.model)
    if training is None:
        raise InputError(f"{args.model} is made by no step of this pipeline")
    words = registry.parse("train", training.argv)
    config, adapters = read_recipe(words.config, words.overrides).configs()
    if road.makers(args.model)[0].stage == "train" and adapters.load_in_4bit:
        bits = 4  # an adapter is read on the base that it learnt on
    cost = road.forward_cost(model, config.total_budget)
    tokens = flops = 0
    said = []
    for file in args.battles:
        rows = road.rows(file, config, model, labelled=False)
        folds = [args.fold] if args.fold is not None and args.fold in rows.by_fold else list(rows.by_fold)
        judges = len(road.makers(args.model)) if not args.out_of_fold or set(folds) == {None} else 1
        load = rows.load(folds, 1 if args.swap == "none" else 2, config.total_budget)
        tokens += judges * int(load.lengths.sum())
        flops += judges * flops_of(cost, load.lengths, 1, config.total_budget)
        said.append(rows.said)
    gpus = tuple(fits(_weight_bytes(cost, bits)))  # of one GPU: `predict` runs on no more
    return Piece(step.name, tokens, flops, gpus, 0, ", ".join(dict.fromkeys(said)))


def _quantize(road: Road, step: Step, args) -> Piece:
    """Each round tunes a block on BATCH rows, forward and back; before and after, all rows go through it once."""
    model, _, _ = road.trained(args.model)
    cost = road.forward_cost(model, args.seqlen)
    passes = 3 * args.iters * min(ROWS_PER_ROUND, args.nsamples) + 2 * args.nsamples
    flops = passes * (cost.linear_flops + cost.attention_flops)
    disk = _weight_bytes(cost, BITS[args.scheme])
    gpus = tuple(fits(_weight_bytes(cost, None)))
    return Piece(step.name, args.nsamples * args.seqlen, flops, gpus, disk, f"{args.iters:,} rounds a block")


def _merge(road: Road, step: Step, args) -> Piece:
    model, training, _ = road.trained(args.models[0])
    tokens = int(read_recipe(*_recipe(training)).settings.get("total_budget", 512)) if training else 512
    return Piece(step.name, disk=_weight_bytes(road.forward_cost(model, tokens), None))


def _recipe(training: Step) -> tuple[str, list[str]]:
    args = registry.parse("train", training.argv)
    return args.config, args.overrides


def _weight_bytes(cost, bits: int | None) -> float:
    """In two bytes each, or the linear layers in `bits` and the tables in two bytes."""
    packed = 16 if bits is None else bits + SCALES
    return (cost.tables * 16 + (cost.parameters - cost.tables) * packed) / 8


PLANNERS = {"train": _train, "shift": _shift, "predict": _predict, "quantize": _quantize, "merge": _merge}


def together(pieces: list[Piece]) -> Piece:
    """One line for steps of a name: its folds, or its seeds."""
    sums = {key: sum(getattr(piece, key) for piece in pieces) for key in ("tokens", "flops", "disk", "runs")}
    gpus = tuple(gpu for gpu in GPUS if all(gpu in piece.gpus for piece in pieces))
    return replace(pieces[0], gpus=gpus, said=", ".join(dict.fromkeys(piece.said for piece in pieces)), **sums)
