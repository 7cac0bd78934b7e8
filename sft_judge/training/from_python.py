"""
Prepare the arguments of `JudgeTrainer`: a model or its name, data sets, and settings, in TRL's forms.

The same functions check and prepare a recipe in train.py. A model given by its name is loaded last, after everything
else has been checked.
"""

from dataclasses import dataclass, fields
from pathlib import Path

from datasets import DatasetDict
from peft import PeftModel, PeftType
from transformers import PreTrainedModel, TrainingArguments

from sft_judge.core.errors import InputError
from sft_judge.core.model_files import weights_hash
from sft_judge.modeling.hub import model_folder
from sft_judge.modeling.loading import load_config, load_model, load_tokenizer
from sft_judge.training.base_model import freeze_beyond_text
from sft_judge.training.battle_datasets import battles_of
from sft_judge.training.config import JudgeConfig, JudgeModelConfig
from sft_judge.training.dataset import TrainingData
from sft_judge.training.preparation import EVAL, choose_rows, prepare_data, read_rows
from sft_judge.training.run_checks import check_evaluation, check_run, check_settings_here
from sft_judge.training.summary import announce_data
from sft_judge.training.tokenizer import set_tokens


@dataclass(frozen=True)
class StartingPoint:
    """
    Describe the model that a training starts from.

    Attributes:
        name: name as the user gave it.
        folder: folder of the model's files; None for a model that was created in memory.
        commit: commit on the Hub, or None for a local model.
        weights: hash of the weights; None without a folder.
    """

    name: str
    folder: str | None = None
    commit: str | None = None
    weights: str | None = None


def locate(name: str, revision: str | None = None, gguf_file: str | None = None) -> StartingPoint:
    """
    Find a model's files as `model_folder` does, and hash its weights.

    Args:
        name: folder or Hub id.
        revision: branch, tag or commit on the Hub.
        gguf_file: GGUF file in the folder or repository.

    Raises:
        InputError: the model is not found.
    """
    folder, commit = model_folder(name, revision, gguf_file)
    return StartingPoint(name, folder, commit, weights_hash(folder))


def locate_loaded(model: PreTrainedModel | PeftModel) -> StartingPoint:
    """Find the files of a model in memory from the name and commit that transformers stored in its configuration."""
    config = (model.get_base_model() if isinstance(model, PeftModel) else model).config
    name, commit = str(config._name_or_path or ""), getattr(config, "_commit_hash", None)
    is_folder = bool(name) and Path(name).is_dir()
    if is_folder or commit:
        return locate(name, None if is_folder else commit)
    return StartingPoint(name or type(model).__name__)


def check_push(config: JudgeConfig, start: StartingPoint, is_adapter: bool) -> None:
    """
    Raise `InputError` if the judge would be pushed as an adapter whose base is a local folder, which nobody else has.

    Args:
        config: settings of the training.
        start: the base model.
        is_adapter: True if an adapter is trained.
    """
    if config.push_to_hub and is_adapter and not start.commit:
        raise InputError(
            f"push_to_hub is set for an adapter on {start.name}, a local folder that nobody else has. "
            "Name the base by its Hub id, or merge the judge and push the result: sft-judge merge, sft-judge push."
        )


