"""
Settings of a recipe, parsed by TRL's parser. Each field has one description, and defaults are defined here only.

`JudgeConfig` is TRL's SFTConfig with the judge's own settings. `JudgeModelConfig` is TRL's ModelConfig with the LoRA
settings of the WSDM Cup 3rd-place write-up as defaults.
"""

import copy
import re
from dataclasses import dataclass, field, fields
from pathlib import Path

from trl import ModelConfig, SFTConfig

from sft_judge.core.choices import DTYPES
from sft_judge.core.errors import InputError, nearest
from sft_judge.modeling.judge_spec import Budget
from sft_judge.training.machine_defaults import DEFAULTS, prepare_launch
from sft_judge.training.settings_checks import check_combinations, check_deepspeed, check_settings
from sft_judge.training.settings_table import DEFAULT_TEMPLATE, GREATER_IS_BETTER, LARGEST_VALUE, MODEL, TRAINING

CHOICES = {
    "swap": ("both", "random", "none"),
    "battle_order": ("balanced", "by_length", "random"),
    "on_collapse": ("stop", "warn"),
    "distill_kind": ("kl", "cosine", "both"),
    "teacher_ties": ("drop", "split"),
    "on_spike": ("none", "skip", "stop"),
    "ddp_backend": tuple(SFTConfig.__dataclass_fields__["ddp_backend"].metadata["choices"]),
    "include_num_input_tokens_seen": ("no", "all", "non_padding", True, False),
    "metric_for_best_model": tuple(GREATER_IS_BETTER),
}
MODEL_CHOICES = {
    "dtype": DTYPES,
    "bnb_4bit_quant_storage": ("float16", "float32", "bfloat16", "float64", "uint8", "int8"),
}
LORA_INITS = ("default", "pissa", "olora", "gaussian", "orthogonal")


def _help(text: str, default=None, **options):
    return field(**(options or {"default": default}), metadata={"help": text})


@dataclass
class JudgeModelConfig(ModelConfig):
    """
    Store the settings of the base model and its adapter: TRL's ModelConfig with other defaults.

    The LoRA defaults are r 64, alpha 32 and dropout 0.05 on all linear layers except the LM head.
    """

    lora_r: int = _help("rank of the LoRA matrices", 64)
    lora_alpha: int = _help("LoRA alpha; the update is scaled by alpha / r", 32)
    lora_target_modules: list[str] | None = field(
        default_factory=lambda: ["all_linear"],
        metadata={"help": "names of the modules to adapt, or all_linear (all but the LM head), qkv or qkvog"},
    )
    lora_init: str = _help(
        "initialisation of the adapter: default, pissa, pissa_niter_16, olora, gaussian or orthogonal, as in PEFT",
        "default",
    )
    gguf_file: str | None = _help("GGUF file to load from the Hub id or folder, as in from_pretrained")
    use_kernels: bool = _help("replace layers by kernels from the Hub; needs the package kernels and a GPU", False)
    dtype: str | None = _help("dtype of the weights: float32, bfloat16, float16 or auto (the checkpoint's)", "float32")

    def __post_init__(self):
        check_settings(self, MODEL, MODEL_CHOICES)
        if self.lora_init not in LORA_INITS and not re.fullmatch(r"pissa_niter_\d{1,4}", self.lora_init):
            known = ", ".join(LORA_INITS)
            raise InputError(
                f"lora_init is {self.lora_init!r}, expected {known} or pissa_niter_N."
                + nearest(self.lora_init, LORA_INITS)
            )
        super().__post_init__()


