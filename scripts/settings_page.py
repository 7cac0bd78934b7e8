"""
Write docs/reference/settings.md, the table of all settings, and the list of settings in `sft-judge train --help`.

    python scripts/settings_page.py

Both are made from training/settings_table.py and config.py. The help prints a file, so that it imports nothing heavy.
"""

import textwrap
from dataclasses import MISSING, Field, fields
from enum import Enum
from fnmatch import fnmatch
from pathlib import Path
from types import NoneType
from typing import get_args

from sft_judge.training.config import CHOICES, MODEL_CHOICES, JudgeConfig, JudgeModelConfig
from sft_judge.training.machine_defaults import DEFAULTS
from sft_judge.training.settings_checks import enum_values, hints_of
from sft_judge.training.settings_table import MODEL, OWN, REFUSED, TRAINING, USED, Setting

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reference" / "settings.md"
HELP = ROOT / "sft_judge" / "training" / "settings_help.txt"
GROUPS = {  # of the help: keys or patterns; a key is in the group with its own name, else in the first that matches
    "data": "battles dataset_name dataset_* fold holdout_fold limit mix battle_order train_sampling_strategy "
    "data_seed token_budget",
    "judge": "prompt_template *_budget show_language num_verdicts verdict_words swap margin_scale agreement_weight "
    "full_vocab_weight chat_template_path eos_token pad_token",
    "distillation": "labels distill_* teacher_ties correct_above allow_in_sample external_teacher rdrop_weight",
    "guards": "on_collapse collapse_after on_spike spike_factor logging_nan_inf_filter",
    "model and adapter": "model_* gguf_file dtype attn_implementation use_peft lora_* use_rslora use_dora load_in_* "
    "*bnb_* router_aux_loss_coef last_layer_at_answer use_kernels",
    "optimisation": "learning_rate lr_* warmup_steps num_train_epochs max_steps per_device_train_batch_size "
    "gradient_accumulation_steps padding_free pad_to_multiple_of optim optim_* weight_decay adam_* max_grad_norm "
    "label_smoothing_factor ema_decay average_tokens_across_devices neftune_noise_alpha seed full_determinism bf16 "
    "fp16 tf32 gradient_checkpointing* activation_offloading torch_* *liger*",
    "evaluation": "eval_* per_device_eval_batch_size load_best_model_at_end metric_for_best_model greater_is_better",
    "saving and logging": "output_dir save_* logging_* log_* disable_tqdm report_to run_name project "
    "trackio_* include_*",
    "hub": "push_to_hub hub_* data_license",
    "machine and processes": "use_cpu ddp_* deepspeed local_rank dataloader_*",
}
INTRODUCTION = """\
settings: keys of a recipe, or --key VALUE here, with their defaults. A switch needs no value, a list takes
several. docs/reference/settings.md lists the keys of TRL that are refused, and why.
"""
IN_PYTHON_ALONE = ("model_init_kwargs",)
LONGEST_CHOICES = 60  # characters
_KINDS = {int: "N", float: "X", str: "TEXT", dict: "JSON"}
TITLE = """# Settings of a training

A setting is a field of `JudgeConfig` or `JudgeModelConfig` in Python, a key in a recipe, and `--key value` on the
command line. Defaults are TRL's unless the judge needs others.

*Handling* tells how a setting is treated. **Used**: by sft_judge itself. **Passed on**: to TRL, transformers or PEFT,
see their documentation. **Refused**: any value but the default is an error, before anything is loaded. A setting that
has no effect because another setting is missing is named when a run starts.

Made by `python scripts/settings_page.py`.
"""


def page() -> str:
    """Return the page's text: the judge's own settings, then TRL's."""
    own = [_line(item, Setting(USED), kind) for kind in (JudgeConfig, JudgeModelConfig) for item in _own(kind)]
    parts = [TITLE, "## The judge's own\n", _table(own)]
    for title, table, kind in (("SFTConfig", TRAINING, JudgeConfig), ("ModelConfig", MODEL, JudgeModelConfig)):
        known = {item.name: item for item in fields(kind)}
        lines = [_line(known[name], setting, kind) for name, setting in table.items()]
        parts += [f"## TRL's {title}\n", _table(lines)]
    return "\n".join(parts)