def prepare_run(
    model, args, train_dataset, eval_dataset, processing_class, peft_config, quantization_config, teacher_labels
) -> tuple[PreTrainedModel, JudgeConfig, object, TrainingData, StartingPoint]:
    """
    Check and prepare the arguments of `JudgeTrainer`, which documents them.

    Args:
        model: see `JudgeTrainer`, as are the other arguments.

    Returns:
        The model, the settings, the tokenizer, the data, and where the model is from.

    Raises:
        InputError: arguments do not fit together, or a column or file is invalid.
        GateError: a teacher's labels are not proven out of fold.
    """
    by_name = isinstance(model, str | Path)
    config = settings_of(args, str(model) if by_name else type(model).__name__)
    options = dict(config.model_init_kwargs or {}) if by_name else {}
    place = options.pop("revision", None), options.pop("gguf_file", None)
    start = locate(str(model), *place) if by_name else locate_loaded(model)
    if start.folder is None and (peft_config is not None or isinstance(model, PeftModel)):
        raise InputError(
            f"{start.name} was created in memory, but an adapter's base must be a folder or a Hub id: save it first."
        )
    if peft_config is not None and peft_config.peft_type != PeftType.LORA:
        raise InputError(
            f"peft_config is {peft_config.peft_type.value}, but merge and vLLM support LoRA only: use LoraConfig."
        )
    check_push(config, start, peft_config is not None or isinstance(model, PeftModel))
    tokenizer = _tokenizer(processing_class, start)
    set_tokens(tokenizer, config)
    train_rows, eval_rows = _battles(config, train_dataset, eval_dataset)
    check_evaluation(config, bool(eval_rows))
    dtype, attention = _option_text(options, "dtype", "float32"), options.pop("attn_implementation", None)
    if by_name:
        kernels = bool(options.get("use_kernels"))
        check_run(
            config,
            JudgeModelConfig(start.folder, dtype=dtype, attn_implementation=attention, use_kernels=kernels),
        )
    else:
        check_settings_here(config)
    known = load_config(start.folder) if by_name else model.config
    vocabulary = known.get_text_config().vocab_size
    data = prepare_data(config, tokenizer, vocabulary, train_rows, eval_rows, teacher_labels)
    announce_data(config, data)
    if by_name:
        options |= {} if quantization_config is None else {"quantization_config": quantization_config}
        options |= {"attn_implementation": attention} if attention else {}
        model = freeze_beyond_text(load_model(start.folder, dtype, **options)).train()
    return model, config, tokenizer, data, start


def settings_of(args, name: str) -> JudgeConfig:
    """
    Convert `args` to a `JudgeConfig`.

    Args:
        args: a `JudgeConfig`, another `TrainingArguments` such as an `SFTConfig`, or None for the defaults.
        name: name of the model, from which the default `output_dir` is made.

    Raises:
        InputError: `args` is of another type.
    """
    if args is None:
        return JudgeConfig(output_dir=f"{Path(name).name}-judge")
    if isinstance(args, JudgeConfig):
        return args
    if not isinstance(args, TrainingArguments):
        raise InputError(f"args is a {type(args).__name__}, expected a JudgeConfig.")
    plain = type(args)(output_dir=args.output_dir, use_cpu=args.use_cpu)
    known = {item.name for item in fields(JudgeConfig) if item.init}
    given = {item.name: getattr(args, item.name) for item in fields(args) if item.init and item.name in known}
    changed = {name: value for name, value in given.items() if value != getattr(plain, name)}
    return JudgeConfig(**{"output_dir": args.output_dir, **changed})


def _tokenizer(processing_class, start: StartingPoint):
    if processing_class is not None:
        return getattr(processing_class, "tokenizer", processing_class)  # a processor has a tokenizer
    if start.folder is None:
        raise InputError(f"{start.name} was created in memory, so its tokenizer is unknown; give processing_class.")
    return load_tokenizer(start.folder)


def _option_text(options: dict, name: str, default: str) -> str:
    """Return an option of `model_init_kwargs`, text or a torch dtype, as text."""
    return str(options.pop(name, default)).removeprefix("torch.")


def _battles(config: JudgeConfig, train_dataset, eval_dataset) -> tuple:
    """Return the table of battles to train on, and the tables to evaluate on by name."""
    if train_dataset is None and not (config.battles or config.dataset_name):
        raise InputError(
            "There is nothing to train on: give train_dataset, or battles or dataset_name in the JudgeConfig."
        )
    if train_dataset is None:
        train_rows, held = read_rows(config)
    else:
        table = battles_of(train_dataset, "train_dataset", config.seed).slice(0, config.limit)
        train_rows, held = choose_rows(config, table)
    if eval_dataset is None:
        return train_rows, {} if held is None else {EVAL: held}
    named = eval_dataset if isinstance(eval_dataset, dict | DatasetDict) else {EVAL: eval_dataset}
    return train_rows, {name: battles_of(each, f"eval_dataset {name}", config.seed) for name, each in named.items()}
