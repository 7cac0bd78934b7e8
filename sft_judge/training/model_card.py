"""README.md of a judge's folder, as the hub shows it: what it is, what it measures, what it was trained on."""

from collections import Counter
from importlib.resources import files
from pathlib import Path

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from sft_judge.core.model_files import is_adapter, is_local
from sft_judge.modeling.hub_card import CARD, snippet
from sft_judge.modeling.judge_spec import JudgeSpec
from sft_judge.modeling.loading import is_classifier
from sft_judge.modeling.temperature_scaling import describe_calibration
from sft_judge.training.config import JudgeConfig

FIGURES = {"log_loss": "log loss, nats", "accuracy": "accuracy", "swap_agreement": "agreement under swap"}
PHRASE = {2: "A or B", 3: "A, B or neither"}


def write_card(folder: Path, name: str, spec: JudgeSpec, config: JudgeConfig, sources: list[str | None]) -> None:
    """Write the card of a judge trained as `spec.training` says; `sources` [N] are those of its battles."""
    counted = Counter(str(source) for source in sources if source)
    text = _render(
        folder,
        name,
        spec,
        "text-generation",  # the form of its weights: `pipeline` of any other tag draws a head at random
        data_license=config.data_license,
        fold=config.fold,
        sources=[(_cell(source), count) for source, count in sorted(counted.items())],
        allow_in_sample=bool(config.labels) and config.allow_in_sample,
        external_teacher=bool(config.labels) and config.external_teacher,
    )
    (folder / CARD).write_text(text, encoding="utf-8")


def card_of(folder: Path, name: str, spec: JudgeSpec) -> str:
    """The card of a judge that has none, a merged one say, by its judge.json alone."""
    recipe = spec.training.get("recipe") or {}
    tag = "text-classification" if is_classifier(str(folder)) else "text-generation"
    return _render(folder, name, spec, tag, recipe.get("data_license"), recipe.get("fold"))


def _render(
    folder: Path, name: str, spec: JudgeSpec, tag: str, data_license: str | None, fold: int | None, **facts
) -> str:
    training, merged = spec.training, len(spec.training.get("merged_from", []))
    base = training.get("base")
    is_on_hub = base is not None and not is_local(base)
    held_out = "the battles kept from training" if fold is None else f"fold {fold}"
    measured = merged < 2 and not training.get("quantized")  # else the figures are those of other weights
    figures = training.get("eval", {}) if measured else {}
    results = _eval_results(figures, held_out, spec.num_verdicts)
    metadata = ModelCardData(
        base_model=base if is_on_hub else None,  # the hub knows no local path
        library_name="peft" if is_adapter(folder) else "transformers",
        license=data_license,
        **({"model_name": name, "eval_results": results} if results else {}),
        pipeline_tag=tag,
        tags=["judge", "preference", "trl", "sft_judge"],
    )
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    template = files("sft_judge.training").joinpath("model_card.md.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        metadata=metadata.to_yaml(),
        name=name,
        snippet=snippet(name),
        base=base if is_on_hub or base is None else Path(base).name,  # the path is this machine's own
        verdicts=PHRASE[spec.num_verdicts],
        calibration=describe_calibration(spec.calibration) if spec.calibration else None,
        table=_table(figures),
        held_out=held_out,
        license=data_license or "not stated (data_license in the recipe)",
        merged=merged,
        quantized=(training.get("quantized") or {}).get("scheme"),
        **{key: training.get(key) for key in ("rows", "unlabelled", "steps", "status")},
        **facts,
    )


def _table(figures: dict) -> list[tuple[str, str, str]]:
    rows = []
    for name, label in FIGURES.items():
        if f"eval_{name}" in figures:
            ends = [figures.get(f"eval_{name}_{end}") for end in ("low", "high")]
            interval = "" if None in ends else f"[{ends[0]:.4f}, {ends[1]:.4f}]"
            rows.append((label, f"{figures[f'eval_{name}']:.4f}", interval))
    return rows


def _eval_results(figures: dict, held_out: str, num_verdicts: int) -> list[EvalResult]:
    """The figures of the table, for the card's model-index."""
    return [
        EvalResult(
            task_type="text-classification",
            task_name=f"preference between two answers, {num_verdicts} verdicts",
            dataset_type="battles",
            dataset_name=held_out,
            metric_type=name,
            metric_name=label,
            metric_value=figures[f"eval_{name}"],
        )
        for name, label in FIGURES.items()
        if f"eval_{name}" in figures
    ]


def _cell(text: str) -> str:
    """Text of a file as a cell of a table: no markup, one line."""
    return "".join(letter if letter.isalnum() or letter in " -_./" else " " for letter in text)[:80]
