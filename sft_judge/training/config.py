"""
What a recipe may say, read by TRL's parser. One field, one description; the only home of defaults.

`JudgeConfig` is TRL's SFTConfig and the judge's own settings; `JudgeModelConfig` is TRL's ModelConfig with the LoRA
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
    """TRL's ModelConfig: r 64, alpha 32, dropout 0.05 on all linear layers but the head."""

    lora_r: int = _help("rank of the adapters", 64)
    lora_alpha: int = _help("adapters are scaled by alpha / r", 32)
    lora_target_modules: list[str] | None = field(
        default_factory=lambda: ["all_linear"],
        metadata={"help": "modules with an adapter, by name, or all_linear (which spares the head), qkv or qkvog"},
    )
    lora_init: str = _help(
        "default, pissa, pissa_niter_16, olora, gaussian or orthogonal, as PEFT has them", "default"
    )
    gguf_file: str | None = _help("the GGUF file of the hub id or folder to take, as from_pretrained has it")
    use_kernels: bool = _help("layers by kernels of the hub; needs the package kernels and a GPU", False)
    dtype: str | None = _help("float32, bfloat16, float16 or auto (the checkpoint's own)", "auto")

    def __post_init__(self):
        check_settings(self, MODEL, MODEL_CHOICES)
        if self.lora_init not in LORA_INITS and not re.fullmatch(r"pissa_niter_\d{1,4}", self.lora_init):
            known = ", ".join(LORA_INITS)
            raise InputError(
                f"lora_init is {self.lora_init!r}, expected {known}.{nearest(self.lora_init, LORA_INITS)}"
            )
        super().__post_init__()