def help_text() -> str:
    """Return the keys that are not refused, by group, each with its values, its meaning and its default."""
    entries = {}
    for kind, table in ((JudgeConfig, TRAINING), (JudgeModelConfig, MODEL)):
        for item in fields(kind):
            setting, hint = table.get(item.name, OWN.get(item.name)), hints_of(kind)[item.name]
            if item.name in IN_PYTHON_ALONE or (setting and setting.handling == REFUSED):
                continue
            choices = (CHOICES | MODEL_CHOICES).get(item.name) or item.metadata.get("choices") or enum_values(hint)
            entries[item.name] = _entry(item, _values(hint, choices), setting, kind)
    groups = {title: [] for title in GROUPS}
    for name, entry in sorted(entries.items(), key=lambda pair: _place(pair[0])):
        groups[_place(name)[0]].append(entry)
    return INTRODUCTION + "".join(f"\n{title}:\n{''.join(lines)}" for title, lines in groups.items())


def _place(name: str) -> tuple[str, int]:
    """Return the group of a key and its position in the group, by GROUPS."""
    places = [
        (name == pattern, title, place)
        for title, patterns in GROUPS.items()
        for place, pattern in enumerate(patterns.split())
        if fnmatch(name, pattern)
    ]
    _, title, place = max(places, key=lambda found: found[0])  # its own name is preferred to a pattern
    return title, place


def _entry(item: Field, values: str, setting: Setting | None, kind: type) -> str:
    default = _default(item)
    text = _meaning(item, setting, kind) + (f" ({default})" if default and item.name not in DEFAULTS else "")
    lines = textwrap.wrap(text, 94, break_long_words=False, break_on_hyphens=False)
    return f"  --{item.name} {values}".rstrip() + "\n" + "".join(f"      {line}\n" for line in lines)


def _meaning(item: Field, setting: Setting | None, kind: type) -> str:
    """Return what a setting means: our words, or the first sentence of TRL's help and our remark."""
    help_, remark = item.metadata["help"], setting.remark if setting else ""
    if item.name in kind.__annotations__:  # a description of ours
        remark = ""
    else:
        first = " ".join(help_.split()).split(". ")[0].rstrip(".")
        help_ = "" if remark and setting.handling == USED else first
    needs = f"with {setting.needs}" if setting and setting.needs else ""
    return "; ".join(filter(None, (help_, remark, needs)))


def _default(item: Field) -> str:
    """Return a default as it is written on the command line; nothing for None and the empty text."""
    default = item.default_factory() if item.default is MISSING else item.default
    default = default.value if isinstance(default, Enum) else default
    shown = " ".join(map(str, default)) if isinstance(default, list) else str(default).lower()
    return "" if default in (None, "") else shown


def _values(hint, choices: tuple | None) -> str:
    """Return the values of a key: choices, a number, text, or a list; empty for a switch."""
    shown = "|".join(dict.fromkeys(str(choice).lower() for choice in choices or () if "eval_" not in str(choice)))
    if 0 < len(shown) <= LONGEST_CHOICES:
        return shown
    kinds = [part for part in (get_args(hint) or (hint,)) if part is not NoneType]
    if bool in kinds:
        return ""
    if str not in kinds and any(getattr(part, "__origin__", part) is list for part in [hint, *kinds]):
        return "TEXT ..." if "str" in str(hint) else "X ..."
    return next((_KINDS[kind] for kind in (dict, float, int) if kind in kinds or kind is hint), "TEXT")


def _own(kind: type) -> list[Field]:
    """Return the settings that TRL does not have."""
    return [item for item in fields(kind) if item.name in {*kind.__annotations__} - {*TRAINING, *MODEL}]


def _table(lines: list[str]) -> str:
    return "\n".join(["| setting | default | meaning | handling |", "| --- | --- | --- | --- |", *lines, ""])


def _line(item: Field, setting: Setting, kind: type) -> str:
    default = "by machine" if item.name in DEFAULTS else _default(item)
    meaning = _meaning(item, setting, kind)
    if setting.handling == REFUSED and setting.allowed:
        meaning += f" (allowed: {', '.join(repr(value) for value in setting.allowed)})"
    cells = (f"`{item.name}`", f"`{default}`" if default else "", meaning, setting.handling)
    return "| " + " | ".join(_escaped(cell.replace("|", " or ")) for cell in cells) + " |"


def _escaped(text: str) -> str:
    """Escape `<`, except in code between backticks, which Markdown shows as it is."""
    parts = text.split("`")
    return "`".join(part if place % 2 else part.replace("<", "&lt;") for place, part in enumerate(parts))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    HELP.write_text(help_text(), encoding="utf-8")