@dataclass
class JudgeConfig(SFTConfig):
    """Store the settings of a training: TRL's SFTConfig with the settings that make the trained model a judge."""

    _VALID_DICT_FIELDS = [*SFTConfig._VALID_DICT_FIELDS, "mix"]  # JSON on the command line

    battles: list[str] | None = _help("battles to train on: files (Parquet or JSONL) or Hub ids")
    dataset_name: str | None = _help("data set to train on, a Hub id or a folder, as in TRL's trainers")
    dataset_config: str | None = _help("configuration of dataset_name")
    dataset_train_split: str = _help("split of dataset_name to train on", "train")
    dataset_test_split: str = _help(
        "split of dataset_name to evaluate on, if eval_strategy is set and fold is not", "test"
    )
    dataset_revision: str | None = _help("branch, tag or commit of dataset_name")
    fold: int | None = _help("fold to hold out of training and to evaluate on")
    holdout_fold: int | None = _help("fold to hold out of training and evaluation, e.g. for calibration")
    labels: list[str] | None = _help(
        "probs files of the teachers, predicted out of fold: one distribution for each battle and order"
    )
    distill_weight: list[float] = _help(
        "weight of the distillation loss, split evenly over the teachers, or one weight for each teacher; the rest "
        "of 1 is the weight of the hard loss",
        default_factory=lambda: [0.9],
    )
    distill_temperature: list[float] = _help(
        "temperature that softens teacher and student, one for all teachers or one for each",
        default_factory=lambda: [5.0],
    )
    distill_kind: str = _help(
        "distillation loss: kl, cosine (1 - cosine similarity of the distributions) or both (their mean)", "kl"
    )
    distill_confidence: bool = _help("weight a teacher's label by its confidence (1 - normalised entropy)", False)
    teacher_ties: str = _help("drop or split a teacher's tie if the student has two verdicts", "drop")
    correct_above: float = _help(
        "replace a label if the teachers give another verdict more than this probability; 1 never replaces a label",
        1.0,
    )
    rdrop_weight: float = _help(
        "weight of R-Drop: the symmetric KL between two passes with different dropout masks", 0.0
    )
    prompt_template: str = _help("name of a template in prompts/, or a template file", DEFAULT_TEMPLATE)
    num_verdicts: int | None = _help("number of verdicts, 2 or 3; by default 3 if any label is a tie or partly a tie")
    verdict_words: list[str] | None = _help("answer words, one token each; by default A, B and tie (or C)")
    prompt_budget: int = _help(
        "maximum number of tokens of the prompt; the middle of longer turns is cut", Budget.prompt
    )
    response_budget: int = _help(
        "maximum number of tokens of each response; the middle of longer turns is cut", Budget.response
    )
    total_budget: int = _help(
        "maximum number of tokens of the whole sequence with its verdict; beyond it the longest texts are cut too",
        Budget.total,
    )
    show_language: bool = _help("show the prompt's language to the judge", False)
    margin_scale: float = _help("factor of a battle's `margin`, subtracted from the preferred verdict's logit", 0.0)
    agreement_weight: float = _help("weight of the symmetric KL between a battle's two orders", 0.0)
    full_vocab_weight: float = _help("weight of -log of the probability mass on the verdict tokens", 0.0)
    on_collapse: str = _help("stop or warn if the judge is not better than the class frequencies", "stop")
    collapse_after: int = _help(
        "step from which battles count for the check for a collapse, which needs a thousand of them", 300
    )
    on_spike: str = _help("none, skip or stop if a micro-batch's loss is far above the running mean", "none")
    spike_factor: float = _help("ratio to the running mean above which a loss is a spike", 4.0)
    swap: str = _help(
        "orders to train a battle in: both (in one step), random (one of them) or none (the order of the file)", "both"
    )
    mix: dict | str | None = _help(
        "sampling rate of each source, e.g. {arena: 1, synthetic: 0.25}; by default every battle once"
    )
    battle_order: str = _help(
        "order of the battles: balanced (every stretch has all verdicts and sources), by_length (batches of similar "
        "lengths, balanced over every 200 batches) or random",
        "balanced",
    )
    token_budget: int | None = _help(
        "maximum number of tokens in a padding_free micro-batch, whose number of battles then varies; for flash "
        "attention"
    )
    last_layer_at_answer: bool = _help(
        "compute the last layer's query and MLP at the answer positions only: exact, and faster", False
    )
    ema_decay: float = _help("decay of a moving average of the trained weights, such as 0.99; 0 is off", 0.0)
    limit: int | None = _help("use only the first N battles, for a quick try")
    data_license: str | None = _help("licence of the battles for the model card, in the Hub's spelling: cc-by-4.0")
    allow_in_sample: bool = _help("train on teacher labels that are not proven out of fold", False)
    external_teacher: bool = _help(
        "accept labels without metadata, from a judge that you know was not trained on these battles; the card "
        "says so",
        False,
    )

    # SFTTrainer drops the rows that it would truncate, so prompts/ fits each row to the budget beforehand.
    max_length: int | None = _help("must stay unset: total_budget sets the length")
    report_to: None | str | list[str] = _help("trackers to report to, as in TRL", "none")

    # Defaults that depend on the machine; a recipe may set each of them.
    bf16: bool | None = _help("bfloat16 mixed precision; by default on a GPU", default_factory=DEFAULTS["bf16"])
    disable_tqdm: bool | None = _help(
        "log lines instead of a progress bar; by default if the output is not a terminal",
        default_factory=DEFAULTS["disable_tqdm"],
    )
    ddp_backend: str | None = _help("DDP backend; by default gloo on CPUs", default_factory=DEFAULTS["ddp_backend"])
    use_cpu: bool = _help("train on the CPU; by default if there is no GPU", default_factory=DEFAULTS["use_cpu"])
    dataloader_pin_memory: bool = _help(
        "pin batches in memory; by default on a GPU", default_factory=DEFAULTS["dataloader_pin_memory"]
    )

    def __post_init__(self):
        prepare_launch()
        check_settings(self, TRAINING, CHOICES)
        if self.max_steps == 0 or self.max_steps < -1:
            raise InputError(f"max_steps is {self.max_steps}, expected 1 or more, or -1 to use num_train_epochs.")
        check_combinations(self)
        self._check_teachers()
        if self.ema_decay and self.load_best_model_at_end:
            raise InputError("ema_decay and load_best_model_at_end each choose the final weights; remove one of them.")
        if self.use_liger_kernel:  # Liger's fused loss is over the vocabulary; our loss never computes those logits
            off = {"fused_linear_cross_entropy": False, "cross_entropy": False}
            self.liger_kernel_config = {**(self.liger_kernel_config or {}), **off}
        self.dataset_kwargs = {**(self.dataset_kwargs or {}), "skip_prepare_dataset": True}
        if self.metric_for_best_model and self.greater_is_better is None:  # TRL decides by the end of the name
            self.greater_is_better = GREATER_IS_BETTER[self.metric_for_best_model]
        super().__post_init__()
        check_deepspeed(self)
        if not isinstance(self.mix, dict | None):
            raise InputError(
                f"mix is {self.mix!r}, expected a rate for each source, such as {{arena: 1, synthetic: 0.25}}."
            )
        for name, rate in (self.mix or {}).items():
            if not isinstance(rate, int | float) or not 0 <= rate <= LARGEST_VALUE:
                raise InputError(f"mix gives {name} the rate {rate!r}, expected a number from 0 to {LARGEST_VALUE:g}.")

    def _check_teachers(self) -> None:
        """
        Check that there is one weight and temperature, or one for each file of labels. A single value becomes a list.
        """
        for name in ("labels", "distill_weight", "distill_temperature"):
            value = getattr(self, name)
            setattr(self, name, value if isinstance(value, list | None) else [value])
        count = len(self.labels or [None])
        for name, low, high in (("distill_weight", 0, 1), ("distill_temperature", 0.01, 1000)):
            values = getattr(self, name)
            if len(values) not in (1, count):
                raise InputError(
                    f"{name} has {len(values)} values for {count} files of labels; give one, or one for each file."
                )
            for value in values:
                if not low <= value <= high:
                    raise InputError(f"{name} is {value}, expected {low} to {high}.")
        if sum(self.teacher_weights) > 1 + 1e-9:
            raise InputError(f"distill_weight adds up to {sum(self.teacher_weights):g}, expected at most 1.")

    @property
    def teacher_weights(self) -> list[float]:
        """Return the weight of each teacher in the loss."""
        count = len(self.labels or [None])
        return [self.distill_weight[0] / count] * count if len(self.distill_weight) == 1 else self.distill_weight

    @property
    def teacher_temperatures(self) -> list[float]:
        """Return the temperature of each teacher."""
        count = len(self.labels or [None])
        return self.distill_temperature * (count if len(self.distill_temperature) == 1 else 1)

    def with_changes(self, **changes) -> "JudgeConfig":
        """Return a copy with other values. `dataclasses.replace` would initialise DeepSpeed a second time."""
        other = copy.copy(self)
        for name, value in changes.items():
            setattr(other, name, value)
        return other

    @property
    def battles_file(self) -> Path | None:
        """
        Return the battles file if training uses exactly one, else None. Labels and folds are proven against this file.
        """
        names = [] if self.dataset_name else self.battles or []
        return Path(names[0]) if len(names) == 1 and Path(names[0]).is_file() else None

    @property
    def budget(self) -> Budget:
        """Return the three token budgets as a `Budget`."""
        return Budget(self.prompt_budget, self.response_budget, self.total_budget)


def check_keys(keys) -> None:
    """Raise `InputError` for a recipe or command-line key that is not a field, and name the nearest field."""
    names = {item.name for config in (JudgeConfig, JudgeModelConfig) for item in fields(config) if item.init}
    for key in keys:
        if key not in names:
            raise InputError(f"Unknown key {key!r} in the recipe or on the command line.{nearest(str(key), names)}")