@dataclass
class JudgeConfig(SFTConfig):
    """TRL's SFTConfig and what makes the trained model a judge."""

    _VALID_DICT_FIELDS = [*SFTConfig._VALID_DICT_FIELDS, "mix"]  # JSON on the command line

    battles: list[str] | None = _help("battles to train on: files (Parquet or JSONL), or ids of the hub")
    dataset_name: str | None = _help("a data set to train on, of the hub or a folder, as TRL's trainers take it")
    dataset_config: str | None = _help("its configuration")
    dataset_train_split: str = _help("its split to train on", "train")
    dataset_test_split: str = _help(
        "its split to evaluate on, where eval_strategy asks for it and no fold is set", "test"
    )
    dataset_revision: str | None = _help("its branch, tag or commit")
    fold: int | None = _help("the fold left out of training and evaluated on")
    holdout_fold: int | None = _help("a fold this run must not see at all, kept for calibration")
    labels: list[str] | None = _help("probs files of the teachers, out of fold: soft labels by (id, order)")
    distill_weight: list[float] = _help(
        "the teachers' share of the loss, dealt out evenly, or each one's; the rest is the hard loss",
        default_factory=lambda: [0.9],
    )
    distill_temperature: list[float] = _help(
        "temperature that softens both teacher and student, of all teachers or of each", default_factory=lambda: [5.0]
    )
    distill_kind: str = _help("kl, cosine (one less the cosine of the distributions) or both, their mean", "kl")
    distill_confidence: bool = _help("weigh a teacher's label by how sure it is", False)
    teacher_ties: str = _help("what a student of two verdicts makes of a teacher's tie: drop or split", "drop")
    correct_above: float = _help("teachers surer than this of another verdict take the label's place; 1: never", 1.0)
    rdrop_weight: float = _help("weight of the symmetric KL between two passes with other dropout (R-Drop)", 0.0)
    prompt_template: str = _help("a name in prompts/ or a template file", DEFAULT_TEMPLATE)
    num_verdicts: int | None = _help(
        "2 or 3; by default 3 where a battle is a tie, or one has a share in its soft labels"
    )
    verdict_words: list[str] | None = _help("the answer words, one token each; by default A, B and tie (or C)")
    prompt_budget: int = _help("tokens allowed for the prompt", Budget.prompt)
    response_budget: int = _help("tokens allowed for each response", Budget.response)
    total_budget: int = _help("tokens allowed for the whole sequence with its verdict", Budget.total)
    show_language: bool = _help("tell the judge the prompt's language", False)
    margin_scale: float = _help("times a battle's `margin`, taken from the preferred verdict's logit", 0.0)
    agreement_weight: float = _help("weight of the symmetric KL between a battle's two orders", 0.0)
    full_vocab_weight: float = _help("weight of -log of the probability left to the verdicts", 0.0)
    on_collapse: str = _help("stop or warn, when the judge is no better than the class frequencies", "stop")
    collapse_after: int = _help("steps before that is looked at", 300)
    on_spike: str = _help("none, skip or stop, when a micro-batch's loss is far above the others'", "none")
    spike_factor: float = _help("a spike is this many times the running mean", 4.0)
    swap: str = _help("orders a battle is trained in: both (in one step), random (one of them) or none", "both")
    mix: dict | str | None = _help(
        "how often each source is shown, e.g. {arena: 1, synthetic: 0.25}; default: all once"
    )
    battle_order: str = _help(
        "balanced (each stretch has all verdicts and sources), by_length (so in every 200 batches) or random",
        "balanced",
    )
    token_budget: int | None = _help(
        "most tokens in a padding_free micro-batch, whose number of battles then varies; for flash attention"
    )
    last_layer_at_answer: bool = _help(
        "the last layer's query and MLP for the answers alone: exact, and less work", False
    )
    ema_decay: float = _help("keep a moving average of the trained weights, such as 0.99; 0 is none", 0.0)
    limit: int | None = _help("only the first N battles, for a quick try")
    data_license: str | None = _help("licence of the battles, for the model card, as the hub spells it: cc-by-4.0")
    allow_in_sample: bool = _help("train on teacher labels that are not proven out of fold", False)
    external_teacher: bool = _help(
        "labels without metadata are of a judge that you know was not trained on these battles; the card says so",
        False,
    )

    # SFTTrainer would drop the rows it cuts; the prompts/ room fits the budget before.
    max_length: int | None = _help("must stay unset: the budget is fitted in prompts/")
    report_to: None | str | list[str] = _help("trackers, as TRL takes them", "none")

    # what is best on this machine, where nothing else is said
    bf16: bool | None = _help("bfloat16 mixed precision; by default on a GPU", default_factory=DEFAULTS["bf16"])
    disable_tqdm: bool | None = _help("lines, no bar; by default on a pipe", default_factory=DEFAULTS["disable_tqdm"])
    ddp_backend: str | None = _help("backend; by default gloo on CPUs", default_factory=DEFAULTS["ddp_backend"])
    use_cpu: bool = _help("train on the CPU; by default where there is no GPU", default_factory=DEFAULTS["use_cpu"])
    dataloader_pin_memory: bool = _help(
        "pin batches; by default on a GPU", default_factory=DEFAULTS["dataloader_pin_memory"]
    )

    def __post_init__(self):
        prepare_launch()
        check_settings(self, TRAINING, CHOICES)
        if self.max_steps == 0 or self.max_steps < -1:
            raise InputError(f"max_steps is {self.max_steps}, expected 1 or more, or -1 to go by num_train_epochs.")
        check_combinations(self)
        self._check_teachers()
        if self.ema_decay and self.load_best_model_at_end:
            raise InputError("ema_decay and load_best_model_at_end each choose the final weights; take one.")
        if self.use_liger_kernel:  # its fused loss is over the vocabulary, which ours never builds
            off = {"fused_linear_cross_entropy": False, "cross_entropy": False}
            self.liger_kernel_config = {**(self.liger_kernel_config or {}), **off}
        self.dataset_kwargs = {**(self.dataset_kwargs or {}), "skip_prepare_dataset": True}
        if self.metric_for_best_model and self.greater_is_better is None:  # TRL goes by the name's ending
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
        """Check that there is one weight and temperature, or one a file of labels. A single value is a list of one."""
        for name in ("labels", "distill_weight", "distill_temperature"):
            value = getattr(self, name)
            setattr(self, name, value if isinstance(value, list | None) else [value])
        count = len(self.labels or [None])
        for name, low, high in (("distill_weight", 0, 1), ("distill_temperature", 0.01, 1000)):
            values = getattr(self, name)
            if len(values) not in (1, count):
                raise InputError(
                    f"{name} has {len(values)} values for {count} files of labels; give one, or one each."
                )
            for value in values:
                if not low <= value <= high:
                    raise InputError(f"{name} is {value}, expected {low} to {high}.")
        if sum(self.teacher_weights) > 1 + 1e-9:
            raise InputError(f"distill_weight adds up to {sum(self.teacher_weights):g}, expected at most 1.")

    @property
    def teacher_weights(self) -> list[float]:
        """The share of the loss of each teacher."""
        count = len(self.labels or [None])
        return [self.distill_weight[0] / count] * count if len(self.distill_weight) == 1 else self.distill_weight

    @property
    def teacher_temperatures(self) -> list[float]:
        """The temperature of each teacher's distribution."""
        count = len(self.labels or [None])
        return self.distill_temperature * (count if len(self.distill_temperature) == 1 else 1)

    def with_changes(self, **changes) -> "JudgeConfig":
        """Return a copy with other values; `dataclasses.replace` would start DeepSpeed a second time."""
        other = copy.copy(self)
        for name, value in changes.items():
            setattr(other, name, value)
        return other

    @property
    def battles_file(self) -> Path | None:
        """The one file of battles that is trained on, by which labels and folds are proven; None of anything else."""
        names = [] if self.dataset_name else self.battles or []
        return Path(names[0]) if len(names) == 1 and Path(names[0]).is_file() else None

    @property
    def budget(self) -> Budget:
        return Budget(self.prompt_budget, self.response_budget, self.total_budget)


def check_keys(keys) -> None:
    """Raise `InputError` for a recipe or command-line key that is no field, naming the nearest one."""
    names = {item.name for config in (JudgeConfig, JudgeModelConfig) for item in fields(config) if item.init}
    for key in keys:
        if key not in names:
            raise InputError(f"Unknown key {key!r} in the recipe or on the command line.{nearest(str(key), names)}")
