"""A recipe to a judge: rows, model, trainer, and a folder that appears when all is done."""

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch
from transformers import BitsAndBytesConfig
from trl import get_quantization_config

from sft_judge.core.errors import GateError, InputError
from sft_judge.core.files import check_folder, content_hash, partial_path, write_json
from sft_judge.data.battles import read_battles
from sft_judge.modeling.judge_spec import FILE, JudgeSpec, read_spec
from sft_judge.modeling.loading import beside_text, is_adapter, load_model, load_tokenizer
from sft_judge.prompts.prompt import JudgePrompt, default_words
from sft_judge.prompts.templates import read_template
from sft_judge.training.adapters import adapter_config, keep_start, mutates_base, scale_line
from sft_judge.training.callbacks import EmaCallback
from sft_judge.training.compute_metrics import eval_metrics
from sft_judge.training.config import JudgeConfig, JudgeModelConfig
from sft_judge.training.dataset import mixed, split_folds, verdict_dataset, verdict_shares
from sft_judge.training.learning_rates import question
from sft_judge.training.resume import open_work
from sft_judge.training.saving import push, save_judge, timeless
from sft_judge.training.soft_labels import read_teachers
from sft_judge.training.trainer import JudgeTrainer


def train_judge(config: JudgeConfig, model_config: JudgeModelConfig, fingerprint: str) -> dict:
    """
    Train a judge and put its folder at `config.output_dir`; returns facts for the manifest.

    Work in progress stands beside it in `.NAME.partial`, with the fingerprint of the settings that it belongs to: the
    same settings go on from the last checkpoint, others start afresh.
    """
    output = Path(config.output_dir)
    check_folder(output)
    model_name = model_config.model_name_or_path
    battles_file = Path(config.battles)
    tokenizer = load_tokenizer(model_name)
    train_rows, eval_rows = read_rows(config)
    prompt = judge_prompt(config, tokenizer, train_rows)
    teacher = None
    if config.labels:
        files = [Path(file) for file in config.labels]
        options = (len(prompt.words), output, config.teacher_ties, config.allow_in_sample)
        teacher = read_teachers(files, battles_file, train_rows, *options)
    train_set, counts = verdict_dataset(
        train_rows, prompt, config.swap, config.seed, teacher, config.correct_above, cached=True
    )
    if config.process_index == 0:
        print(counts_line(counts, config.total_budget), flush=True)
    eval_set = metrics = None
    if eval_rows is not None:
        eval_set, _ = verdict_dataset(eval_rows, prompt, "both", config.seed, cached=True)
        metrics = eval_metrics(eval_rows.filter(pc.is_in(eval_rows["id"], pa.array(eval_set["id"]))))

    model = _base_model(model_name, model_config, config)
    quantized = _quantized(model)
    lora = adapter_config(model_config, model)
    _check_dropout(config, model, lora)
    work = partial_path(output)
    checkpoint = open_work(work, fingerprint, config)
    config.output_dir = str(work)
    wanted_on_hub, config.push_to_hub = config.push_to_hub, False  # Trainer would push the work in progress
    trainer = JudgeTrainer(
        model=model,
        args=config,
        processing_class=tokenizer,
        train_dataset=train_set,
        eval_dataset=eval_set,
        peft_config=lora,
        compute_metrics=metrics,
        verdict_ids=prompt.verdict_ids,
    )
    if config.process_index == 0:
        _say_what_is_trained(trainer, lora)
    if config.ema_decay:
        trainer.add_callback(_ema(config))
    start = None
    if mutates_base(model_config):
        _needs_whole_weights(f"lora_init {model_config.lora_init}", config)
        start = work / "start"
    if start and config.process_index == 0:
        keep_start(trainer.model, start)
    try:
        trained = trainer.train(resume_from_checkpoint=checkpoint)
    except GateError as error:
        if config.process_index == 0:
            log = timeless(trainer.state.log_history)
            write_json(work / "stopped.json", {"status": trainer.status, "why": str(error), "log": log})
        raise
    facts = {
        **counts,
        "battles_sha256": content_hash(battles_file),
        "folds_seen": sorted({*_folds(train_rows), *_folds_of_base(model_name, battles_file)}),
        "verdict_shares": verdict_shares(train_rows, len(prompt.words)),
        "base": model_name,
        **quantized,
        "steps": trainer.state.global_step,
        "status": trainer.status,
        **({"batches_left_out": trainer.skipped} if trainer.skipped else {}),
        "eval": _final_evaluation(trainer),
    }
    template = read_template(config.prompt_template)
    spec = JudgeSpec(prompt.words, prompt.verdict_ids, template, config.budget, config.show_language)
    spec.training = {**facts, "seed": config.seed, "recipe": _resolved(config)}
    sources = train_rows["source"].to_pylist() if "source" in train_rows.column_names else []
    save_judge(trainer, tokenizer, spec, output, start, sources)
    if wanted_on_hub and trainer.is_world_process_zero():
        push(output, config)
    if checkpoint is None:  # of the whole run, not of what was left of it
        tokens = sum(train_set["length"]) * trainer.state.epoch
        facts["tokens_per_second"] = round(tokens / trained.metrics["train_runtime"])
    if torch.cuda.is_available():
        facts["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return facts | {"config": _plain(config.to_dict()), "model_config": _plain(vars(model_config))}


def _check_dropout(config: JudgeConfig, model, lora) -> None:
    """Raise `InputError` where R-Drop's two passes would be the same."""
    rates = [getattr(model.config.get_text_config(), "attention_dropout", 0.0), lora.lora_dropout if lora else 0.0]
    rates += [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    if config.rdrop_weight > 0 and not max(rates) > 0:
        raise InputError("rdrop_weight is set, but nothing drops out: two passes are the same. Set lora_dropout.")


def _say_what_is_trained(trainer: JudgeTrainer, lora) -> None:
    if lora:
        print(scale_line(lora, trainer.model), flush=True)
    doubt = question(trainer.args.learning_rate, trainer.model.num_parameters(), lora is not None)
    if doubt:
        print(f"sft-judge: {doubt}", file=sys.stderr, flush=True)


def _ema(config: JudgeConfig) -> EmaCallback:
    _needs_whole_weights("ema_decay", config)
    return EmaCallback(config.ema_decay)


def _needs_whole_weights(what: str, config: JudgeConfig) -> None:
    """Raise `InputError` where a launcher divides the weights among the processes."""
    if _zero_stage(config) == 3 or config.fsdp_plugin_args:
        raise InputError(f"{what} needs whole weights on each process; take ZeRO-2, ZeRO-1 or DDP, or leave it out.")


def _zero_stage(config: JudgeConfig) -> int:
    return config.deepspeed_plugin.zero_stage if config.deepspeed_plugin else 0


def read_rows(config: JudgeConfig) -> tuple[pa.Table, pa.Table | None]:
    """The battles that a recipe trains on, mixed as it says, and those it evaluates on."""
    train, held = split_folds(read_battles(Path(config.battles), config.limit), config.fold, config.holdout_fold)
    return mixed(train, config.mix, config.seed), held


def judge_prompt(config: JudgeConfig, tokenizer, battles: pa.Table) -> JudgePrompt:
    """The prompt that a recipe asks for; K is taken from the battles where the recipe leaves it open."""
    num_verdicts = config.num_verdicts or (3 if pc.any(pc.equal(battles["verdict"], "tie")).as_py() else 2)
    template = read_template(config.prompt_template)
    words = config.verdict_words or default_words(tokenizer, template, num_verdicts)
    if len(words) != num_verdicts:
        raise InputError(f"{len(words)} verdict_words {words} for {num_verdicts} verdicts.")
    return JudgePrompt(tokenizer, template, words, config.budget, config.show_language)


def counts_line(counts: dict, total: int) -> str:
    """What training sees of the battles, in a line."""
    cut = ", ".join(f"{name} {of['battles']} ({of['tokens']} tokens)" for name, of in counts["cut"].items())
    fixed = f"; {counts['corrected']} labels corrected by the teachers" if counts["corrected"] else ""
    return f"{counts['rows']} battles, {counts['unlabelled']} unlabelled left out{fixed}; cut to {total} tokens: {cut}"


def _base_model(name: str, model_config: JudgeModelConfig, config: JudgeConfig):
    if is_adapter(name):
        raise InputError(f"{name} is an adapter; put it into its base first: sft-judge merge {name} --output DIR.")
    options = {"attn_implementation": model_config.attn_implementation} if model_config.attn_implementation else {}
    if _zero_stage(config) == 3 and (model_config.load_in_8bit or model_config.load_in_4bit):
        raise InputError(
            "ZeRO-3 divides weights, which quantised ones do not bear: with 8 bits the loss is ten times too high "
            "(bitsandbytes#1451). Take recipes/accelerate/zero2.yaml, or leave out load_in_8bit and load_in_4bit."
        )
    quantization = get_quantization_config(model_config)
    if quantization is not None:
        options["quantization_config"] = quantization
    model = load_model(name, model_config.dtype, **options)
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions and config.total_budget > positions:
        raise InputError(f"total_budget is {config.total_budget}, but {name} has {positions} positions.")
    for module in beside_text(model).values():  # it would get no gradient, which DDP waits for
        module.requires_grad_(False)
    return model.train()


def _quantized(model) -> dict:
    """How bitsandbytes quantised the base when it was loaded, if so: the adapter stands on those weights."""
    config = getattr(model.config, "quantization_config", None)
    if not isinstance(config, BitsAndBytesConfig):
        return {}
    bits, prefix = (4, "bnb_4bit_") if config.load_in_4bit else (8, "llm_int8_")
    settings = config.to_dict().items()
    kept = {name: value for name, value in settings if name == f"load_in_{bits}bit" or name.startswith(prefix)}
    dtype = str(model.get_input_embeddings().weight.dtype).removeprefix("torch.")
    return {f"loaded_in_{bits}bit": {"dtype": dtype, "quantization_config": kept}}


def _resolved(config: JudgeConfig) -> dict:
    """The judge's own settings and those of the optimiser, as plain values."""
    own = JudgeConfig.__annotations__
    optimiser = ("learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "num_train_epochs", "max_steps")
    batch = ("per_device_train_batch_size", "gradient_accumulation_steps", "max_grad_norm", "optim")
    return _plain({name: getattr(config, name) for name in (*own, *optimiser, *batch)})


def _plain(values: dict) -> dict:
    return json.loads(json.dumps(values, default=str))


def _folds(rows: pa.Table) -> list[int]:
    return sorted(set(pc.unique(rows["fold"]).to_pylist()) - {None}) if "fold" in rows.column_names else []


def _folds_of_base(model: str, battles: Path) -> list[int]:
    """Folds that the base has already learnt from, where it was trained on these very battles."""
    if not (Path(model) / FILE).is_file():
        return []
    seen = read_spec(model).training
    return seen.get("folds_seen", []) if seen.get("battles_sha256") == content_hash(battles) else []


def _final_evaluation(trainer: JudgeTrainer) -> dict:
    """The evaluation of the weights that are kept: the best one's where that was asked for, else the last."""
    logged = [entry for entry in trainer.state.log_history if any(key.startswith("eval_") for key in entry)]
    best = trainer.state.best_global_step if trainer.args.load_best_model_at_end else None
    kept = [entry for entry in logged if best in (None, entry["step"])]
    return {key: value for key, value in kept[-1].items() if key.startswith("eval_")} if kept else {}
